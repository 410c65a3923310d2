"""Factors of LSTM, GRU and plain recurrent layers."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import tersor
from tersor.core.weights import prunable
from tersor.factorize import WeightFactors, factorize_, fold_, rebuild_, structure

METHODS = ["svd", "randomized_svd", "tensor_train", "block_term", "low_rank_sparse"]
KINDS = {
    "lstm": lambda: nn.LSTM(12, 8, num_layers=2, bidirectional=True, batch_first=True),
    "projected": lambda: nn.LSTM(12, 8, proj_size=4, bias=False),
    "gru": lambda: nn.GRU(12, 8, num_layers=2),
    "rnn": lambda: nn.RNN(12, 8),
}


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = KINDS[kind]()
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(5, 3, 12, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_layer_computes_with_the_product_of_its_factors(kind, method, x):
    model = Net(kind)
    names = [n for n, _ in model.named_parameters() if "weight" in n]
    report = factorize_(model, 2, method=method, force=True)
    assert [row["name"] for row in report.rows] == names
    plain = Net(kind)
    for name in names:
        plain.get_parameter(name).data.copy_(model.get_submodule(name).product())
        error = report.rows[names.index(name)]["relative error"]
        dense = Net(kind).get_parameter(name).detach()
        found = (plain.get_parameter(name).detach() - dense).norm() / dense.norm()
        assert float(found) == pytest.approx(error, rel=1e-5)
    torch.testing.assert_close(model(x), plain(x))
    assert fold_(model).summary["layers"] == len(names)
    assert type(model.layer) is type(plain.layer)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert torch.equal(model(x), plain(x))


def test_the_input_matrix_of_an_lstm_is_cut_to_its_largest_singular_values():
    model = Net("lstm")
    dense = model.layer.weight_ih_l0.detach().numpy()
    report = factorize_(model, {"layer.weight_ih_l0": 3}, method="svd")
    factors = model.layer.weight_ih_l0
    assert [tuple(f.shape) for f in factors.factors()] == [(3, 12), (32, 3)]
    left_out = np.linalg.svd(dense, compute_uv=False)[3:]
    error = np.linalg.norm(factors.product().detach().numpy() - dense)
    assert error == pytest.approx(math.sqrt((left_out**2).sum()), rel=1e-9)
    assert report.skipped["layer.weight_hh_l0"] == "no rank given"
    assert isinstance(model.layer.weight_hh_l0, nn.Parameter)
    assert "smaller, not faster" in report.notes[0]


def test_gradients_reach_the_factors_and_training_moves_them(x):
    model = Net("gru")
    factorize_(model, 2)
    dense = copy.deepcopy(model)
    fold_(dense)
    for net in (model, dense):
        net(x).square().sum().backward()
    right, left = model.layer.weight_ih_l0.factors()
    whole = dense.layer.weight_ih_l0.grad  # W = left right
    torch.testing.assert_close(left.grad, whole @ right.T)
    torch.testing.assert_close(right.grad, left.T @ whole)
    before = model(x).detach()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert not torch.allclose(model(x), before)


def test_copies_moves_and_files_keep_the_factors(x, tmp_path):
    model = Net("lstm")
    factorize_(model, 2, select="re:.*_l0$")
    expected = model(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert copy.deepcopy(model).float()(x.float()).dtype == torch.float32
    tersor.save(model, tmp_path / "net.terse")
    fresh = Net("lstm")
    rebuild_(fresh, json.loads(json.dumps(structure(model))))
    assert structure(fresh) == structure(model)
    tersor.load(tmp_path / "net.terse", into=fresh)
    assert torch.equal(fresh(x), expected)


def test_factors_are_weights_that_others_may_take_but_not_again_factors():
    model = Net("lstm")
    factorize_(model, 2)
    taken = {w.name: w.kind for w in prunable(model)}
    assert taken["layer.weight_ih_l0.factor0"] == "factor"
    report = factorize_(model, 1, force=True)
    assert report.rows == []
    assert report.skipped["layer.weight_ih_l0.factor1"] == "it is a factor already"


def test_where_speed_is_asked_for_they_are_left_alone(x):
    model = Net("gru")
    report = factorize_(model, 2, example=x)
    assert report.rows == []
    assert "multiplied out at each call" in report.skipped["layer.weight_ih_l0"]
    report = factorize_(model, 2, example=x, force=True)
    assert isinstance(model.layer.weight_ih_l0, WeightFactors)


def test_tied_weights_and_layers_of_other_classes_are_left_alone():
    class Mine(nn.LSTM):
        pass

    model = nn.ModuleDict({"a": nn.LSTM(4, 4), "b": nn.LSTM(4, 4), "mine": Mine(8, 8)})
    model["b"].weight_ih_l0 = model["a"].weight_ih_l0
    skipped = factorize_(model, 1).skipped
    assert "shared with b.weight_ih_l0" in skipped["a.weight_ih_l0"]
    assert "one of the weights of Mine" in skipped["mine.weight_hh_l0"]


def test_deployed_it_is_the_same(x):
    model = nn.Sequential(Net("lstm").layer.float())
    factorize_(model, 2)
    single = x.float()
    deployed = tersor.deploy(model, single)
    torch.testing.assert_close(deployed(single)[0], model(single)[0])
