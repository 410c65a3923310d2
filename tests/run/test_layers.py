"""Layers on kernels: outputs against float64, copies and files of them, and what they refuse."""

import copy
import io

import pytest
import torch
from deployables import cnn, few_values_, gap, images, in_float64, mlp, prefer, vectors
from torch import nn

from tersor.core.errors import ConfigError
from tersor.run import deploy, plan_of
from tersor.run.deployed import Deployed
from tersor.run.layers import (
    CsrLinear,
    DeployedChain,
    DeployedConv2d,
    DeployedEmbedding,
    DeployedLinear,
    DeployedMaxPool2d,
)

LINEAR = ["sparse", "values", "codes", "int8", "csr"]


class Tagger(nn.Module):
    """A table, and a layer on all positions."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(30, 16)
        self.out = nn.Linear(16, 4)

    def forward(self, ids):
        return self.out(self.table(ids))


def two_layers(values=15):
    """A model for which every kernel of linear layers can be made; 17 to 256 values allow all."""
    model = few_values_(nn.Sequential(nn.Linear(40, 32), nn.Linear(32, 8)), density=0.5)
    with torch.no_grad():
        for layer in model:
            weight = (torch.randn_like(layer.weight) * 20).round().clamp(-40, 40) / 32
            layer.weight.copy_(weight.where(layer.weight != 0, torch.tensor(0.0)) + 0.0)
    return model


def on(monkeypatch, kernel, model=None, example=None, **options):
    prefer(monkeypatch, kernel, "pool", **options)
    model = two_layers() if model is None else model
    return deploy(model, vectors() if example is None else example)


@pytest.mark.parametrize("kernel", LINEAR)
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (2, 0), ()])
def test_linear_layers_take_any_shape(monkeypatch, kernel, shape):
    model = two_layers()
    fast = on(monkeypatch, kernel, model)
    assert [layer.kernel.split("/")[0] for layer in plan_of(fast).layers] == [kernel] * 2
    assert type(fast[0]) is (CsrLinear if kernel == "csr" else DeployedLinear)
    x = torch.randn(*shape, 40)
    got = fast(x)
    assert got.shape == (*shape, 8)
    if got.numel():
        assert gap(got, in_float64(model, x)) < 2e-6


@pytest.mark.parametrize("kernel", LINEAR)
def test_the_weight_comes_back_bit_for_bit(monkeypatch, kernel):
    model = two_layers()
    fast = on(monkeypatch, kernel, model)
    for layer, made in zip(model, fast, strict=True):
        assert torch.equal(made.weight.view(torch.int32), layer.weight.view(torch.int32))
        assert torch.equal(made.bias, layer.bias)


def test_convolutions_and_pools(monkeypatch):
    model, x = cnn(), images(5)
    fast = on(monkeypatch, "sparse", model, images(2))
    assert [type(fast[i]) for i in (0, 3, 4)] == [DeployedConv2d, DeployedMaxPool2d, DeployedConv2d]
    assert gap(fast(x), in_float64(model, x)) < 2e-6
    for i in (0, 4):
        assert torch.equal(fast[i].weight, model[i].weight)
    one = nn.Sequential(*list(fast)[:6])(x[0])
    assert gap(one, in_float64(model[:6], x[:1])[0]) < 2e-6


@pytest.mark.parametrize("ids", [[0, 29, 3], [[1, 2], [3, 4]], [], 7])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_rows_of_a_table_are_the_tables_own_bits(monkeypatch, ids, dtype):
    model = few_values_(Tagger())
    fast = on(monkeypatch, "sparse", model, torch.zeros(2, 3, dtype=torch.int64))
    assert type(fast.table) is DeployedEmbedding
    assert torch.equal(fast.table.weight, model.table.weight)
    ids = torch.tensor(ids, dtype=dtype)
    assert torch.equal(fast.table(ids), model.table(ids))


def test_a_chain_gives_the_bits_of_its_layers(monkeypatch):
    model, x = mlp(), vectors(7)
    chained = on(monkeypatch, "sparse", model, chains=True)
    apart = on(monkeypatch, "sparse", model)
    assert type(chained[0]) is DeployedChain
    assert plan_of(chained).chains == (("0", "2", "4"),)
    assert torch.equal(chained(x), apart(x))
    assert gap(chained(x), in_float64(model, x)) < 2e-6


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("again", [copy.deepcopy, saved, lambda m: m.to("cpu"), lambda m: m.eval()])
@pytest.mark.parametrize("kernel", [*LINEAR, "chain"])
def test_copies_compute_the_same_bits_and_know_their_plan(monkeypatch, kernel, again):
    kernel, chains = ("sparse", True) if kernel == "chain" else (kernel, False)
    fast = on(monkeypatch, kernel, chains=chains)
    x = vectors(3)
    before = fast(x)
    other = again(fast)
    assert torch.equal(other(x), before)
    assert plan_of(other) == plan_of(fast)


def test_a_copy_has_memory_of_its_own(monkeypatch):
    fast = on(monkeypatch, "sparse")
    x = vectors(3)
    before = fast(x)
    other = copy.deepcopy(fast)
    with torch.no_grad():
        other[0].bias.add_(1.0)
    assert torch.equal(fast(x), before)
    assert not torch.equal(other(x), before)


def other_values(model):
    """The same places, other values: packed to the same number of bytes."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    return model


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("kernel", [*LINEAR, "chain"])
def test_a_state_dict_goes_from_one_deployed_model_into_another(monkeypatch, kernel, assign):
    kernel, chains = ("sparse", True) if kernel == "chain" else (kernel, False)
    model, x = two_layers(), vectors(3)
    one = on(monkeypatch, kernel, model, chains=chains)
    two = on(monkeypatch, kernel, other_values(model), chains=chains)
    want = two(x)
    assert not torch.equal(one(x), want)  # and what a call needs is prepared
    one.load_state_dict(two.state_dict(), strict=True, assign=assign)
    assert torch.equal(one(x), want)
    with pytest.raises(RuntimeError, match=r"Missing key.*packed"):
        one.load_state_dict({})


