"""The loop and its strategies: planted optima, chances by hand, exact resume."""

import io
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from tersor.core.errors import ConfigError
from tersor.core.seeding import generator
from tersor.prune.search import (
    Bits,
    Densities,
    Genetic,
    Pbil,
    Search,
    roulette,
    tournament,
)

LENGTH = 12
PLANTED = torch.tensor([1, 0, 0, 1, 1, 1, 0, 1, 0, 1, 1, 0], dtype=torch.bool)
WEIGHTS = torch.arange(1.0, LENGTH + 1)


def planted(bits: torch.Tensor) -> float:
    """Its one maximum of 100 is at PLANTED; pairs of bits act together."""
    right = (bits == PLANTED).double()
    return 100 - float((WEIGHTS * (1 - right)).sum()) - 3 * float((right[1:] != right[:-1]).sum())


STRATEGIES = {
    "tournament": Genetic(Bits(LENGTH)),
    "roulette": Genetic(Bits(LENGTH), selection="roulette"),
    "pbil": Pbil(LENGTH),
}


def test_the_planted_optimum_is_the_only_one():
    values = [planted(torch.tensor(b)) for b in itertools.product([False, True], repeat=LENGTH)]
    assert max(values) == planted(PLANTED) == 100
    assert values.count(100) == 1


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_planted_optimum_of_twelve_bits_is_found_and_the_best_never_gets_worse(name):
    seen = []

    def fitness(bits):
        seen.append(bits.clone())
        return max(planted(bits), 0.0)  # roulette takes no less

    for seed in range(3):
        seen.clear()
        search = Search(STRATEGIES[name], fitness, seed=seed)
        search.run(60)
        assert torch.equal(search.best, PLANTED)
        assert search.best_fitness == 100
        assert search.history == sorted(search.history)
        assert search.evaluations == len(seen) == len({tuple(b.tolist()) for b in seen})
        assert search.evaluations < 2**LENGTH / 4


def test_without_an_elite_the_best_so_far_is_kept_by_the_loop():
    search = Search(Genetic(Bits(LENGTH, mutation=0.5), elites=0), planted)
    search.run(15)
    assert search.history == sorted(search.history)
    assert planted(search.best) == search.best_fitness


def test_with_an_elite_the_fittest_of_a_generation_never_gets_worse():
    genetic, random = Genetic(Bits(LENGTH), elites=2), generator(0)
    memory, before = {}, -torch.inf
    for _ in range(10):
        candidates = genetic.propose(memory, random)
        fitness = torch.tensor([planted(c) for c in candidates])
        assert fitness.max() >= before
        before = fitness.max()
        memory = genetic.update(memory, candidates, fitness)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_that_is_stopped_and_loaded_goes_on_as_if_it_had_not(name):
    def fitness(bits):
        return max(planted(bits), 0.0)

    whole, first, second = (Search(STRATEGIES[name], fitness, seed=4) for _ in range(3))
    whole.run(8)
    first.run(3)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    second.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert second.rounds == 3
    second.run(8)
    assert second.history == whole.history
    assert torch.equal(second.best, whole.best)
    assert second.evaluations == whole.evaluations
    assert {n: t.tolist() for n, t in second.memory.items()} == {
        n: t.tolist() for n, t in whole.memory.items()
    }
    assert first.rounds == 3


