from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import tersor
from tersor.core.errors import ConfigError
from tersor.share import share_layers_, tie_, ties_of, untie_
from tersor.share.layer_sharing import ORDERS


def language_model():
    torch.manual_seed(0)
    return nn.ModuleDict(
        {"encoder": nn.Embedding(50, 8), "middle": nn.Linear(8, 8), "decoder": nn.Linear(8, 50)}
    )


def logits(model, tokens):
    return model["decoder"](model["middle"](model["encoder"](tokens)))


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_embeddings_are_tied_and_one_matrix_is_gone():
    model = language_model()
    before = count(model)
    report = tie_(model, {"decoder": "encoder"})
    assert model["decoder"].weight is model["encoder"].weight
    assert report.summary["parameters after"] == count(model) == before - 50 * 8


def test_the_gradient_of_a_tied_weight_is_the_sum_over_its_places():
    model, tokens = language_model().double(), torch.tensor([[3, 7, 7]])
    twin = copy.deepcopy(model)
    twin["decoder"].weight.data.copy_(twin["encoder"].weight)
    tie_(model, {"decoder": "encoder"})
    for network in (model, twin):
        logits(network, tokens).square().sum().backward()
    expected = twin["encoder"].weight.grad + twin["decoder"].weight.grad
    torch.testing.assert_close(model["encoder"].weight.grad, expected)


def test_a_tied_pair_trains_as_one_parameter():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tie_(model, ["0", "1"])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert torch.equal(model[0].weight, model[1].weight)


def test_ties_survive_copies_state_dicts_and_files_which_hold_them_once(tmp_path):
    model = language_model()
    tersor.save(model, tmp_path / "loose.terse")
    tie_(model, {"decoder": "encoder"})
    tersor.save(model, tmp_path / "tied.terse")
    sizes = [(tmp_path / f"{name}.terse").stat().st_size for name in ("loose", "tied")]
    assert sizes[1] < sizes[0] - 50 * 8 * 2
    for twin in (copy.deepcopy(model), tersor.load(tmp_path / "tied.terse", into=model)):
        assert twin["decoder"].weight is twin["encoder"].weight
    model.load_state_dict(language_model().state_dict())
    assert model["decoder"].weight is model["encoder"].weight


def test_untied_places_have_copies_of_their_own():
    model = language_model()
    tie_(model, {"decoder": "encoder"})
    expected = logits(model, torch.tensor([[1, 2]]))
    untie_(model)
    assert ties_of(model) == {}
    assert torch.equal(logits(model, torch.tensor([[1, 2]])), expected)
    with pytest.raises(ConfigError, match="no parameter of ModuleDict is tied"):
        untie_(model)


@pytest.mark.parametrize(
    ("ties", "message"),
    [
        ({"decoder": "middle"}, r"has shape \(50, 8\), but 'middle.weight' \(8, 8\)"),
        ({"decoderr": "encoder"}, "'decoderr'; did you mean 'decoder'"),
        ({}, "an empty mapping"),
        (["encoder"], "expected two names or more"),
        ({"encoder": "decoder", "decoder": "encoder"}, "a circle"),
    ],
)
def test_what_cannot_be_tied_is_refused_and_nothing_is_changed(ties, message):
    model = language_model()
    with pytest.raises(ConfigError, match=message):
        tie_(model, ties)
    assert ties_of(model) == {}


def test_a_matrix_and_its_transpose_cannot_be_one_tensor():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))
    with pytest.raises(ConfigError, match="one is the other transposed"):
        tie_(model, {"1.weight": "0.weight"})


def encoder(layers=6):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    for parameter in model.parameters():  # torch's layers are copies of one
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("depth", [2, 3, 6])
def test_the_parameters_of_one_shared_layer_do_not_depend_on_the_depth(depth):
    model = encoder(depth)
    share_layers_(model, "layers")
    assert count(model) == count(encoder(1))


@pytest.mark.parametrize(
    ("order", "unique", "groups"),
    [
        ("sequence", 2, [0, 0, 0, 1, 1, 1]),
        ("cycle", 2, [0, 1, 0, 1, 0, 1]),
        ("cycle_reversed", 3, [0, 1, 2, 2, 1, 0]),
        ([0, 1, 1, 1, 1, 0], 1, [0, 1, 1, 1, 1, 0]),
    ],
)
def test_layers_of_a_group_are_one_and_others_are_not(order, unique, groups):
    model = encoder()
    share_layers_(model, "layers", unique, order=order)
    for i, one in enumerate(model.layers):
        for j, other in enumerate(model.layers):
            same = one.linear1.weight is other.linear1.weight
            assert same == (groups[i] == groups[j])


def test_shared_layers_compute_what_an_unshared_copy_computes():
    model, x = encoder(), torch.randn(2, 5, 16)
    share_layers_(model, "layers", 2)
    expected = model(x)
    untie_(model)
    torch.testing.assert_close(model(x), expected)


def test_norms_may_stay_each_layers_own():
    model = encoder(4)
    norms = sum(p.numel() for p in model.layers[0].norm1.parameters()) * 2
    share_layers_(model, "layers", own=nn.LayerNorm)
    assert count(model) == count(encoder(1)) + 3 * norms


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": "layer"}, "'layer'; did you mean 'layers'"),
        ({"layers": "layers", "unique": 7}, "unique: 7; expected 1 to 6"),
        ({"layers": "layers", "unique": 6}, "share no parameter"),
        ({"layers": "layers", "order": "circle"}, "order 'circle'"),
        ({"layers": "layers", "order": [0, 1]}, "order: 2 numbers for 6 layers"),
        ({"layers": ["layers.0"]}, "expected 2 or more"),
    ],
)
def test_stacks_that_cannot_be_shared_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        share_layers_(encoder(), **arguments)


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_has_every_layer_in_every_depth(order):
    for depth in range(1, 9):
        for unique in range(1, depth + 1):
            groups = [ORDERS[order](i, depth, unique) for i in range(depth)]
            assert sorted(set(groups)) == list(range(unique))


def test_followers_of_followers_and_what_was_tied_before_come_along():
    model = nn.ModuleList([nn.Linear(2, 2, bias=False) for _ in range(5)])
    tie_(model, ["3", "4"])
    first = model[0].weight
    tie_(model, {"2": "1", "1": "0", "4": "2"})
    assert all(layer.weight is first for layer in model)


def test_an_lstm_of_tied_weights_still_runs():
    model = nn.ModuleList([nn.LSTM(3, 3), nn.LSTM(3, 3)])
    tie_(model, ["0", "1"])
    inputs = torch.randn(4, 1, 3)
    assert torch.equal(model[0](inputs)[0], model[1](inputs)[0])
    model[0].weight_hh_l0.data.zero_()
    assert torch.equal(model[0](inputs)[0], model[1](inputs)[0])


def test_a_circle_through_what_is_tied_already_is_refused():
    model = nn.ModuleList([nn.Linear(2, 2, bias=False) for _ in range(4)])
    tie_(model, ["0", "2"])
    tie_(model, ["1", "3"])
    with pytest.raises(ConfigError, match="a circle among"):
        tie_(model, {"0": "1", "3": "2"})


def test_modules_of_one_type_are_tied_whole_and_others_by_their_weight():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Embedding(3, 3))
    tie_(model, {"1": "0", "2": "0"})
    assert ties_of(model) == {"0.weight": ["1.weight", "2.weight"], "0.bias": ["1.bias"]}