@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_of_a_convolution_and_a_table(monkeypatch, assign):
    x = images(2)
    one = on(monkeypatch, "sparse", cnn(), x)
    two = on(monkeypatch, "sparse", other_values(cnn()), x)
    want = two(x)
    assert not torch.equal(one(x), want)
    one.load_state_dict(two.state_dict(), assign=assign)
    assert torch.equal(one(x), want)


def test_damaged_storage_is_refused_when_it_is_loaded(monkeypatch):
    fast = on(monkeypatch, "sparse")
    before = fast(vectors())
    state = {k: v.clone() for k, v in fast.state_dict().items()}
    state["0.packed"][64:72] = 255  # where the first block begins
    with pytest.raises(RuntimeError, match=r"0\.packed.*block 0 begins at another entry"):
        fast.load_state_dict(state)
    assert torch.equal(fast(vectors()), before)


def test_storage_of_another_shape_is_refused_when_it_is_loaded(monkeypatch):
    fast = on(monkeypatch, "sparse")
    state = {k: v.clone() for k, v in fast.state_dict().items()}
    state["0.packed"][8:16].view(torch.int64).fill_(31)  # rows: the same bytes are taken by 31
    with pytest.raises(RuntimeError, match=r"0\.packed.*31 x 40.*32 x 40"):
        fast.load_state_dict(state)


def test_storage_of_another_kind_is_refused_when_it_is_loaded(monkeypatch):
    fast = on(monkeypatch, "codes")
    state = {k: v.clone() for k, v in fast.state_dict().items()}
    state["0.packed"].zero_()
    with pytest.raises(RuntimeError, match=r"0\.packed.*the bytes hold none"):
        fast.load_state_dict(state)
    for changed in ({"0.bias": state["0.bias"].double()}, {"0.bias": state["0.bias"].to("meta")}):
        with pytest.raises(RuntimeError, match=r"0\.bias.*expected torch\.float32 on the CPU"):
            fast.load_state_dict({**fast.state_dict(), **changed}, assign=True)


def test_rows_beyond_the_weights_are_refused_when_csr_is_loaded(monkeypatch):
    fast = on(monkeypatch, "csr")
    state = {k: v.clone() for k, v in fast.state_dict().items()}
    state["0.packed_columns"][0] = 1000
    with pytest.raises(RuntimeError, match=r"0\.packed"):
        fast.load_state_dict(state)


@pytest.mark.parametrize("kernel", [*LINEAR, "chain"])
def test_training_and_gradients_are_refused_by_name(monkeypatch, kernel):
    kernel, chains = ("sparse", True) if kernel == "chain" else (kernel, False)
    fast = on(monkeypatch, kernel, chains=chains)
    with pytest.raises(ConfigError, match="0: a deployed layer cannot be trained"):
        fast.train()
    fast.eval()
    x = vectors().requires_grad_()
    with pytest.raises(ConfigError, match="0: x needs a gradient"):
        fast(x)
    with torch.no_grad():
        fast(x)