def test_the_seed_decides_and_the_global_generator_does_not():
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(found))
        state = torch.get_rng_state()
        search = Search(Genetic(Bits(LENGTH)), planted, seed=seed)
        search.run(2)
        assert torch.equal(torch.get_rng_state(), state)
        found.append(search.memory["candidates"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_roulette_chooses_in_proportion_to_fitness():
    fitness = torch.tensor([1.0, 0.0, 3.0, 4.0], dtype=torch.float64)
    counts = torch.bincount(roulette(fitness, 8000, generator(0)), minlength=4)
    assert counts[1] == 0
    assert chisquare(counts[[0, 2, 3]], [1000, 3000, 4000]).pvalue > 1e-3
    even = torch.bincount(roulette(torch.zeros(4), 4000, generator(0)), minlength=4)
    assert chisquare(even, [1000] * 4).pvalue > 1e-3
    with pytest.raises(ConfigError, match=r"a fitness of -1\.0; expected .* 0 or more"):
        roulette(torch.tensor([-1.0, 2.0]), 1, generator(0))


def test_a_tournament_of_two_is_won_as_often_as_its_formula_says():
    fitness = torch.tensor([0.1, 5.0, -3.0, 2.0])
    counts = torch.bincount(tournament(fitness, 16_000, generator(0)), minlength=4)
    chances = {1: 7, 3: 5, 0: 3, 2: 1}  # of 16, from the fittest down
    assert chisquare(counts, [1000 * chances[i] for i in range(4)]).pvalue > 1e-3
    tied = tournament(torch.zeros(2), 4000, generator(0))
    assert 0.72 < float((tied == 0).double().mean()) < 0.78


def test_children_have_each_gene_from_a_parent():
    genetic = Genetic(Bits(64, mutation=0.0), population=20, elites=0)
    candidates = torch.rand(20, 64, generator=generator(0)) < 0.5
    candidates[:, :8], candidates[:, 8:16] = True, False
    memory = genetic.update({}, candidates, torch.arange(20.0))
    children = genetic.propose(memory, generator(1))
    assert children[:, :8].all()
    assert not children[:, 8:16].any()
    assert len(children.unique(dim=0)) > 10


def test_bits_flip_with_the_chance_that_is_said():
    flipped = Bits(50).mutate(torch.zeros(4000, 50, dtype=torch.bool), generator(0))
    assert float(flipped.double().mean()) == pytest.approx(1 / 50, rel=0.05)


@given(st.floats(0.01, 0.5), st.floats(0, 2), st.integers(0, 5))
def test_densities_stay_between_their_bounds(low, spread, seed):
    genes = Densities(4, low, 0.9, spread)
    drawn = genes.draw(30, generator(seed))
    moved = genes.mutate(drawn, generator(seed, "more"))
    for values in (drawn, moved):
        assert values.shape == (30, 4)
        assert ((values >= low * (1 - 1e-12)) & (values <= 0.9 * (1 + 1e-12))).all()
    assert spread == 0 or not torch.equal(drawn, moved) or (drawn == moved).all()


def test_at_rate_one_with_one_survivor_the_next_candidates_equal_it():
    pbil = Pbil(10, population=20, rate=1.0, survivors=0.05, margin=0.0)
    candidates = pbil.propose({}, generator(0))
    fitness = torch.zeros(20, dtype=torch.float64)
    fitness[7] = 1.0
    memory = pbil.update({}, candidates, fitness)
    assert (pbil.propose(memory, generator(1)) == candidates[7]).all()


def test_the_chances_move_by_the_rate_towards_the_survivors():
    pbil = Pbil(3, population=4, rate=0.25, survivors=0.5, margin=0.0)
    candidates = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 0, 0], [0, 0, 0]], dtype=torch.bool)
    memory = pbil.update({}, candidates, torch.tensor([3.0, 2.0, 1.0, 0.0]))
    assert memory["chances"].tolist() == [0.625, 0.5, 0.5]
    assert pbil.update(
        {"chances": torch.tensor([0.9] * 3).double()}, candidates, -torch.arange(4.0)
    )["chances"].tolist() == pytest.approx([0.925, 0.8, 0.8])


def test_what_cannot_be_searched_is_said():
    with pytest.raises(ConfigError, match="no round is done yet"):
        _ = Search(Pbil(3), planted).best
    with pytest.raises(ConfigError, match="a fitness is NaN"):
        Search(Pbil(3), lambda bits: float("nan")).run(1)
    with pytest.raises(ConfigError, match="30 elites of 30"):
        Genetic(Bits(3), elites=30)
    with pytest.raises(ConfigError, match="selection 'roulete': did you mean 'roulette'"):
        Genetic(Bits(3), selection="roulete")
    with pytest.raises(ConfigError, match="rate 0, survivors"):
        Pbil(3, rate=0)
    with pytest.raises(ConfigError, match=r"low 0\.5, high 0\.2"):
        Densities(3, 0.5, 0.2)


def test_the_report_has_the_best_so_far_of_each_round():
    search = Search(STRATEGIES["pbil"], planted)
    search.run(3)
    report = search.report()
    assert [row["best so far"] for row in report.rows] == search.history
    assert report.summary["candidates evaluated"] == search.evaluations
