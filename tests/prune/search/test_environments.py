"""Networks under a search: the budget holds whatever is asked, and the network stays as it was."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune import prune_
from tersor.prune.allocation import Groups, uniform
from tersor.prune.search import (
    Bits,
    Densities,
    DensityEnvironment,
    Genetic,
    MaskEnvironment,
    Search,
    fixed,
    greedy,
)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))


SIZES = {"0.weight": 30, "2.weight": 20, "4.weight": 8}
INPUTS = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(2, (20,), generator=torch.Generator().manual_seed(1))


def loss(model: nn.Module) -> float:
    with torch.no_grad():
        return nn.functional.cross_entropy(model(INPUTS), TARGETS).item()


def bits(model: nn.Module) -> list[bytes]:
    return [t.detach().numpy().tobytes() for t in (*model.parameters(), *model.buffers())]


@given(
    st.lists(st.floats(1e-6, 1), min_size=3, max_size=3),
    st.floats(0.25, 1),
    st.floats(0.01, 0.2),
)
def test_the_budget_is_met_exactly_by_every_sequence_of_actions(actions, density, low):
    environment = DensityEnvironment(net(), loss, density, low=low)
    counts = environment.counts(torch.tensor(actions))
    assert sum(counts.values()) == round(density * 58)
    assert all(low * SIZES[n] <= count <= SIZES[n] for n, count in counts.items())


@given(st.lists(st.floats(1e-6, 1), min_size=3, max_size=3), st.floats(0.3, 1))
def test_with_groups_the_budget_is_never_broken(actions, density):
    environment = DensityEnvironment(net(), loss, density, low=0.01, pattern="row")
    counts = environment.counts(torch.tensor(actions))
    kept = 6 * counts["0.weight"] + 5 * counts["2.weight"] + 4 * counts["4.weight"]
    assert kept <= round(density * 58)
    assert kept > round(density * 58) - 3 * 6 or counts == {
        "0.weight": 5,
        "2.weight": 4,
        "4.weight": 2,
    }


@given(st.floats(0.25, 1))
def test_equal_actions_are_the_uniform_allocation_within_one_weight(density):
    counts = DensityEnvironment(net(), loss, density).counts(torch.full((3,), density))
    groups = {name: Groups.of(torch.ones(size)) for name, size in SIZES.items()}
    expected = uniform(groups, density)
    assert all(abs(counts[name] - expected[name]) <= 1 for name in SIZES)


def test_what_rounding_leaves_is_not_heaped_on_the_last_layer():
    many = nn.Sequential(*(nn.Linear(5, 2) for _ in range(9)))  # 2.5 of 10 weights in each
    counts = DensityEnvironment(many, loss, 0.25, low=0.1).counts(torch.full((9,), 0.25))
    assert sum(counts.values()) == round(0.25 * 90)
    assert set(counts.values()) == {2, 3}


def test_actions_that_the_budget_allows_are_taken_as_they_are():
    environment = DensityEnvironment(net(), loss, 0.5, low=0.1)
    # 0.4 * 30 + 0.6 * 20 + 0.625 * 8 = 29 = 0.5 * 58
    assert list(environment.counts(torch.tensor([0.4, 0.6, 0.625])).values()) == [12, 12, 5]
    assert list(environment.counts(torch.tensor([1.0, 1.0, 1.0])).values()) == [26, 2, 1]
    assert list(environment.counts(torch.tensor([0.1, 0.1, 0.1])).values()) == [3, 18, 8]


def test_the_reward_is_that_of_the_pruned_network_and_the_network_stays():
    model = net()
    before = bits(model)
    environment = DensityEnvironment(model, loss, 0.4, low=0.1)
    actions = torch.tensor([0.3, 0.5, 0.5])
    pruned = net()
    masks, _ = prune_(pruned, 0.4, allocation=environment.allocation(actions))
    assert masks.kept == round(0.4 * 58)
    assert environment.fitness(actions) == -loss(pruned)
    assert bits(model) == before


def test_evolution_over_densities_finds_what_brute_force_finds():
    model = net()

    def penalty(model):  # layer 2 is worth most, then 4, then 0
        dense = [int((model[i].weight != 0).sum()) / SIZES[f"{i}.weight"] for i in (0, 2, 4)]
        return (dense[0] - 0.2) ** 2 + 2 * (dense[1] - 1.0) ** 2 + (dense[2] - 0.5) ** 2

    environment = DensityEnvironment(model, penalty, 0.5, low=0.1)
    search = Search(Genetic(Densities(3, 0.1), population=20), environment.fitness)
    search.run(25)
    least = min(
        (a / 30 - 0.2) ** 2 + 2 * (b / 20 - 1.0) ** 2 + (c / 8 - 0.5) ** 2
        for a, b, c in itertools.product(range(3, 31), range(2, 21), range(1, 9))
        if a + b + c == 29
    )
    assert -search.best_fitness == pytest.approx(least, abs=1e-9)


def test_a_budget_below_the_lowest_density_is_refused():
    with pytest.raises(ConfigError, match=r"density 0\.1 keeps 6 weights, but low=0\.2 keeps 12"):
        DensityEnvironment(net(), loss, 0.1)
    with pytest.raises(ConfigError, match=r"actions of shape \(2,\); expected one for each of 3"):
        DensityEnvironment(net(), loss, 0.5).counts(torch.ones(2))


def test_bits_are_the_rows_of_the_chosen_layers_and_are_paid_for():
    model = net()
    before = bits(model)
    environment = MaskEnvironment(model, loss, price=0.5, select=["0", "2"])
    assert environment.length == 9
    chosen = torch.tensor([1, 0, 1, 1, 0, 1, 1, 0, 1], dtype=torch.bool)
    masks = environment.masks(chosen)
    assert masks["0.weight"].tolist() == [[bool(b)] * 6 for b in chosen[:5]]
    assert masks["2.weight"].tolist() == [[bool(b)] * 5 for b in chosen[5:]]
    pruned = net()
    masks.apply(pruned)
    assert environment.fitness(chosen) == pytest.approx(-loss(pruned) - 0.5 * 6 / 9)
    assert bits(model) == before
    with pytest.raises(ConfigError, match=r"bits of shape \(4,\); expected \(9,\)"):
        environment.masks(chosen[:4])


def test_a_genetic_search_finds_the_best_of_all_masks_of_ten_units():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 2))
    environment = MaskEnvironment(model, loss, price=0.05, select="0")
    every = itertools.product([False, True], repeat=10)
    best = max(environment.fitness(torch.tensor(b)) for b in every)
    search = Search(Genetic(Bits(10)), environment.fitness)
    search.run(30)
    assert search.best_fitness == best
    assert search.evaluations < 600


@pytest.mark.parametrize("pattern", ["element", "row"])
def test_greedy_reaches_the_density_and_leaves_the_network(pattern):
    model = nn.Sequential(*net(), nn.BatchNorm1d(2))
    before = bits(model)
    model[1].eval()
    allocation, report = greedy(model, loss_in_eval, 0.4, rounds=6, pattern=pattern)
    assert bits(model) == before
    assert model.training
    assert not model[1].training
    other = nn.Sequential(*net(), nn.BatchNorm1d(2))
    masks, _ = prune_(other, 0.4, pattern=pattern, allocation=allocation)
    budget = round(0.4 * 58)
    assert masks.kept == report.rows[-1]["kept in all"]
    assert masks.kept == budget if pattern == "element" else budget - 6 < masks.kept <= budget
    assert report.summary["density reached"] == masks.density


def loss_in_eval(model: nn.Module) -> float:
    flags = [(m, m.training) for m in model.modules()]
    model.eval()
    value = loss(model)
    for module, training in flags:
        module.training = training
    return value


def test_greedy_takes_the_best_proposal_of_each_round():
    prices = {"0.weight": 1.0, "2.weight": 0.1, "4.weight": 10.0}

    def penalty(model):
        state = model.state_dict()
        return sum(p * (SIZES[n] - int((state[n] != 0).sum())) for n, p in prices.items())

    allocation, report = greedy(net(), penalty, 0.5, rounds=8)
    # The cheapest layer that has the whole cut gives it: 2, while one of its weights stays.
    counts, layers, kept = dict(SIZES), [], 58
    for number in range(1, 9):
        cut = kept - round(58 * 0.5 ** (number / 8))
        layer = next(n for n in ("2.weight", "0.weight") if counts[n] > cut)
        counts[layer] -= cut
        kept -= cut
        layers.append(layer)
    assert [row["layer"] for row in report.rows] == layers
    assert set(layers) == {"2.weight", "0.weight"}
    groups = {name: Groups.of(torch.ones(size)) for name, size in SIZES.items()}
    assert allocation(groups, 0.5) == counts
    assert [row["kept in all"] for row in report.rows][-1] == 29


def test_greedy_judges_after_the_training_of_each_proposal_and_goes_on_from_the_best():
    calls = []

    def tune(model, masks):
        calls.append(masks.kept)
        with torch.no_grad():  # in the first round it repairs what layer 0 loses, and no more
            if len(calls) <= 3 and int((model[0].weight != 0).sum()) < 30:
                model[4].bias.fill_(7.0)
        masks.apply(model)

    def judge(model):
        return 0.0 if model[4].bias[0] == 7.0 else 1.0

    model = net()
    before = bits(model)
    _, report = greedy(model, judge, 0.8, rounds=2, tune=tune)
    assert bits(model) == before
    assert [row["layer"] for row in report.rows] == ["0.weight", "0.weight"]
    assert len(calls) == 6
    # in the second round the bias of the best of the first is there for all
    assert [row["value"] for row in report.rows] == [0.0, 0.0]


def test_greedy_says_what_cannot_be():
    with pytest.raises(ConfigError, match=r"density 0\.02 keeps 1 weights, and 3 are left"):
        greedy(net(), loss, 0.02, rounds=3)
    with pytest.raises(ConfigError, match="rounds 0; expected 1 or more"):
        greedy(net(), loss, 0.5, rounds=0)
    with pytest.raises(ConfigError, match=r"evaluate gives NaN with less of '0\.weight'"):
        greedy(net(), lambda model: float("nan"), 0.5)


def test_fixed_counts_are_for_one_density_and_for_these_layers():
    groups = {name: Groups.of(torch.ones(4)) for name in "ab"}
    allocation = fixed({"a": 3, "b": 1})
    with pytest.raises(ConfigError, match=r"keep 4 weights, but density 0\.9 is 7"):
        allocation(groups, 0.9)
    with pytest.raises(ConfigError, match="counts for a, b, but there are a"):
        allocation({"a": groups["a"]}, 0.5)
    empty = groups | {"c": Groups.of(torch.ones(0))}
    assert allocation(empty, 0.5) == {"a": 3, "b": 1, "c": 0}
