import copy
import io
import json

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.quantize.activation_ranges import percentile_of
from tersor.quantize.activations import quantize_activations_, remove_activation_quantizers_
from tersor.quantize.clipping import Pact
from tersor.quantize.fake_quantize import FakeQuantize
from tersor.quantize.structure import rebuild_, structure


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)
    )


def batches(count=3):
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 1, 8, 8, generator=draw), torch.zeros(8)) for _ in range(count)]


def test_each_layer_sees_its_input_on_a_grid_of_its_own():
    model, seen = network(), []
    report = quantize_activations_(model, batches(), bits={"0": 4, "4": 3}, range="minmax")
    model[4].register_forward_hook(lambda _, args, __: seen.append(args[0]))
    model(batches()[0][0])
    assert len(seen[0].unique()) <= 8
    assert seen[0].min() == 0  # behind a ReLU
    assert [(row["name"], row["bits"]) for row in report.rows] == [("0", 4), ("4", 3)]
    assert report.skipped["1.weight"].startswith("of BatchNorm2d")
    everything = torch.cat([inputs for inputs, _ in batches()])
    low, high = model[0].input_quantizer.range()
    assert low.item() == pytest.approx(
        everything.min().item(), abs=float(model[0].input_quantizer.scale)
    )
    assert high.item() == pytest.approx(
        everything.max().item(), abs=float(model[0].input_quantizer.scale)
    )


@pytest.mark.parametrize("method", ["fixed", "pact"])
def test_a_copy_and_a_file_are_the_same_network_and_weights_keep_their_names(method):
    model = network()
    names = list(model.state_dict())
    quantize_activations_(model, batches(), bits=3, method=method)
    added = {"scale", "zero_point"} if method == "fixed" else {"alpha"}
    new = [name for name in model.state_dict() if name not in names]
    assert set(new) == {f"{layer}.input_quantizer.{part}" for layer in "04" for part in added}
    model.eval()
    inputs = batches()[0][0]
    outputs = model(inputs)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(inputs), outputs)
    next(twin[4].input_quantizer.buffers() if method == "fixed" else twin[4].parameters()).data *= 0
    assert torch.equal(model(inputs), outputs)
    stream = io.BytesIO()
    torch.save(model.state_dict(), stream)
    stream.seek(0)
    again = network().eval()
    rebuild_(again, json.loads(json.dumps(structure(model))))
    again.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(again(inputs), outputs)
    assert remove_activation_quantizers_(again) == 2
    assert list(again.state_dict()) == names
    assert not again[0]._forward_pre_hooks
    plain = network().eval()
    plain.load_state_dict(again.state_dict())
    assert torch.equal(again(inputs), plain(inputs))


def test_the_model_and_the_generators_are_left_as_they_were():
    model = network().train()
    model[1].eval()
    state, mean = torch.get_rng_state(), model[1].running_mean.clone()
    quantize_activations_(model, batches(), range=percentile_of(0.9))
    assert model.training
    assert not model[1].training
    assert torch.equal(model[1].running_mean, mean)
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == 2


def test_gradients_pass_inside_the_range_and_the_level_of_pact_trains():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    quantize_activations_(model, [torch.randn(50, 3)], method="pact", bits=4)
    assert model[0].input_quantizer.signed
    assert not model[2].input_quantizer.signed
    before = model[2].input_quantizer.alpha.item()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.randn(50, 3) * 9).sum().backward()
    assert model[0].weight.grad.abs().sum() > 0
    optimizer.step()
    assert model[2].input_quantizer.alpha.item() != before


def test_tied_layers_each_have_a_quantizer_and_encoders_use_theirs():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight = self.one.weight
            self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)

        def forward(self, inputs):
            return self.encoder(self.two(self.one(inputs) * 10))

    model = Tied().eval()
    report = quantize_activations_(model, [torch.randn(5, 6, 4)], bits=2)
    assert [row["name"] for row in report.rows] == [
        "one",
        "two",
        "encoder.linear1",
        "encoder.linear2",
    ]
    assert "not called" in report.skipped["encoder.self_attn.out_proj"]
    assert "attention" in report.skipped["encoder.self_attn.in_proj_weight"]
    seen = []
    model.encoder.linear2.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    with torch.no_grad():
        model(torch.randn(5, 6, 4))
    assert len(seen[0].unique()) <= 4


def test_wrong_settings_change_nothing():
    model = network()
    for settings, match in [
        ({"bits": 0}, "bits: 0; expected"),
        ({"bits": 1, "symmetric": True}, "bits: 1; expected"),
        ({"range": "minmx"}, "did you mean 'minmax'"),
        ({"range": (1.0,)}, "expected two numbers"),
        ({"method": "soft"}, "method: 'soft'; expected one of"),
        ({"select": "convv"}, "matches no weight"),
        ({"batches": 0}, "batches: 0"),
    ]:
        with pytest.raises(ConfigError, match=match):
            quantize_activations_(model, batches(), **settings)
    with pytest.raises(ConfigError, match="no batches"):
        quantize_activations_(model, [])
    with pytest.raises(ConfigError, match="input of '0': a value is NaN"):
        quantize_activations_(model, [torch.full((1, 1, 8, 8), torch.nan)])
    assert structure(model) == []
    assert not any(m._forward_pre_hooks for m in model.modules())
    quantize_activations_(model, batches(), select="0")
    with pytest.raises(ConfigError, match="'0' has a quantizer already"):
        quantize_activations_(model, batches())


def test_a_record_that_does_not_fit_is_refused():
    good = {"name": "0", "kind": "activation_quantizer", "bits": 8, "symmetric": False}
    for change, match in [
        ({"name": "9"}, "no such module"),
        ({"kind": "quantizer"}, "kind 'quantizer'"),
        ({"bits": 99}, "bits: 99"),
        ({"colour": "red"}, "colour"),
    ]:
        model = network()
        with pytest.raises(ConfigError, match=match):
            rebuild_(model, [{**good, "name": "4"}, good | change])
        assert structure(model) == []
    with pytest.raises(ConfigError, match="already"):
        rebuild_(network(), [good, good])
    model = network()
    rebuild_(model, [good, {"name": "4", "kind": "pact", "bits": 4, "signed": False}])
    assert isinstance(model[0].input_quantizer, FakeQuantize)
    assert isinstance(model[4].input_quantizer, Pact)
