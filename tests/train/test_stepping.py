import random

import numpy as np
import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError, TrainingError
from tersor.core.hooks import Attachment
from tersor.measure import evaluate
from tersor.tasks import Task, build_model, load_task
from tersor.tasks.batches import training_loader
from tersor.train import Stepper

END = 45  # steps; an epoch of digits in batches of 64 has 19


@pytest.fixture(scope="module")
def digits() -> Task:
    return load_task("digits")


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))


def with_dropout() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 20),
        nn.BatchNorm1d(20),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(20, 10),
    )


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), 1e-3)


def fresh(task: Task, network=plain, optimizer=momentum, **options) -> Stepper:
    torch.manual_seed(0)
    model = network()
    return Stepper(model, task, optimizer(model), **options)


def numbers(stepper: Stepper) -> list[torch.Tensor]:
    """All that the stepper stands for: weights, buffers and the optimizer's memory, cloned."""
    state = stepper.state_dict()
    memory = [
        value
        for entries in state["optimizer"]["state"].values()
        for value in entries.values()
        if isinstance(value, torch.Tensor)
    ]
    return [*state["model"].values(), *memory]


def same_bits(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(
        a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(first, second, strict=True)
    )


class Noisy:
    """Batches that are changed at random as they are made, by all three generators."""

    def __init__(self, batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        for inputs, targets in self.batches:
            scale = random.random() + np.random.random()  # noqa: NPY002 - as users' data may
            yield inputs * scale + torch.randn_like(inputs), targets


def noisy(task: Task) -> Task:
    return Task("noisy", Noisy(task.train), task.validation, task.test)


@pytest.mark.parametrize("k", [0, 7, 19, 25])
@pytest.mark.parametrize("optimizer", [momentum, adam])
@pytest.mark.parametrize("network", [plain, with_dropout])
def test_going_back_to_a_step_and_on_gives_the_bits_of_never_stopping(
    digits, network, optimizer, k
):
    straight = fresh(digits, network, optimizer)
    losses = straight.run(END)
    stepper = fresh(digits, network, optimizer)
    begun = stepper.run(k)
    assert begun == losses[:k]
    saved = stepper.state_dict()
    assert stepper.run(END) == losses[k:]
    stepper.load_state_dict(saved)
    assert stepper.step == k
    assert stepper.run(END) == losses[k:]
    assert same_bits(numbers(stepper), numbers(straight))


@pytest.mark.parametrize("k", [7, 19, 25])
def test_batches_that_are_changed_at_random_are_the_same_ones_again(digits, k):
    task = noisy(digits)
    straight = fresh(task, with_dropout)
    losses = straight.run(END)
    stepper = fresh(task, with_dropout)
    assert stepper.run(k) == losses[:k]
    other = fresh(task, with_dropout)
    other.load_state_dict(stepper.state_dict())
    random.seed(99), torch.manual_seed(99)
    assert other.run(END) == losses[k:]
    assert same_bits(numbers(other), numbers(straight))


@pytest.mark.parametrize("build", [lambda task: task, noisy])
def test_watching_changes_nothing(digits, build):
    task = build(digits)
    straight = fresh(task, with_dropout)
    losses = straight.run(END)
    stepper, seen = fresh(task, with_dropout), []

    def watch(step: int) -> None:
        seen.append(step)
        evaluate(stepper.model, task.validation)
        random.random(), torch.randn(3)
        stepper.model.eval()
        stepper.model(next(iter(task.validation))[0]).sum().backward()

    assert stepper.run(END, every=10, watch=watch) == losses
    assert seen == [10, 20, 30, 40, 45]
    assert same_bits(numbers(stepper), numbers(straight))


def test_a_saved_state_does_not_move_with_the_training(digits):
    stepper = fresh(digits, with_dropout, adam)
    stepper.run(3)
    saved, then = stepper.state_dict(), numbers(stepper)
    stepper.run(6)
    stepper.load_state_dict(saved)
    assert same_bits(numbers(stepper), then)
    stepper.run(6)
    stepper.load_state_dict(saved)
    assert same_bits(numbers(stepper), then)


def order(task: Task, seed: int) -> list[int]:
    """Which sample of training comes when, in two epochs."""
    seen: list[int] = []
    inputs = task.train.dataset.inputs
    numbered = training_loader(inputs, torch.arange(len(inputs)), batch_size=64)

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.extend(targets.tolist())
        return outputs.mean()

    fresh(Task("order", numbered, task.validation, task.test, loss), seed=seed).run(38)
    return seen


def test_a_seed_gives_an_order_and_another_seed_another_one(digits):
    first, other = order(digits, 0), order(digits, 1)
    count = len(digits.train.dataset)
    assert order(digits, 0) == first != other
    assert sorted(first[:count]) == sorted(first[count:]) == sorted(other[:count])
    assert first[:count] != first[count:]  # a new order each epoch


def test_a_start_in_mid_epoch_sees_the_rest_of_that_epoch(digits):
    losses = fresh(digits, seed=3).run(END)
    stepper = fresh(digits, seed=3)
    pieces = [stepper.run(until) for until in (5, 5, 19, 20, 38, END)]
    assert [len(piece) for piece in pieces] == [5, 0, 14, 1, 18, 7]
    assert [loss for piece in pieces for loss in piece] == losses


def test_nothing_is_done_where_the_steps_are_made(digits):
    stepper = fresh(digits)
    stepper.run(4)
    before = numbers(stepper)
    assert stepper.run(4) == stepper.run(2) == []
    assert stepper.step == 4
    assert same_bits(numbers(stepper), before)


def test_each_step_has_the_rate_of_its_number_before_and_after_going_back(digits):
    used: list[tuple[int, float]] = []

    def halves(step: int) -> float:
        return 0.5 ** (step // 2)

    stepper = fresh(digits, rate=halves)
    stepper.optimizer.register_step_pre_hook(
        lambda *_: used.append((stepper.step, stepper.optimizer.param_groups[0]["lr"]))
    )
    stepper.run(4)
    saved = stepper.state_dict()
    stepper.run(6)
    stepper.load_state_dict(saved)
    stepper.run(6)
    rates = [0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125]
    assert used == [*enumerate(rates), (4, 0.0125), (5, 0.0125)]


def test_without_a_rate_the_optimizers_own_is_left(digits):
    stepper = fresh(digits)
    stepper.optimizer.param_groups[0]["lr"] = 0.125
    stepper.run(3)
    assert stepper.optimizer.param_groups[0]["lr"] == 0.125


def test_each_step_of_a_rate_is_so_much_larger(digits):
    moved = {}
    for factor in (1.0, 4.0):
        stepper = fresh(
            digits,
            optimizer=lambda m: torch.optim.SGD(m.parameters(), 1e-3),
            rate=lambda _, f=factor: f,
        )
        before = stepper.model[1].weight.detach().double()
        stepper.run(1)
        moved[factor] = stepper.model[1].weight.detach().double() - before
    torch.testing.assert_close(moved[4.0], 4 * moved[1.0], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_its_step(digits, value):
    calls = []

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(None)
        return outputs.mean() * (value if len(calls) == 4 else 1)

    stepper = fresh(Task("bad", digits.train, digits.validation, digits.test, loss))
    good = fresh(Task("good", digits.train, digits.validation, digits.test, lambda o, _: o.mean()))
    good.run(3)
    with pytest.raises(TrainingError, match=r"the loss is -?(nan|inf) at step 4"):
        stepper.run(10)
    assert stepper.step == 3
    assert same_bits(numbers(stepper), numbers(good))


class Zeroing:
    """A method: after each step the first weight is zero."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight

    def attach(self, optimizer: torch.optim.Optimizer) -> Attachment:
        return Attachment(optimizer, after=self.zero)

    def zero(self) -> None:
        self.weight.data[0, 0] = 0

    def finished(self) -> bool:
        return True

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


def test_a_method_is_attached_for_these_steps_alone(digits):
    stepper = fresh(digits)
    weight = stepper.model[3].weight
    stepper.run(3, methods=[Zeroing(weight)])
    assert weight[0, 0] == 0
    stepper.run(5)
    assert weight[0, 0] != 0


def test_the_model_is_trained_in_training_mode(digits):
    stepper = fresh(digits, with_dropout)
    stepper.model.eval()
    stepper.run(1)
    assert stepper.model.training
    assert stepper.model[2].num_batches_tracked == 1


def test_a_task_without_batches_is_refused(digits):
    model = plain()
    with pytest.raises(ConfigError, match="task 'empty': there are no training batches"):
        Stepper(model, Task("empty", [], digits.validation, digits.test), momentum(model))


def test_a_network_of_the_catalog_learns(digits):
    torch.manual_seed(0)
    model = build_model("gru-s", input_shape=(1, 8, 8))
    stepper = Stepper(model, digits, torch.optim.Adam(model.parameters(), 3e-3))
    losses = stepper.run(60)
    assert sum(losses[-5:]) / 5 < 0.7 < 2 < losses[0]
