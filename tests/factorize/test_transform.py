from __future__ import annotations

import itertools
import sys

import pytest
import torch
from torch import nn

import tersor
from tersor.core.errors import ConfigError
from tersor.factorize import (
    Factors,
    Svd,
    energy_rank,
    estimated_rank,
    factorize_,
    fold_,
    rebuild_,
    structure,
    transform,
)
from tersor.factorize.ranks import Site, by_budget
from tersor.tasks import build_model


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 50), nn.Linear(50, 10))


def low_rank(rows, columns, rank, noise=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    planted = torch.randn(rows, rank, generator=generator) @ torch.randn(
        rank, columns, generator=generator
    )
    return planted + noise * torch.randn(rows, columns, generator=generator)


def test_the_energy_that_was_asked_for_is_kept_by_the_least_rank():
    model = net()
    weight = model[0].weight.detach().double()
    report = factorize_(model, energy=0.8, select="0", force=True)
    rank = int(report.rows[0]["rank"])
    squares = torch.linalg.svdvals(weight).square()
    assert squares[:rank].sum() >= 0.8 * squares.sum() > squares[: rank - 1].sum()
    assert report.rows[0]["relative error"] <= 0.2**0.5 + 1e-6


def test_a_rank_for_an_energy_is_searched_for_where_there_are_no_singular_values():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64))
    model[0].weight.data.copy_(low_rank(64, 64, 2, 0.01))
    report = factorize_(model, energy=0.5, method="tensor_train", parts=2)
    rank, error = int(report.rows[0]["rank"]), report.rows[0]["relative error"]
    assert error**2 <= 0.5
    again = nn.Sequential(nn.Linear(64, 64))
    again[0].weight.data.copy_(low_rank(64, 64, 2, 0.01))
    worse = factorize_(again, rank - 1, method="tensor_train", parts=2)
    assert worse.rows[0]["relative error"] ** 2 > 0.5


def test_the_least_rank_by_energy():
    assert energy_rank(torch.tensor([3.0, 4.0]).sort(descending=True).values, 16 / 25) == 1
    assert energy_rank(torch.tensor([4.0, 3.0]), 0.65) == 2
    assert energy_rank(torch.zeros(3), 0.9) == 1


@pytest.mark.parametrize(("rows", "columns", "rank"), [(60, 90, 4), (90, 60, 7), (200, 100, 12)])
def test_the_estimate_finds_a_planted_rank_in_noise(rows, columns, rank):
    assert estimated_rank(low_rank(rows, columns, rank, noise=0.3)) == rank


def test_the_estimate_goes_into_the_layers_for_both_numbers_of_tucker():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(32, 48, 3))
    core = torch.randn(5, 3, 3, 3)
    planted = torch.einsum("fr,rsij,cs->fcij", torch.randn(48, 5), core, torch.randn(32, 3))
    model[0].weight.data.copy_(planted + 0.05 * torch.randn_like(planted))
    report = factorize_(model, "vbmf", method="tucker")
    assert report.rows[0]["rank"] == "5, 3"


def test_a_budget_over_layers_is_kept_and_the_choice_is_near_the_best_of_all():
    torch.manual_seed(3)
    shapes = [(9, 8), (6, 7), (8, 5)]
    sites = []
    for index, shape in enumerate(shapes):
        layer = nn.Linear(*shape[::-1])
        decay = torch.diag(0.7 ** torch.arange(float(min(shape))) * (1 + index))
        u = torch.linalg.qr(torch.randn(shape[0], min(shape))).Q
        v = torch.linalg.qr(torch.randn(shape[1], min(shape))).Q
        layer.weight.data.copy_(u @ decay @ v.T)
        sites.append(Site(f"{index}.weight", layer, Svd()))
    total = sum(a * b for a, b in shapes)
    spectra = [torch.linalg.svdvals(s.weight.double()).square() for s in sites]
    spectra = [s / s.sum() for s in spectra]

    def error(ranks):
        return sum(float(s[r:].sum()) for s, r in zip(spectra, ranks, strict=True))

    def weights(ranks):
        return sum(min(r * (a + b), a * b) for r, (a, b) in zip(ranks, shapes, strict=True))

    for budget in (0.4, 0.6, 0.8, 1.0):
        chosen = by_budget(sites, budget)
        ranks = [chosen[s.name][0] for s in sites]
        assert weights(ranks) <= budget * total
        allowed = [
            combination
            for combination in itertools.product(*(range(1, min(shape) + 1) for shape in shapes))
            if weights(combination) <= budget * total
        ]
        best = min(map(error, allowed))
        cut = [float(s[r:].sum()) for s, r in zip(spectra, ranks, strict=True)]
        largest = max(cut)  # what does not fit is one singular value, or the rest of one layer
        assert best <= error(ranks) + 1e-12 <= best + largest + 1e-9


