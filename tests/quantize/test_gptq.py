import itertools

import pytest
import torch
from torch import nn

from tersor.core import prunable
from tersor.core.errors import ConfigError
from tersor.quantize import Affine, KMeans, quantize_
from tersor.quantize.activations import quantize_activations_
from tersor.quantize.gptq import gptq_, input_moments, output_errors, reconstruct


def correlated(rows, size, seed=0):
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=draw, dtype=torch.double)
    return torch.randn(rows, size, generator=draw, dtype=torch.double) @ (mixing + mixing[0])


def obq(units, moments, grid, order):
    """Optimal brain quantization in a given order, one weight at a time, with explicit inverses."""
    units, result = units.clone(), units.clone()
    for row in range(len(units)):
        left = list(order)
        for column in order:
            inverse = torch.linalg.inv(moments[left][:, left])
            at = left.index(column)
            result[row, column] = grid(units[row, column])
            error = (units[row, column] - result[row, column]) / inverse[at, at]
            units[row, left] -= error * inverse[at]
            left.remove(column)
    return result


@pytest.mark.parametrize("order", [None, "act"])
@pytest.mark.parametrize("block", [1, 3, 128])
def test_it_is_optimal_brain_quantization_column_by_column(order, block):
    inputs = correlated(50, 7)
    moments = inputs.mT @ inputs / 50
    units = torch.randn(4, 7, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    damped = moments + 0.01 * moments.diagonal().mean() * torch.eye(7)
    columns = moments.diagonal().argsort(descending=True).tolist() if order else range(7)
    expected = obq(units, damped, lambda w: (w * 2).round() / 2, columns)
    found = reconstruct(
        units,
        moments[None],
        lambda column, _: (column * 2).round() / 2,
        damping=0.01,
        block=block,
        order=order,
    )
    assert torch.equal(found, expected)
    assert not torch.equal(found, (units * 2).round() / 2)


def test_it_comes_near_the_best_of_all_roundings():
    ratios, nearest = [], []
    for seed in range(20):
        inputs = correlated(30, 5, seed)
        moments = inputs.mT @ inputs / 30
        units = torch.randn(1, 5, generator=torch.Generator().manual_seed(seed)).double()
        found = reconstruct(units, moments[None], lambda w, _: w.round(), order="act")
        choices = [(w.floor(), w.floor() + 1, w.floor() - 1, w.floor() + 2) for w in units[0]]
        tried = torch.tensor(list(itertools.product(*choices))).double()
        best = output_errors(tried - units, moments[None]).min()
        ratios.append(float(output_errors(found - units, moments[None]) / best))
        nearest.append(float(output_errors(units.round() - units, moments[None]) / best))
    assert min(ratios) == pytest.approx(1)
    assert sorted(ratios)[10] == pytest.approx(1)  # half of them are the best there are
    assert sorted(nearest)[10] > 3


LAYERS = [
    (nn.Linear(12, 6), (40, 12)),
    (nn.Conv2d(4, 6, 3, padding=1, groups=2), (6, 4, 7, 7)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (6, 4, 5, 5)),
    (nn.Conv1d(3, 5, 3, dilation=2), (6, 3, 9)),
]


@pytest.mark.parametrize(
    "quantizer", [Affine(3), Affine(4, "group", 4), KMeans(2), Affine(3, "tensor")]
)
@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: type(v).__name__)
def test_the_output_error_is_real_and_at_most_that_of_the_nearest(layer, shape, quantizer):
    layer = type(layer)(*_arguments(layer))
    torch.manual_seed(0)
    layer.reset_parameters()
    inputs = torch.randn(shape).cumsum(-1).cumsum(1)
    with torch.no_grad():
        dense = layer(inputs)
        saved = layer.weight.clone()
        quantize_(layer, quantizer)
        nearest = (layer(inputs) - dense).square().sum()
        grid = layer.weight.unique()
        layer.weight.copy_(saved)
        bias = layer.bias.clone()
        [row] = gptq_(layer, quantizer, [inputs]).rows
        found = (layer(inputs) - dense).square().sum()
        assert torch.equal(layer.bias, bias)
        layer.bias.zero_()
        layer.weight.copy_(saved)
        whole = layer(inputs).square().sum()
    assert found < 0.95 * nearest
    assert row["output error"] == pytest.approx(float((found / whole).sqrt()), rel=1e-3)
    if not isinstance(quantizer, KMeans):  # whose centroids look at the inputs here
        assert row["of the nearest"] == pytest.approx(float((nearest / whole).sqrt()), rel=1e-3)
    assert len(grid) > 1


