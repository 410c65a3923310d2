import copy
import io

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune import ALLOCATIONS, SCHEDULES, GradualPruner

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
}


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    for layer in (model[0], model[2]):  # of one size, so "global" empties none
        nn.init.normal_(layer.weight, std=0.3)
    return model


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 10, generator=generator), torch.randn(8, 5, generator=generator)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range):
    """Train step by step; after each one its number (from 1) is given."""
    for number in numbers:
        x, y = batch(number)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        yield number + 1


def live(model: nn.Module) -> int:
    return sum(int((p != 0).sum()) for p in model.parameters() if p.dim() > 1)


def through_a_file(state: dict) -> dict:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_the_density_follows_the_schedule_exactly_and_masks_are_nested(net, allocation, schedule):
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    window = {"start": 2, "end": 12}
    pruner = GradualPruner(net, 0.1, schedule=schedule, allocation=allocation, **window)
    with pruner.attach(optimizer):
        before = pruner.masks
        for step in steps(net, optimizer, range(14)):
            expected = round(SCHEDULES[schedule](step, final=0.1, **window) * 300)
            assert pruner.masks.kept == live(net) == expected
            assert all((before[n] | ~pruner.masks[n]).all() for n in before)
            assert pruner.finished == (step >= 12)
            before = pruner.masks
    assert live(net) == 30


def test_densities_per_layer_are_exact_at_every_step(net):
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    pruner = GradualPruner(net, {"0": 0.05, "2": 0.3}, schedule="linear", end=10)
    with pruner.attach(optimizer):
        for step in steps(net, optimizer, range(10)):
            kept = {n: int(m.sum()) for n, m in pruner.masks.items()}
            assert kept == {
                "0.weight": round((1 - 0.095 * step) * 200),
                "2.weight": round((1 - 0.07 * step) * 100),
            }
    assert pruner.report().summary["density asked"] == "per layer"


def test_pruned_weights_stay_plus_zero_between_prunings(net):
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    pruner = GradualPruner(net, 0.2, schedule="one_shot", end=1)
    with pruner.attach(optimizer):
        assert live(net) == 60  # at once
        dead = {n: ~mask for n, mask in pruner.masks.items()}
        for _ in steps(net, optimizer, range(30)):
            for name, gone in dead.items():
                assert not net.get_parameter(name)[gone].view(torch.int32).any()
    assert live(net) == 60


def test_it_prunes_every_so_many_steps_and_at_the_end(net):
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    pruner = GradualPruner(net, 0.1, schedule="linear", start=1, end=8, every=3)
    kept = []
    with pruner.attach(optimizer):
        for _ in steps(net, optimizer, range(9)):
            kept.append(pruner.masks.kept)
    at = {step: round((1 - 0.9 * (step - 1) / 7) * 300) for step in (4, 7)}
    assert kept == [300, 300, 300, at[4], at[4], at[4], at[7], 30, 30]


def test_what_is_pruned_is_what_is_smallest_at_that_step(net):
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    pruner = GradualPruner(net, 0.5, schedule="one_shot", start=3, end=3)
    plain = copy.deepcopy(net)
    with pruner.attach(optimizer):
        list(steps(net, optimizer, range(3)))
    list(steps(plain, OPTIMIZERS["sgd"](plain.parameters()), range(3)))
    weights = torch.cat([plain[0].weight.flatten(), plain[2].weight.flatten()]).abs()
    kept = torch.cat([mask.flatten() for mask in pruner.masks.values()])
    assert kept.sum() == 150
    assert weights[kept].min() > weights[~kept].max()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("k", [1, 7, 12])
def test_k_steps_save_load_and_k_steps_are_2k_steps_bit_for_bit(net, optimizer, allocation, k):
    def start(model):
        built = OPTIMIZERS[optimizer](model.parameters())
        return built, GradualPruner(model, 0.1, start=1, end=9, every=2, allocation=allocation)

    whole, half = copy.deepcopy(net), copy.deepcopy(net)
    opt, pruner = start(whole)
    with pruner.attach(opt):
        list(steps(whole, opt, range(2 * k)))
    opt, first = start(half)
    with first.attach(opt):
        list(steps(half, opt, range(k)))
    state = through_a_file(
        {"model": half.state_dict(), "opt": opt.state_dict(), "pruner": first.state_dict()}
    )
    opt, second = start(net)  # other weights: those of the beginning
    net.load_state_dict(state["model"])
    opt.load_state_dict(state["opt"])
    second.load_state_dict(state["pruner"])
    with second.attach(opt):
        list(steps(net, opt, range(k, 2 * k)))
    for one, other in zip(whole.parameters(), net.parameters(), strict=True):
        assert torch.equal(one.view(torch.int32), other.view(torch.int32))
    assert second.step == pruner.step == 2 * k
    assert all(torch.equal(mask, second.masks[name]) for name, mask in pruner.masks.items())