def test_a_budget_for_a_method_without_singular_values_is_kept_by_every_layer():
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 3))
    report = factorize_(model, budget=0.3, method="tucker")
    for row in report.rows:
        assert row["weights after"] <= 0.3 * row["weights before"]
    assert len(report.rows) == 2


def test_break_even_is_the_last_rank_with_fewer_weights():
    model = nn.Sequential(nn.Linear(40, 60))
    report = factorize_(model, 24)
    assert isinstance(model[0], nn.Linear)  # 24 * 100 are as many as 40 * 60
    assert report.skipped["0.weight"] == (
        "rank 24 has 2,400 weights, the layer 2,400: break-even is rank 23"
    )
    assert "No layer was factorized." in report.notes
    forced = factorize_(model, 24, force=True)
    assert forced.rows[0]["break-even rank"] == 23


def test_with_an_example_a_layer_whose_factors_are_slower_stays(monkeypatch):
    gains = iter([0.5, 3.0])
    monkeypatch.setattr(transform, "speed_up", lambda layer, factors, x: next(gains))
    model = net()
    report = factorize_(model, 4, select=["0", "2"], example=torch.zeros(2, 40))
    assert [type(m) for m in (model[0], model[2])] == [nn.Linear, Factors]
    assert report.skipped["0.weight"] == "factors are not faster: 0.50 times the layer"
    assert report.rows[0]["speed-up"] == 3.0


def test_a_large_layer_of_small_rank_is_faster_and_is_timed_so():
    model = nn.Sequential(nn.Linear(2048, 2048))
    report = factorize_(model, 8, example=torch.zeros(4, 2048))
    assert report.rows[0]["speed-up"] > 1
    assert isinstance(model[0], Factors)


def test_ranks_by_selector_and_what_none_names_is_left_alone():
    model = net()
    report = factorize_(model, {"0": 3, "re:2": 5})
    assert [row["rank"] for row in report.rows] == ["3", "5"]
    assert report.skipped["3.weight"] == "no rank given"


def test_what_cannot_be_taken_says_why():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(30, 20)
            self.out = nn.Linear(20, 30)
            self.out.weight = self.embed.weight
            self.cell = nn.LSTMCell(20, 20)
            self.attention = nn.MultiheadAttention(20, 2)
            self.grouped = nn.Conv2d(8, 8, 3, groups=4)
            self.turned = nn.ConvTranspose2d(8, 8, 3)
            self.free = nn.Linear(30, 30)

    skipped = factorize_(Tied(), 2).skipped
    assert "shared with out.weight" in skipped["embed.weight"]
    assert "one of the weights of LSTMCell" in skipped["cell.weight_ih"]
    assert "one of the weights of MultiheadAttention" in skipped["attention.in_proj_weight"]
    assert skipped["attention.out_proj.weight"] == "attention reads this weight itself"
    assert "4 groups" in skipped["grouped.weight"]
    assert skipped["turned.weight"] == "takes no transposed convolutions"
    alone = nn.Linear(30, 30)
    assert "put it into a Sequential" in factorize_(alone, 2).skipped["weight"]


