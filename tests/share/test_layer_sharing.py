import copy

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.share import ORDERS, share_layers_, untie_


def encoder(depth: int = 6) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(block, depth)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("unique", [1, 2, 3, 6])
@pytest.mark.parametrize("own", [(), nn.LayerNorm])
def test_the_number_of_parameters_is_that_of_the_formula(unique, own):
    model = encoder()
    layer = count(model.layers[0])
    norms = 2 * 2 * 8 if own else 0
    if unique == 6:
        with pytest.raises(ConfigError, match="share no parameter"):
            share_layers_(model, "layers", 6)
        return
    report = share_layers_(model, "layers", unique, own=own)
    assert count(model) == unique * layer + (6 - unique) * norms
    assert report.summary["parameters after"] == count(model)
    assert report.summary["different layers"] == unique


def test_one_shared_layer_is_the_layer_applied_again_and_again():
    model, inputs = encoder(), torch.randn(2, 5, 8)
    share_layers_(model, "layers")
    hidden = inputs
    for _ in range(6):
        hidden = model.layers[0](hidden)
    torch.testing.assert_close(model(inputs), hidden)
    apart = copy.deepcopy(model)
    untie_(apart)
    torch.testing.assert_close(apart(inputs), model(inputs), rtol=0, atol=0)
    model(inputs).square().sum().backward()
    apart(inputs).square().sum().backward()
    for name, parameter in model.layers[0].named_parameters():
        uses = [dict(layer.named_parameters())[name].grad for layer in apart.layers]
        torch.testing.assert_close(parameter.grad, torch.stack(uses).sum(0), rtol=1e-4, atol=1e-5)


# Takase and Kiyono 2021, figure 1 and algorithm 1, for 6 layers of 3 different ones, and 7 of 3
PUBLISHED = {
    "sequence": [0, 0, 1, 1, 2, 2],
    "cycle": [0, 1, 2, 0, 1, 2],
    "cycle_reversed": [0, 1, 2, 2, 1, 0],
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_orders_are_the_published_ones(order):
    model = encoder()
    share_layers_(model, "layers", 3, order=order)
    first = [layer.linear1.weight for layer in model.layers]
    assert [[w is first[j] for w in first] for j in range(6)] == [
        [a == b for a in PUBLISHED[order]] for b in PUBLISHED[order]
    ]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("depth", range(1, 9))
def test_each_order_uses_every_different_layer(order, depth):
    for unique in range(1, depth + 1):
        groups = [ORDERS[order](place, depth, unique) for place in range(depth)]
        assert set(groups) == set(range(unique))


def test_groups_by_hand_and_layers_by_name():
    model = encoder(4)
    share_layers_(model, ["layers.0", "layers.3"], order=[7, 7])
    weights = [layer.linear1.weight for layer in model.layers]
    assert weights[0] is weights[3]
    assert len({id(w) for w in weights}) == 3


def test_a_convolution_is_used_again_with_a_batch_norm_of_its_own():
    # Kopuklu et al. 2019: unique parameters are one convolution and R norms
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)) for _ in range(3)]
    model = nn.ModuleDict({"stack": nn.Sequential(*blocks)})
    share_layers_(model, "stack", own=nn.BatchNorm2d)
    assert count(model) == count(blocks[0][0]) + 3 * 8
    assert len({b.running_mean.data_ptr() for _, b in blocks}) == 3


@pytest.mark.parametrize(
    ("layers", "unique", "order", "message"),
    [
        ("layer", 1, "cycle", "'layer'; did you mean 'layers'"),
        ("layers", 0, "cycle", "unique: 0; expected 1 to 3"),
        ("layers", 4, "cycle", "unique: 4"),
        ("layers", 1, "cycel", "order 'cycel': did you mean 'cycle'"),
        ("layers", 1, [0, 1], "order: 2 numbers for 3 layers"),
        ("norm", 1, "cycle", "'norm' is 0 layers; expected 2 or more"),
        (["layers.0", "odd"], 1, "cycle", "'odd' and 'layers.0': only one of them has"),
        (["layers.0", "wide"], 1, "cycle", "has shape"),
    ],
)
def test_what_does_not_fit_is_refused(layers, unique, order, message):
    model = encoder(3)
    model.norm, model.odd = nn.LayerNorm(8), nn.Linear(3, 3)
    model.wide = nn.TransformerEncoderLayer(8, 2, 17)
    before = count(model)
    with pytest.raises(ConfigError, match=message):
        share_layers_(model, layers, unique, order=order)
    assert count(model) == before