def test_a_state_can_be_loaded_while_attached(net):
    other = copy.deepcopy(net)
    opt = OPTIMIZERS["sgd"](net.parameters())
    pruner = GradualPruner(net, 0.1, end=4)
    with pruner.attach(opt):
        list(steps(net, opt, range(4)))
    opt = OPTIMIZERS["sgd"](other.parameters())
    resumed = GradualPruner(other, 0.1, end=4)
    with resumed.attach(opt):
        resumed.load_state_dict(through_a_file(pruner.state_dict()))
        list(steps(other, opt, range(1)))
    assert all(torch.equal(m, other.get_parameter(n) != 0) for n, m in pruner.masks.items())


def test_steps_are_counted_not_batches_when_gradients_accumulate(net):
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    pruner = GradualPruner(net, 0.1, schedule="linear", end=3)
    with pruner.attach(optimizer):
        for number in range(12):
            x, y = batch(number)
            ((net(x) - y).square().mean() / 4).backward()
            if number % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
            assert pruner.step == (number + 1) // 4
    assert pruner.finished
    assert live(net) == 30


def test_of_live_zeros_the_first_are_kept_and_no_dead_one_comes_back(net):
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    pruner = GradualPruner(net, 0.5, schedule="linear", end=3)
    with torch.no_grad():
        net[0].weight.zero_()  # 200 of 300: all that goes are zeros
    with pruner.attach(optimizer):
        for step in steps(net, optimizer, range(3)):
            first = pruner.masks["0.weight"].flatten().tolist()
            assert first == [True] * (200 - 50 * step) + [False] * (50 * step)
    assert pruner.masks["2.weight"].all()


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_no_pruned_weight_comes_back_whatever_its_score(net, allocation):
    calls = []

    def ever_another_order(model, data):
        calls.append(1)
        generator = torch.Generator().manual_seed(len(calls))
        return {
            f"{i}.weight": torch.rand(model[i].weight.shape, generator=generator) for i in (0, 2)
        }

    optimizer = OPTIMIZERS["sgd"](net.parameters())
    pruner = GradualPruner(
        net, 0.2, end=8, criterion=ever_another_order, allocation=allocation, schedule="linear"
    )
    with pruner.attach(optimizer):
        before = pruner.masks
        for step in steps(net, optimizer, range(8)):
            assert pruner.masks.kept == round((1 - 0.1 * step) * 300)
            assert all((before[n] | ~pruner.masks[n]).all() for n in before)
            before = pruner.masks
    assert len(calls) == 9


def test_a_criterion_and_an_allocation_of_the_users_own(net):
    def last_ones(model, data):
        return {
            f"{i}.weight": torch.arange(model[i].weight.numel(), dtype=torch.float).view_as(
                model[i].weight
            )
            for i in (0, 2)
        }

    def all_from_the_first(scores, density):
        return {"0.weight": round(density * 300) - 100, "2.weight": 100}

    optimizer = OPTIMIZERS["sgd"](net.parameters())
    pruner = GradualPruner(
        net, 0.4, end=5, schedule="linear", criterion=last_ones, allocation=all_from_the_first
    )
    with pruner.attach(optimizer):
        list(steps(net, optimizer, range(5)))
    assert pruner.masks["2.weight"].all()
    assert pruner.masks["0.weight"].flatten().tolist() == [False] * 180 + [True] * 20


def test_a_schedule_of_the_users_own(net):
    def halves(step, *, start, end, final):
        return final if step >= end else 0.5

    optimizer = OPTIMIZERS["sgd"](net.parameters())
    pruner = GradualPruner(net, 0.25, end=2, schedule=halves)
    with pruner.attach(optimizer):
        assert [pruner.masks.kept for _ in steps(net, optimizer, range(2))] == [150, 75]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"every": 0}, "every: 0; expected at least 1"),
        ({"start": 5}, "from step 5 to step 4"),
        ({"start": -1}, "start: -1; expected 0 or more"),
        ({"schedule": "cubik"}, "schedule 'cubik': did you mean 'cubic'"),
        ({"criterion": "magnitud"}, "criterion 'magnitud': did you mean 'magnitude'"),
        ({"allocation": "lmap"}, "allocation 'lmap': did you mean 'lamp'"),
        ({"density": 2.0}, "density: 2.0; expected 0 < density <= 1"),
        ({"density": {"0": 0.0}}, "density: 0.0; expected 0 < density <= 1"),
        ({"select": "1"}, "selector '1': matches no weight"),
    ],
)
def test_a_wrong_argument_is_named_when_the_pruner_is_made(net, wrong, message):
    with pytest.raises(ConfigError, match=message):
        GradualPruner(net, **({"density": 0.5, "end": 4} | wrong))


def test_an_optimizer_of_another_model_is_refused(net):
    pruner = GradualPruner(net, 0.5, schedule="one_shot", end=1)
    other = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=r"does not have '0.weight'"):
        pruner.attach(torch.optim.SGD(other.parameters(), 0.1))
    assert live(net) == 300


def test_the_report_has_what_was_reached_so_far(net):
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    pruner = GradualPruner(net, 0.5, schedule="linear", end=4, ignore="2")
    with pruner.attach(optimizer):
        list(steps(net, optimizer, range(2)))
    assert pruner.report().summary == {
        "density asked": 0.5,
        "density reached": 0.75,
        "kept": 150,
    }
    assert pruner.report().skipped["2.weight"] == "ignored"