def test_factors_are_not_factorized_again():
    model = net()
    factorize_(model, 4)
    report = factorize_(model, 2)
    assert not report.rows
    assert report.skipped["0.0.weight"] == "it is a factor already"
    assert report.skipped["0.1.weight"] == "it is a factor already"


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_layers_of_a_transformer_are_taken_and_it_still_infers(norm_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        32, 2, 64, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    factorize_(model, 8, ignore="MultiheadAttention")
    x = torch.randn(2, 5, 32)
    trained = model(x)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), trained)


def test_factors_are_pruned_quantized_trained_and_kept_in_a_file(tmp_path):
    torch.manual_seed(0)
    model = build_model("lenet-300-100", input_shape=(1, 8, 8))
    factorize_(model, budget=0.5)
    masks, _ = tersor.prune_(model, density=0.5)
    tersor.quantize_(model, 4, masks=masks)
    assert masks.density == pytest.approx(0.5, abs=1e-3)
    tersor.save(model, tmp_path / "small.terse")
    fresh = build_model("lenet-300-100", input_shape=(1, 8, 8))
    rebuild_(fresh, structure(model))
    tersor.load(tmp_path / "small.terse", into=fresh)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(fresh.eval()(x), model.eval()(x))
    torch.testing.assert_close(fold_(fresh) and fresh(x), model(x))


def test_zeros_of_a_pruned_layer_are_lost_and_the_report_says_so():
    model = net()
    tersor.prune_(model, density=0.1, select="0")
    report = factorize_(model, 4, select=["0", "2"])
    assert any(note.startswith("0.weight: most of the weight was zero") for note in report.notes)


def test_gradients_frozen_weights_and_modes_stay():
    model = net().eval()
    model[0].weight.requires_grad_(False)
    factorize_(model, 4)
    assert not any(f.requires_grad for f in model[0].factors())
    assert all(f.requires_grad for f in model[2].factors())
    assert not model[0][1].training
    model(torch.randn(3, 40)).sum().backward()
    assert model[2][0].weight.grad is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 4, "energy": 0.5}, "rank and energy given; expected one of them"),
        ({"rank": 0}, "rank: 0; expected a whole number of 1 or more"),
        ({"rank": 99}, "'0.weight': rank: 99; expected a whole number from 1 to 40"),
        ({"rank": (1, 2)}, r"rank \(1, 2\); expected a number"),
        ({"rank": "vmbf"}, "rank: 'vmbf'; expected a number or 'vbmf'"),
        ({"rank": "vbmf", "method": "tensor_train"}, "TensorTrain has no matrices to look at"),
        ({"energy": 1.5}, "energy: 1.5; expected 0 < energy <= 1"),
        ({"budget": 0}, "budget: 0; expected 0 < budget <= 1"),
        ({"budget": 0.001}, "budget: 0.001 of 5,900 weights; rank 1 everywhere has 270"),
        ({"method": "svdd"}, "method 'svdd': did you mean 'svd'"),
        ({"method": "svd", "sweeps": 3}, "method 'svd': no setting 'sweeps'"),
        ({"method": Svd(), "solver": "exact"}, "solver given beside a factorizer"),
        ({"method": "activation_svd"}, "looks at inputs of layers; expected data="),
        ({"select": "9"}, "selector '9'"),
    ],
)
def test_wrong_use_is_refused_and_nothing_is_changed(arguments, message):
    model = net()
    with pytest.raises(ConfigError, match=message):
        factorize_(model, **arguments)
    assert not any(isinstance(m, Factors) for m in model.modules())


def test_weights_that_are_not_finite_are_refused():
    model = net()
    model[2].weight.data[0, 0] = float("nan")
    with pytest.raises(ConfigError, match=r"'2\.weight': a weight is NaN or infinite"):
        factorize_(model, 2)
    assert isinstance(model[0], nn.Linear)


def test_without_tensorly_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorly", None)
    model = nn.Sequential(nn.Conv2d(4, 4, 3))
    with pytest.raises(tersor.MissingExtraError, match=r"tersor\[factorize\]"):
        factorize_(model, 2, method="tucker")
    factorize_(net(), 2)  # the SVD needs torch alone
