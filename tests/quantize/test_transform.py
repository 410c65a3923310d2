import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.quantize import MAX_BITS, KMeans, PowerOfTwo, codebooks_of, quantize_


def net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 3)
    ).to(dtype)


def linear(values: list[float]) -> nn.Linear:
    model = nn.Linear(len(values), 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([values]))
    return model


def mask(*bits: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.tensor([bits], dtype=torch.bool)}


@dataclass(frozen=True)
class Seen:
    """A quantizer that keeps what it was called with, and gives each output channel its number."""

    calls: list
    bits: int = 1
    uses_importance: ClassVar[bool] = True

    def __call__(self, weight, kept=None, importance=None):
        self.calls.append((weight.clone(), kept, importance))
        numbers = torch.arange(1.0, len(weight) + 1).view(-1, *[1] * (weight.dim() - 1))
        return numbers.expand(weight.shape)


def test_the_report_says_how_far_the_weights_moved():
    model, before = net(), net()
    report = quantize_(model, KMeans(3, "exact"))
    assert [row["name"] for row in report.rows] == ["0.weight", "3.weight", "4.weight"]
    for row in report.rows:
        old = before.get_parameter(row["name"]).detach().double()
        new = model.get_parameter(row["name"]).detach().double()
        gap = (new - old).square()
        assert row["quantizer"] == "KMeans(bits=3, init='exact')"
        assert (row["kept"], row["bits"], row["values"]) == (old.numel(), 3, 8)
        assert math.isclose(row["rms error"], gap.mean().sqrt(), rel_tol=1e-6)
        ratio = float(old.square().sum() / gap.sum())
        assert math.isclose(row["SQNR dB"], 10 * math.log10(ratio), rel_tol=1e-6)
        assert row["largest value"] == new.abs().max()


def test_weights_that_do_not_move_have_no_noise():
    [row] = quantize_(linear([1.0, 2.0, 0.0]), 1).rows
    assert (row["kept"], row["values"], row["rms error"], row["SQNR dB"]) == (2, 2, 0, None)


def test_biases_norms_and_statistics_stay_as_they_were():
    model, before = net(), net().state_dict()
    quantize_(model, 2)
    rest = [name for name in before if name not in ("0.weight", "3.weight", "4.weight")]
    assert len(rest) == 8
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in rest)
    assert not torch.equal(model[0].weight, before["0.weight"])


def test_without_a_mask_a_zero_counts_as_pruned():
    model = linear([0.0, -0.0, 3.0, 4.0])
    quantize_(model, 1)
    assert model.weight.tolist() == [[0.0, 0.0, 3.0, 4.0]]
    assert not model.weight.signbit().any()


def test_a_mask_wins_over_the_values():
    model = linear([1.0, 2.0, 3.0, 4.0])
    quantize_(model, 2, masks=mask(1, 0, 0, 1))
    assert model.weight.tolist() == [[1.0, 0.0, 0.0, 4.0]]


def test_a_tensor_of_zeros_is_skipped_with_the_reason():
    model = net()
    with torch.no_grad():
        model[4].weight.zero_()
    report = quantize_(model, 2)
    assert [row["name"] for row in report.rows] == ["0.weight", "3.weight"]
    assert report.skipped["4.weight"] == "all of its weights are zero"
    assert report.summary == {"tensors": 2, "tensors skipped": len(report.skipped)}


@pytest.mark.parametrize(
    ("module", "turned"),
    [
        (nn.Linear(4, 6), (6, 4)),
        (nn.Conv2d(4, 6, (3, 2), groups=2), (6, 2, 3, 2)),
        (nn.ConvTranspose2d(4, 6, (3, 2)), (6, 4, 3, 2)),
        (nn.ConvTranspose1d(4, 6, 3, groups=2), (6, 2, 3)),
        (type("Conv1D", (nn.Module,), {})(), (6, 4)),
    ],
    ids=["linear", "conv", "transposed", "grouped", "Hugging Face"],
)
def test_a_quantizer_sees_output_channels_first(module, turned):
    if type(module).__name__ == "Conv1D":
        module.weight = nn.Parameter(torch.randn(4, 6))  # (in, out), y = x @ weight
    before = module.weight.detach().clone()
    kept = {"weight": torch.rand(before.shape) < 0.9}
    seen = Seen([])
    quantize_(module, seen, masks=kept, importance={"weight": before.square()})
    [(weight, mask, importance)] = seen.calls
    assert tuple(weight.shape) == tuple(mask.shape) == turned
    assert torch.equal(importance, weight.square())
    # An output that is computed from the weights of channel o alone is o times the sum of inputs.
    module.bias = None
    if turned == (6, 4):
        out = nn.functional.linear(torch.ones(1, 4), weight)
        flat = (
            module.weight.detach() if isinstance(module, nn.Linear) else module.weight.detach().t()
        )
        assert torch.equal(flat, torch.arange(1.0, 7)[:, None].expand(6, 4))
        assert out.shape == (1, 6)
    else:
        out = module(torch.ones(1, 4, *[5] * (before.dim() - 2)))
        middle = out[0].flatten(1).max(dim=1).values
        torch.testing.assert_close(middle / middle[0], torch.arange(1.0, 7))


