import copy
import itertools

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.weights import prunable
from tersor.quantize import (
    FORMATS,
    SENSITIVITIES,
    Affine,
    KMeans,
    PowerOfTwo,
    Product,
    gptq_,
    mixed_precision,
    quantize_,
)
from tersor.quantize.bit_costs import Cost, Trial, hawq, hawq_v2, measured_loss, q_bert, sqnr
from tersor.quantize.transform import kept_entries

GRIDS = [Affine(bits) for bits in (2, 3, 4, 8)]


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        net[4].weight.mul_(5)
    return net


def data(count=2):
    draw = torch.Generator().manual_seed(0)
    return [
        (torch.randn(20, 6, generator=draw), torch.randint(3, (20,), generator=draw))
        for _ in range(count)
    ]


def mean_loss(model, batches):
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(inputs), targets))


@pytest.mark.parametrize("name", SENSITIVITIES)
def test_it_keeps_to_the_budget_changes_nothing_and_repeats(name):
    model = network().train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    runs = [mixed_precision(model, GRIDS, 3, sensitivity=name, data=data()) for _ in range(2)]
    (chosen, report), (again, _) = runs
    assert chosen == again
    sizes = {n: p.numel() for n, p in model.named_parameters() if p.dim() == 2}
    assert list(chosen) == list(sizes)
    bits = sum(sizes[n] * q.bits for n, q in chosen.items())
    assert bits <= 3 * sum(sizes.values())
    assert report.summary["bits a weight"] == pytest.approx(bits / sum(sizes.values()))
    assert report.summary["cost"] <= report.summary["cost of 3 bits for all"] + 1e-12
    assert [row["bits"] for row in report.rows] == [q.bits for q in chosen.values()]
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    quantize_(model, chosen)
    assert max(len(row.unique()) for row in model[0].weight) <= 2 ** chosen["0.weight"].bits


def test_the_choice_has_the_least_cost_of_all_that_fit():
    model = network()
    chosen, report = mixed_precision(model, GRIDS, 3, data=data())
    costs = {row["name"]: {b: row[f"cost at {b}"] for b in (2, 3, 4, 8)} for row in report.rows}
    sizes = {row["name"]: row["kept"] for row in report.rows}
    best = min(
        sum(costs[n][b] for n, b in zip(costs, widths, strict=True))
        for widths in itertools.product((2, 3, 4, 8), repeat=3)
        if sum(sizes[n] * b for n, b in zip(costs, widths, strict=True)) <= 3 * sum(sizes.values())
    )
    assert sum(costs[n][q.bits] for n, q in chosen.items()) == pytest.approx(best)


def test_the_cost_by_loss_is_the_loss_with_that_weight_alone_quantized():
    model = network()
    _, report = mixed_precision(model, GRIDS, 3, data=data())
    for row in report.rows:
        for bits in (2, 8):
            one = copy.deepcopy(model)
            quantize_(one, Affine(bits), select=row["name"])
            rise = mean_loss(one, data()) - mean_loss(model, data())
            assert row[f"cost at {bits}"] == pytest.approx(rise, abs=1e-6)


def trials_of(model, quantizers=GRIDS):
    return [Trial(w, kept_entries(w, {}), quantizers) for w in prunable(model)]


def test_the_cost_by_signal_and_noise_is_what_quantize_reports():
    model = network()
    for bits in (2, 4):
        for cost, row in zip(
            sqnr(model, trials_of(model, [Affine(bits)]), [], nn.functional.cross_entropy, 0),
            quantize_(copy.deepcopy(model), Affine(bits)).rows,
            strict=True,
        ):
            assert -10 * torch.tensor(cost.each).log10().item() == pytest.approx(row["SQNR dB"])


def test_one_bit_more_gains_about_six_decibels():
    torch.manual_seed(0)
    layer = nn.Linear(200, 100)
    nn.init.uniform_(layer.weight, -1, 1)
    [cost] = sqnr(layer, trials_of(layer, [Affine(b, "tensor") for b in (6, 7, 8, 9)]), [], None, 0)
    gains = -10 * torch.tensor(cost.each).log10().diff()
    torch.testing.assert_close(gains, torch.full((3,), 6.02), rtol=0, atol=0.2)


def test_costs_by_curvature_are_those_of_a_quadratic():
    # loss = mean over samples of sum (a_k w_k - y)**2 / 2: H = diag(a**2), known.
    factors = torch.tensor([1.0, 2.0, 3.0])
    layer = nn.Linear(3, 1, bias=False)
    batches = [(torch.diag(factors), torch.zeros(3, 1))] * 4

    def loss(outputs, targets):
        return (outputs - targets).square().sum() / 2

    trials = trials_of(layer, [Affine(2), Affine(3)])
    error = torch.tensor(trials[0].squared_errors(), dtype=torch.float64)
    for rule, curvature in ((hawq, 9.0), (q_bert, 9.0), (hawq_v2, 14 / 3)):
        [cost] = rule(layer, trials, batches, loss, 0)
        assert list(cost.told.values()) == [pytest.approx(curvature, rel=1e-3)]
        torch.testing.assert_close(
            torch.tensor(cost.each, dtype=torch.float64), error * curvature / 2, rtol=1e-3, atol=0
        )


