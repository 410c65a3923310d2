from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from tersor.core import prunable
from tersor.core.errors import ConfigError
from tersor.share import (
    TEMPLATED,
    hash_,
    materialize_,
    parallel_layers,
    rebuild_,
    share_layers_,
    share_templates_,
    structure,
    tie_,
)


def stack(count=4):
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Conv2d(6, 6, 3, padding=1) for _ in range(count)])


def weights(model):
    return torch.stack([layer.weight.detach() for layer in model])


def test_as_many_templates_as_layers_are_the_layers_themselves():
    model, x = stack(), torch.randn(2, 6, 5, 5)
    expected, before = model(x), weights(model)
    share_templates_(model, 4)
    torch.testing.assert_close(weights(model), before)
    torch.testing.assert_close(model(x), expected)


def test_fewer_templates_are_the_nearest_in_least_squares():
    model = stack()
    flat = weights(model).flatten(1)
    left_out = torch.linalg.svdvals(flat)[2:].square().sum()
    report = share_templates_(model, 2)
    error = (weights(model).flatten(1) - flat).square().sum()
    torch.testing.assert_close(error, left_out)
    assert report.summary["numbers"] == 2 * 6 * 6 * 9 + 4 * 2
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == report.summary["numbers"] + 4 * 6  # and the biases


def test_layers_with_equal_coefficients_have_equal_weights_and_are_found():
    model = stack()
    share_templates_(model, 2, start="fresh", seed=3)
    model[2].coefficients.data.copy_(2 * model[0].coefficients)
    torch.testing.assert_close(model[2].weight, 2 * model[0].weight)
    assert ["0", "2"] in [sorted(group) for group in parallel_layers(model)]


def test_templates_and_coefficients_have_gradients_and_train():
    model = stack().double()
    share_templates_(model, 2, start="fresh")
    x = torch.randn(1, 6, 4, 4).double()

    def loss():
        return model(x).square().sum()

    bank, mixing = model[0].templates, model[1].coefficients
    found = torch.autograd.grad(loss(), [bank, mixing])
    for parameter, gradient in zip((bank, mixing), found, strict=True):
        ends = []
        for step in (1e-6, -1e-6):
            parameter.data.view(-1)[1] += step
            ends.append(float(loss().detach()))
            parameter.data.view(-1)[1] -= step
        assert gradient.view(-1)[1].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4)


def test_plain_layers_again_have_the_same_weights():
    model, x = stack(), torch.randn(2, 6, 5, 5)
    share_templates_(model, 2)
    expected = model(x)
    materialize_(model)
    assert [type(layer) for layer in model] == [nn.Conv2d] * 4
    torch.testing.assert_close(model(x), expected)


def test_layers_that_are_unlike_are_refused_with_the_reason():
    with pytest.raises(ConfigError, match="no two layers are alike"):
        share_templates_(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3)))
    with pytest.raises(ConfigError, match="start: 'keeep'"):
        share_templates_(stack(), start="keeep")


def everything():
    model = nn.Sequential(
        nn.Sequential(*[nn.Linear(8, 8) for _ in range(4)]),
        nn.Linear(8, 8),
        nn.Conv1d(8, 4, 1),
        nn.Sequential(*[nn.Linear(8, 8) for _ in range(3)]),
    )
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data.normal_()
    return model


def test_records_as_json_build_everything_again():
    model = everything()
    share_templates_(model, 2, select="0")
    hash_(model, 0.25, seed=5, select=["1", "2"])
    share_layers_(model, "3", 2)
    tie_(model, {"1.bias": "0.0.bias"})
    records = json.loads(json.dumps(structure(model)))
    again = everything()
    rebuild_(again, records)
    again.load_state_dict(model.state_dict())
    assert structure(again) == structure(model)
    x = torch.randn(2, 8)
    for part in (0, 1, 3):
        assert torch.equal(again[part](x), model[part](x))
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"kind": "hsahed"}, "kind 'hsahed'; did you mean 'hashed'"),
        ({"kind": "hashed", "name": "1"}, "lacks the key 'buckets'"),
        ({"kind": "hashed", "name": "9", "buckets": 4, "seed": 0, "even": False}, "has no '9'"),
        ({"kind": "hashed", "name": "1", "buckets": 0, "seed": 0, "even": False}, "0 buckets"),
        ({"kind": "hashed", "name": "1", "buckets": 1, "seed": -1, "even": False}, "seed -1"),
        (
            {"kind": "templates", "name": "1", "layers": ["1", "2"], "templates": 1},
            "'2' has shape",
        ),
        ({"kind": "tied", "name": "1.weight", "names": ["2.weight"]}, "has shape"),
    ],
)
def test_records_that_do_not_fit_are_refused_and_nothing_is_changed(record, message):
    model = everything()
    before = list(model.state_dict())
    with pytest.raises(ConfigError, match=message):
        rebuild_(model, [record])
    assert list(model.state_dict()) == before
    assert structure(model) == []


def test_fresh_coefficients_have_norm_one_so_that_the_variance_stays():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(100, 100) for _ in range(6)])
    share_templates_(model, 3, start="fresh", seed=1)
    for layer in model:
        assert float(layer.coefficients.detach().norm()) == pytest.approx(1)
        assert float(layer.weight.detach().var()) == pytest.approx(1 / 300, rel=0.1)
    again = nn.Sequential(*[nn.Linear(100, 100) for _ in range(6)])
    share_templates_(again, 3, start="fresh", seed=1)
    assert torch.equal(again[2].coefficients, model[2].coefficients)


def test_layers_are_grouped_by_type_and_shape_and_others_are_skipped():
    model = nn.Sequential(
        nn.Linear(4, 4), nn.Conv1d(4, 4, 1), nn.Linear(4, 4), nn.Linear(4, 3), nn.Embedding(4, 4)
    )
    report = share_templates_(model, 1)
    assert [row["name"] for row in report.rows] == ["0.weight", "2.weight"]
    assert report.skipped["1.weight"] == "no other layer has its type and shape"
    assert report.skipped["4.weight"].startswith("of Embedding; expected Linear, Conv1d, Conv2d")
    assert [w.kind for w in prunable(model)][:1] == ["templates"]


@pytest.mark.parametrize("plain", TEMPLATED, ids=lambda plain: plain.__name__)
def test_materialized_layers_are_plain_with_equal_values(plain):
    torch.manual_seed(0)
    size = (4, 4) if plain is nn.Linear else (4, 4, 3)
    model = nn.Sequential(*[plain(*size) for _ in range(3)])
    share_templates_(model, 2)
    before = [layer.weight.detach().clone() for layer in model]
    report = materialize_(model)
    assert [row["kind"] for row in report.rows] == ["templates"] * 3
    for layer, weight in zip(model, before, strict=True):
        assert type(layer) is plain
        assert torch.equal(layer.weight, weight)
        assert set(vars(layer)) == set(vars(plain(*size)))
        assert list(layer.state_dict()) == ["weight", "bias"]