def test_what_is_kept_whole_comes_without_a_mask():
    seen = Seen([])
    quantize_(linear([1.0, 2.0]), seen)
    assert seen.calls[0][1:] == (None, None)


def test_quantizers_by_selector_leave_the_others_alone():
    model, before = net(), net()
    report = quantize_(model, {"0": KMeans(3), nn.Linear: 1}, ignore="4")
    assert {n: len(b.centroids) for n, b in codebooks_of(model, ignore="4").items()} == {
        "0.weight": 8,
        "3.weight": 2,
    }
    assert [row["bits"] for row in report.rows] == [3, 1]
    assert torch.equal(model[4].weight, before[4].weight)
    report = quantize_(net(), {"0": 3})
    assert report.skipped["3.weight"] == "no quantizer given"
    assert report.summary["tensors"] == 1


def test_two_selectors_may_agree_but_not_conflict():
    quantize_(net(), {"3": 2, "re:3": KMeans(2)})
    with pytest.raises(ConfigError, match=r"two selectors name '3.weight', with KMeans\(bits=2"):
        quantize_(net(), {"3": 2, "Linear": 5})


def test_importance_that_has_no_say_is_noted():
    model = net()
    report = quantize_(
        model, {"0": Seen([]), "3": 2}, importance={"0.weight": torch.ones(4, 1, 3, 3)}
    )
    assert report.notes == []
    report = quantize_(net(), PowerOfTwo(), importance={"0.weight": torch.ones(4, 1, 3, 3)})
    assert report.notes == ["PowerOfTwo(): importance has no say"]


@pytest.mark.parametrize("bits", [0, -1, MAX_BITS + 1, 2.5, True, {"0": 0}, {"0": 3.0}])
def test_bits_out_of_range_are_named_and_nothing_is_changed(bits):
    model = net()
    value = bits["0"] if isinstance(bits, dict) else bits
    with pytest.raises(ConfigError, match=rf"bits: {value!r}; expected .* from 1 to {MAX_BITS}"):
        quantize_(model, bits)
    assert len(model[3].weight.unique()) == 96


@pytest.mark.parametrize("value", ["5", KMeans, [4]])
def test_what_is_no_quantizer_is_named(value):
    with pytest.raises(ConfigError, match=r"quantizer: .*(5|KMeans|4).*; expected a quantizer as"):
        quantize_(net(), value)


def test_no_quantizer_at_all_is_an_error():
    with pytest.raises(ConfigError, match="quantizer: an empty mapping"):
        quantize_(net(), {})


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"4.weight": torch.ones(3, dtype=torch.bool)}, r"'4.weight': shape \(3,\).*\(3, 6\)"),
        ({"4.weight": torch.ones(3, 6)}, r"'4.weight': dtype torch.float32, expected torch.bool"),
        ({"5.weight": torch.ones(3, dtype=torch.bool)}, r"'5.weight': Sequential has no such"),
    ],
)
def test_a_mask_that_does_not_fit_is_named_and_nothing_is_changed(masks, message):
    model = net()
    with pytest.raises(ConfigError, match=message):
        quantize_(model, 2, masks=masks)
    assert len(model[0].weight.unique()) == 36


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_an_importance_out_of_range_is_named_and_nothing_is_changed(value):
    model = net()
    with pytest.raises(ConfigError, match=r"importance '4.weight': a value is negative, NaN"):
        quantize_(model, 2, importance={"4.weight": torch.full((3, 6), value)})
    assert len(model[0].weight.unique()) == 36


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_named_and_nothing_is_changed(value):
    model = net()
    with torch.no_grad():
        model[4].weight[0, 0] = value
    with pytest.raises(ConfigError, match=r"'4.weight'.*NaN or infinite"):
        quantize_(model, 2)
    assert len(model[0].weight.unique()) == 36