def test_equal_layers_get_equal_bits_and_one_that_matters_more_gets_more():
    torch.manual_seed(0)
    half = nn.Linear(8, 8)

    class Sum(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.one, self.two = copy.deepcopy(half), copy.deepcopy(half)
            self.factor = factor

        def forward(self, x):
            return self.one(x[0::2]) + self.factor * self.two(x[1::2])

    inputs = torch.randn(16, 8).repeat_interleave(2, 0)
    batches = [(inputs, torch.zeros(32, 8))] * 2

    def loss(outputs, _):
        return outputs.square().mean()

    for name in ("loss", "hawq", "hawq_v2", "q_bert"):
        options = {"sensitivity": name, "data": batches, "loss": loss}
        even, _ = mixed_precision(Sum(1.0), [Affine(b) for b in (3, 4, 5)], 4, **options)
        assert {q.bits for q in even.values()} == {4}
        chosen, _ = mixed_precision(Sum(10.0), [Affine(b) for b in (3, 4, 5)], 4, **options)
        assert (chosen["one.weight"].bits, chosen["two.weight"].bits) == (3, 5)


def test_of_two_quantizers_of_one_width_each_weight_has_the_better_one():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(2.0 ** torch.randint(-3, 1, (16, 16)))  # powers of two
        net[1].weight.copy_(torch.linspace(-1, 1, 256).view(16, 16))
    ways = [PowerOfTwo(4), Affine(4, "tensor")]
    chosen, _ = mixed_precision(net, ways, 4, sensitivity="sqnr")
    assert chosen == {"0.weight": ways[0], "1.weight": ways[1]}


def test_masks_and_selectors_and_what_they_leave():
    model = network()
    mask = torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    options = {"sensitivity": "sqnr", "masks": {"0.weight": mask}, "ignore": "4"}
    chosen, report = mixed_precision(model, GRIDS, 4, **options)
    assert list(chosen) == ["0.weight", "2.weight"]
    assert report.rows[0]["kept"] == int(mask.sum())
    assert report.skipped["4.weight"] == "ignored"
    with torch.no_grad():
        model[2].weight.zero_()
    chosen, report = mixed_precision(model, GRIDS, 4, sensitivity="sqnr")
    assert report.skipped["2.weight"] == "all of its weights are zero"
    assert "2.weight" not in chosen


def test_a_budget_in_bytes_and_formats_of_different_kinds():
    model = network()
    sizes = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    ways = [KMeans(2), FORMATS["fp4_e2m1"], FORMATS["fp8_e4m3"]]
    chosen, report = mixed_precision(model, ways, size_bytes=sizes * 5 / 8, data=data())
    assert report.summary["bytes of codes"] <= sizes * 5 / 8
    assert {q.bits for q in chosen.values()} <= {2, 4, 8}
    gptq, _ = mixed_precision(model, GRIDS, 3, data=data())
    report = gptq_(model, gptq, [x for x, _ in data()])
    assert [row["bits"] for row in report.rows] == [q.bits for q in gptq.values()]


def test_bits_that_depend_on_the_shape_are_those_that_quantize_reports():
    model = network()
    chosen, report = mixed_precision(model, [Product(16, 4), Affine(4)], 3, sensitivity="sqnr")
    rows = quantize_(model, chosen).rows
    assert [row["bits"] for row in report.rows] == [row["bits"] for row in rows]
    assert any(isinstance(q, Product) for q in chosen.values())


def test_a_rule_of_ones_own_says_the_costs():
    def by_size(model, trials, batches, loss, seed):
        return [Cost([t.weight.shape.numel() / q.bits for q in t.quantizers], {}) for t in trials]

    _, report = mixed_precision(network(), GRIDS, 3, sensitivity=by_size, data=data())
    assert report.summary["sensitivity"] == "by_size"
    assert report.rows[0]["cost at 2"] == 36


@pytest.mark.parametrize(
    ("quantizers", "options", "match"),
    [
        ([], {"budget": 4, "data": data()}, "quantizers: none given"),
        (GRIDS, {"budget": 1, "data": data()}, "budget 1 bits: the smallest widths take 2 bits"),
        (GRIDS, {"data": data()}, "budget and size_bytes: neither given"),
        (GRIDS, {"budget": 4}, "this sensitivity looks at data"),
        (GRIDS, {"budget": 4, "data": []}, "there are no batches"),
        (GRIDS, {"budget": 4, "data": data(), "batches": 0}, "batches: 0; expected 1 or more"),
        (GRIDS, {"budget": 4, "sensitivity": "hawk"}, "did you mean 'hawq'"),
        (GRIDS, {"budget": 4, "data": data(1), "sensitivity": "q_bert"}, "1 batch; expected two"),
        (
            GRIDS,
            {"budget": 4, "data": data(), "loss": lambda x, y: x.sum() * torch.inf},
            "expected finite ones",
        ),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(quantizers, options, match):
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=match):
        mixed_precision(model, quantizers, **options)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_a_loss_that_fails_leaves_the_weight_as_it_was():
    model = network()
    before = copy.deepcopy(model.state_dict())
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return outputs.mean()

    with pytest.raises(KeyboardInterrupt):
        measured_loss(model, trials_of(model), data(), loss, 0)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