def _arguments(layer):
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    more = (layer.output_padding,) if isinstance(layer, nn.ConvTranspose2d) else ()
    places = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
    if more:
        return (*places, layer.padding, *more, layer.groups)
    return (*places, layer.padding, layer.dilation, layer.groups)


def test_the_values_are_those_of_the_grid_and_zeros_stay():
    torch.manual_seed(0)
    layer = nn.Linear(20, 6)
    layer.weight.data[torch.rand(6, 20) < 0.5] = 0
    zero = layer.weight == 0
    grid = Affine(4).fit(layer.weight.detach(), ~zero)
    gptq_(layer, Affine(4), [torch.randn(100, 20).cumsum(1)])
    assert torch.equal(layer.weight == 0, (layer.weight == 0) | zero)
    assert torch.equal(grid.round(layer.weight.detach()), layer.weight)
    layer = nn.Linear(20, 6)
    kept = torch.rand(6, 20) < 0.5
    gptq_(layer, KMeans(3), [torch.randn(100, 20)], masks={"weight": kept})
    assert torch.equal(layer.weight != 0, kept)


def test_a_layer_sees_what_comes_out_of_those_before_it():
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(10, 30), nn.ReLU(), nn.Linear(30, 5))

    inputs = torch.randn(64, 10)
    model, alone = network(), network()
    quantize_activations_(model, [inputs], bits=2)
    gptq_(model, Affine(2), [inputs])
    gptq_(alone, Affine(2), [inputs], select="0")
    assert not torch.equal(model[0].weight, alone[0].weight)  # its inputs were rounded
    with torch.no_grad():
        hidden = model[2].input_quantizer(model[1](model[0](inputs)))
    [weight] = prunable(model, select="2")
    moments = input_moments(model, weight, [inputs])[0]
    torch.testing.assert_close(moments, (hidden.mT @ hidden / 64).double())


def test_dead_inputs_and_dead_layers_are_rounded_to_the_nearest():
    torch.manual_seed(0)
    layer = nn.Linear(6, 3)
    nearest = Affine(3)(layer.weight.detach())
    inputs = torch.randn(20, 6)
    inputs[:, 2] = 0
    gptq_(layer, Affine(3), [inputs])
    assert torch.equal(layer.weight[:, 2], nearest[:, 2])
    layer = nn.Linear(6, 3)
    nearest = Affine(3)(layer.weight.detach())
    gptq_(layer, Affine(3), [torch.zeros(4, 6)])
    assert torch.equal(layer.weight, nearest)


def test_what_cannot_be_done_changes_nothing():
    class Whole:
        bits, uses_importance = 1.0, False

        def __call__(self, weight, kept=None, importance=None):
            return weight.sign()

    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    before = [p.clone() for p in model.parameters()]
    good = [torch.ones(2, 3)]
    for quantizer, data, settings, match in [
        (Affine(4), good, {"damping": -1}, "damping: -1"),
        (Affine(4), good, {"block": 0}, "block: 0"),
        (Affine(4), good, {"order": "random"}, "order: 'random'"),
        (Affine(4), iter(good), {}, "used up after one layer"),
        (Affine(4), [], {}, "no batches"),
        (Whole(), good, {}, "does not work entry by entry"),
        (
            Affine(4),
            [torch.full((2, 3), torch.inf)],
            {},
            "'0.weight': an input of its",
        ),
        (Affine(4), good, {"masks": {"0.weight": torch.ones(3, 3)}}, "expected torch.bool"),
    ]:
        with pytest.raises(ConfigError, match=match):
            gptq_(model, quantizer, data, **settings)
    model[1].weight.data[0, 0] = torch.nan
    with pytest.raises(ConfigError, match=r"'1\.weight': a weight is NaN"):
        gptq_(model, Affine(4), good)
    assert torch.equal(model[0].weight, before[0])
    with pytest.raises(ConfigError, match="no weight to work on"):
        gptq_(nn.Embedding(3, 2), Affine(4), [torch.tensor([1])])
