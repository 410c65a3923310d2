from __future__ import annotations

import pytest
import torch
from torch import nn

from tersor.factorize import factorize_
from tersor.factorize.multiplying import macs_ratio


def test_a_stride_makes_the_first_factor_see_more_positions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, bias=False))
    report = factorize_(model, {"0": (5, 3)}, method="tucker")
    # 33 x 33 positions come in and 16 x 16 go out
    counted = 33 * 33 * 8 * 3 + 16 * 16 * (9 * 3 * 5 + 5 * 16)
    assert report.rows[0]["macs after / before"] == pytest.approx(
        counted / (16 * 16 * 9 * 8 * 16), rel=1e-12
    )


def test_of_linear_factors_it_is_the_share_of_the_weights():
    layer = nn.Linear(40, 30)
    factors = nn.Sequential(nn.Linear(40, 7, bias=False), nn.Linear(7, 30))
    assert macs_ratio(layer, factors) == 7 * 70 / 1200


def test_an_embedding_multiplies_nothing():
    assert macs_ratio(nn.Embedding(8, 4), nn.Identity()) is None


def test_factors_that_multiply_more_than_the_layer_are_told_of():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64))
    report = factorize_(model, 4, method="block_term")
    assert report.rows[0]["macs after / before"] > 1
    assert any("multiply no less" in note for note in report.notes)


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


def test_a_class_derived_from_a_layer_is_left_alone():
    model = nn.Sequential(Doubled(64, 64), nn.Linear(64, 64))
    report = factorize_(model, 4)
    assert "Doubled" in report.skipped["0.weight"]
    assert type(model[0]) is Doubled
    assert len(report.rows) == 1


def test_a_layer_with_hooks_is_left_alone():
    model = nn.Sequential(nn.Linear(64, 64))
    model[0].register_forward_hook(lambda *_: None)
    report = factorize_(model, 4)
    assert "hooks" in report.skipped["0.weight"]
    assert isinstance(model[0], nn.Linear)


@pytest.mark.parametrize("method", ["svd", "randomized_svd", "tensor_train", "low_rank_sparse"])
def test_no_global_generator_moves(method):
    model = nn.Sequential(nn.Linear(64, 64))
    before = torch.get_rng_state()
    factorize_(model, 4, method=method)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("example", [None, torch.ones(1, 64)], ids=["untimed", "timed"])
def test_a_report_says_when_speed_was_not_measured(example):
    report = factorize_(nn.Sequential(nn.Linear(64, 64)), 4, example=example, force=True)
    assert any("not measured" in note for note in report.notes) == (example is None)