@pytest.mark.parametrize("kernel", [*LINEAR, "chain"])
def test_inputs_of_another_dtype_device_or_width_are_refused_by_name(monkeypatch, kernel):
    kernel, chains = ("sparse", True) if kernel == "chain" else (kernel, False)
    fast = on(monkeypatch, kernel, chains=chains)
    with pytest.raises(ConfigError, match=r"^0: input of torch\.float64 on cpu"):
        fast(vectors().double())
    with pytest.raises(ConfigError, match=r"^0: input of torch\.float32 on meta"):
        fast(vectors().to("meta"))
    with pytest.raises(ConfigError, match=r"^0: input of shape \(4, 39\), expected \(\*, 40\)"):
        fast(vectors(width=39))
    with pytest.raises(ConfigError, match=r"^0: input of shape \(\)"):
        fast(torch.tensor(1.0))


def test_images_that_do_not_fit_are_refused_by_name(monkeypatch):
    fast = on(monkeypatch, "sparse", cnn(), images())
    with pytest.raises(ConfigError, match=r"^0: input of shape \(1, 4, 9, 9\), expected \(N, 3, H"):
        fast[0](torch.zeros(1, 4, 9, 9))
    with pytest.raises(ConfigError, match=r"^0: input of shape \(3, 9\)"):
        fast[0](torch.zeros(3, 9))
    with pytest.raises(ConfigError, match=r"^4: an image of \(2, 9\) pixels.*the kernel's 3"):
        fast[4](torch.zeros(1, 8, 2, 9))
    with pytest.raises(ConfigError, match=r"^0: input of torch\.float16"):
        fast[0](images().half())
    with pytest.raises(ConfigError, match=r"^3: an image of \(1, 5\) pixels.*the kernel's 2"):
        fast[3](torch.zeros(1, 3, 1, 5))
    for i in (0, 3):
        with pytest.raises(ConfigError, match=f"^{i}: x needs a gradient"):
            fast[i](images().requires_grad_())


def test_ids_that_do_not_fit_are_refused_by_name(monkeypatch):
    fast = on(monkeypatch, "sparse", few_values_(Tagger()), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"^table: ids of torch\.float32"):
        fast(torch.zeros(2, 3))
    with pytest.raises(IndexError, match="index 30, expected 0 to 29"):
        fast(torch.tensor([30]))


@pytest.mark.parametrize("kernel", LINEAR)
def test_another_dtype_or_device_of_the_layer_is_refused_by_name(monkeypatch, kernel):
    # The kernels read float32 at an address: they would take other bytes for it.
    fast = on(monkeypatch, kernel)
    x = vectors()
    before = fast(x)
    for change in (fast.double, fast.half, lambda: fast.to(torch.bfloat16)):
        with pytest.raises(ConfigError, match=r"^0: a deployed layer is torch\.float32 on"):
            change()
    with pytest.raises(ConfigError, match=r"^0: a deployed layer is torch\.float32 on"):
        fast.to("meta")
    assert torch.equal(fast(x), before)
    assert torch.equal(fast.to(torch.float32)(x), before)


def test_inputs_that_are_not_contiguous(monkeypatch):
    model = two_layers()
    x = torch.randn(40, 9).T
    assert gap(on(monkeypatch, "sparse", model)(x), in_float64(model, x)) < 2e-6
    model, x = cnn(), images(2).transpose(2, 3)
    assert gap(on(monkeypatch, "sparse", model, images())(x), in_float64(model, x)) < 2e-6
    x = images(2).to(memory_format=torch.channels_last)
    assert gap(on(monkeypatch, "sparse", model, images())(x), in_float64(model, x)) < 2e-6


def test_what_a_layer_is_can_be_read(monkeypatch):
    fast = on(monkeypatch, "sparse", cnn(), images())
    text = repr(fast)
    for part in ("3, 8, kernel_size=(3, 3)", "groups=2", "kernel=sparse/", "activation=silu"):
        assert part in text
    assert all(not m.training for m in fast.modules())
    assert sum(m.weight_bytes for m in fast.modules() if isinstance(m, Deployed)) == sum(
        layer.weight_bytes for layer in plan_of(fast).layers
    )
