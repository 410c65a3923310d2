import itertools
import json
import math
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tersor.core.errors import ConfigError, MissingExtraError, TrainingError
from tersor.core.hooks import Attachment
from tersor.prune import GradualPruner
from tersor.quantize import CodebookTuner, codebooks_of, quantize_
from tersor.tasks import Batches, Task
from tersor.train import RunLog, Training, fit, steps_per_epoch


class NeverRead:
    """A test set that nobody may look at."""

    def __len__(self) -> int:
        raise AssertionError("the test set was asked for its length")

    def __iter__(self):
        raise AssertionError("the test set was read")
        yield


def points(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three classes that a line each can tell apart."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(3, (count,), generator=generator)
    return F.one_hot(targets, 4) + 0.2 * torch.randn(count, 4, generator=generator), targets


def in_batches(inputs: Tensor, targets: Tensor, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def task(train: Batches | None = None, validation: Batches | None = None, **changes) -> Task:
    return Task(
        "points",
        in_batches(*points(64)) if train is None else train,
        in_batches(*points(40, 1)) if validation is None else validation,
        NeverRead(),
        **changes,
    )


def net(hidden: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))


def loss_of(model: nn.Module) -> float:
    with torch.no_grad():
        return F.cross_entropy(model(points(64)[0]), points(64)[1]).item()


def quick(**changes) -> Training:
    return Training(**({"epochs": 3, "learning_rate": 0.05} | changes))


def mistakes(script: list[int]):
    """A count of mistakes (of 40 samples, in one batch) that follows a script, call by call."""
    left = iter(script)

    def count(outputs: Tensor, targets: Tensor) -> Tensor:
        return (torch.arange(len(targets)) < next(left)).float()

    return count


def scripted(script: list[int]) -> Task:
    return task(validation=[points(40, 1)], mistakes=mistakes(script))


class Snapshots:
    """A method that does nothing but keep the weights after each step; finished when told."""

    def __init__(self, model: nn.Module, finished_at: int = 0) -> None:
        self.model, self.finished_at, self.weights = model, finished_at, []

    @property
    def finished(self) -> bool:
        return len(self.weights) >= self.finished_at

    def attach(self, optimizer: torch.optim.Optimizer) -> Attachment:
        return Attachment(
            optimizer, after=lambda: self.weights.append(self.model[0].weight.detach().clone())
        )

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_training_lowers_the_loss_and_the_error(optimizer, schedule):
    model = net()
    before = loss_of(model)
    training = quick(epochs=10, optimizer=optimizer, learning_rate_schedule=schedule)
    report = fit(model, task(), training, verbose=False)
    assert loss_of(model) < before / 3
    assert report.summary["validation error %"] <= 10
    assert report.summary["validation samples"] == 40
    losses = [row["loss"] for row in report.rows]
    assert losses[-1] < losses[0] / 2


def test_one_epoch_of_sgd_is_a_plain_loop():
    model, plain = net(), net()
    fit(model, task(), quick(epochs=2, optimizer="sgd", keep="last"), verbose=False)
    optimizer = torch.optim.SGD(plain.parameters(), 0.05, momentum=0.9)
    for step in range(16):
        inputs, targets = task().train[step % 8]
        for group in optimizer.param_groups:  # half a cosine, from 1 down to 0
            group["lr"] = 0.05 * (1 + math.cos(math.pi * step / 16)) / 2
        optimizer.zero_grad()
        F.cross_entropy(plain(inputs), targets).backward()
        optimizer.step()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_another_seed_is_another_order():
    data = DataLoader(TensorDataset(*points(64)), 8, shuffle=True)
    trained = []
    for seed in (0, 0, 1):
        model = net()
        fit(model, task(data), quick(), seed=seed, verbose=False)
        trained.append(model[0].weight.detach())
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_every_epoch_gives_every_sample_once_in_another_order():
    seen = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(x[:, 3].tolist())
            return self.layer(x)

    inputs, targets = points(64)
    inputs[:, 3] = torch.arange(64)
    data = DataLoader(TensorDataset(inputs, targets), 8, shuffle=True)
    fit(Spy(), task(data), quick(epochs=2, learning_rate=1e-4), verbose=False)
    epochs = [list(itertools.chain(*seen[:8])), list(itertools.chain(*seen[8:]))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(64))] * 2
    assert epochs[0] != epochs[1] != list(range(64))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_step(value):
    model, calls = net(), []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        return F.cross_entropy(outputs, targets) * (value if len(calls) == 11 else 1)

    method = Snapshots(model)
    with pytest.raises(TrainingError, match=rf"^fc: the loss is {value} at step 11 \(epoch 2\)"):
        fit(model, task(loss=loss), quick(), methods=[method], label="fc", verbose=False)
    assert len(method.weights) == 10
    assert torch.equal(model[0].weight, method.weights[-1])


def test_the_best_epoch_on_validation_is_kept():
    model = net()
    method = Snapshots(model)
    report = fit(
        model, scripted([30, 20, 7, 9, 12]), quick(epochs=4), methods=[method], verbose=False
    )
    assert report.summary["epoch kept"] == 2
    assert report.summary["validation error %"] == 100 * 7 / 40
    assert torch.equal(model[0].weight, method.weights[15])
    assert [row["validation_error"] for row in report.rows] == [50.0, 17.5, 22.5, 30.0]


def test_of_equal_epochs_the_last_is_kept():
    report = fit(net(), scripted([30, 7, 9, 7]), quick(), verbose=False)
    assert report.summary["epoch kept"] == 3


def test_training_that_makes_it_worse_gives_back_the_model_as_it_was():
    model, before = net(), net()
    report = fit(model, scripted([5, 6, 7, 8]), quick(), verbose=False)
    assert report.summary["epoch kept"] == 0
    assert torch.equal(model[0].weight, before[0].weight)


def test_the_last_epoch_is_kept_if_wanted():
    model = net()
    method = Snapshots(model)
    report = fit(model, scripted([1, 7, 9, 9]), quick(keep="last"), methods=[method], verbose=False)
    assert report.summary["epoch kept"] == 3
    assert torch.equal(model[0].weight, method.weights[-1])


def test_an_epoch_with_an_unfinished_method_is_never_kept():
    model = net()
    method = Snapshots(model, finished_at=12)
    report = fit(model, scripted([1, 2, 9]), quick(), methods=[method], verbose=False)
    assert report.summary["epoch kept"] == 2  # the first epoch was better, but not finished
    assert torch.equal(model[0].weight, method.weights[15])
    with pytest.raises(ConfigError, match=r"train: no epoch could be kept.* in 3 epochs"):
        fit(net(), task(), quick(), methods=[Snapshots(net(), 99)], verbose=False)


def test_patience_counts_epochs_without_a_better_error():
    model = net()
    script = [30, 20, 21, 20, 20, 1, 1]
    report = fit(model, scripted(script), quick(epochs=6, patience=3), verbose=False)
    assert report.summary["epochs"] == 4  # 20 again is not better
    assert report.summary["epoch kept"] == 4
    assert len(report.rows) == 4
    longer = fit(net(), scripted(script), quick(epochs=6, patience=4), verbose=False)
    assert longer.summary["epochs"] == 6


def test_a_pruner_keeps_its_masks_and_a_tuner_its_codebooks_in_step_with_the_model():
    model = net()
    pruner = GradualPruner(model, 0.3, end=10, allocation="lamp")
    fit(model, task(), quick(), methods=[pruner], verbose=False)
    for name, mask in pruner.masks.items():
        assert torch.equal(model.get_parameter(name) != 0, mask)
    assert pruner.masks.kept == round(0.3 * 56)

    quantize_(model, 2, masks=pruner.masks)
    tuner = CodebookTuner(model, codebooks_of(model))
    report = fit(model, scripted([9, 8, 3, 7]), quick(), methods=[tuner], verbose=False)
    assert report.summary["epoch kept"] == 2
    for name, book in tuner.codebooks.items():
        assert torch.equal(book.decode(), model.get_parameter(name))


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_test_set_is_never_read(keep):
    with pytest.raises(AssertionError, match="the test set was read"):
        next(iter(task().test))
    fit(net(), task(), quick(keep=keep), verbose=False)


def test_the_log_has_one_json_line_an_epoch(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    report = fit(net(), task(), quick(), label="fc", log=log, verbose=False)
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(e["event"], e["label"], e["epoch"], e["step"]) for e in events] == [
        ("epoch", "fc", number, 8 * number) for number in (1, 2, 3)
    ]
    assert [e["validation_error"] for e in events] == [r["validation_error"] for r in report.rows]
    times = [event["time"] for event in events]
    assert times == sorted(times)


@pytest.mark.parametrize("label", ["train", "prune [fc1]"])
def test_elsewhere_than_on_a_terminal_there_is_a_plain_line_an_epoch(label, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    fit(net(), task(), quick(), label=label)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [[label, f"epoch {n}/3"] for n in (1, 2, 3)]
    assert all("loss " in line and "validation error" in line for line in lines)
    assert "\x1b" not in shown.err


@pytest.mark.parametrize("label", ["train", "prune [fc1]"])
def test_on_a_terminal_there_is_a_bar(label, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    fit(net(), task(), quick(), label=label)
    shown = capsys.readouterr().err
    assert "━" in shown
    assert "8/8" in shown
    assert f"{label}  epoch 3/3" in shown
    assert "validation error" in shown


def test_nothing_is_shown_when_not_wanted(capsys):
    fit(net(), task(), quick(), verbose=False)
    assert capsys.readouterr() == ("", "")


def test_bf16_trains_and_leaves_forward_and_the_parameters_as_they_were():
    model = net()
    seen = []
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    forward, attributes = model.forward, set(vars(model))
    fit(model, task(), quick(epochs=5, precision="bf16"), verbose=False)
    assert set(seen) == {torch.bfloat16}
    assert model.forward == forward
    assert set(vars(model)) == attributes
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model(points(2)[0]).dtype == torch.float32
    assert loss_of(model) < loss_of(net()) / 2


def test_precisions_can_follow_each_other_in_one_process():
    for precision in ("no", "bf16", "no"):
        seen = []
        model = net()
        model[0].register_forward_hook(lambda m, a, output, seen=seen: seen.append(output.dtype))
        fit(model, task(), quick(epochs=1, precision=precision), verbose=False)
        assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}


def test_a_precision_that_the_machine_does_not_have_is_named(monkeypatch):
    def refuse(*args, **kwargs):
        raise ValueError("fp16 mixed precision requires a GPU (not 'cpu')")

    monkeypatch.setattr("accelerate.Accelerator", refuse)
    with pytest.raises(ConfigError, match=r"precision: 'fp16'; .*requires a GPU"):
        fit(net(), task(), quick(precision="fp16"), verbose=False)


@pytest.fixture
def no_accelerator_yet():
    shared = AcceleratorState._shared_state
    before = dict(shared)
    shared.clear()
    yield
    shared.clear()
    shared.update(before)


@pytest.mark.usefixtures("no_accelerator_yet")
def test_an_accelerator_of_the_users_own_keeps_its_precision():
    state = Accelerator(mixed_precision="bf16").state
    fit(net(), task(), quick(), verbose=False)
    assert state.mixed_precision == "bf16"


def test_after_a_failure_forward_and_the_hooks_are_gone():
    model = net()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(model, task(loss=loss), quick(precision="bf16"), verbose=False)
    assert "forward" not in vars(model)
    fit(model, task(), quick(), verbose=False)


def test_a_missing_accelerate_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    for call in (lambda: fit(net(), task(), quick()), lambda: steps_per_epoch(task())):
        with pytest.raises(MissingExtraError, match=r"'accelerate'.*pip install 'tersor\[train\]'"):
            call()


def test_steps_of_an_epoch_are_its_batches():
    assert steps_per_epoch(task()) == 8
    loader = DataLoader(TensorDataset(*points(20)), 8)
    assert steps_per_epoch(task(loader)) == 3


def test_training_data_without_a_length_or_without_batches_is_named():
    class Endless:
        def __iter__(self):
            return iter(())

    with pytest.raises(ConfigError, match="task 'points': the training batches have no length"):
        fit(net(), task(Endless()), quick(), verbose=False)
    with pytest.raises(ConfigError, match="task 'points': there are no training batches"):
        fit(net(), task([]), quick(), verbose=False)


def test_frozen_parameters_stay():
    model = net()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    fit(model, task(), quick(optimizer="adamw", weight_decay=0.5), verbose=False)
    assert torch.equal(model[0].weight, before)


def test_a_model_with_nothing_to_train_is_named():
    model = net().requires_grad_(False)
    with pytest.raises(ConfigError, match="Sequential has no parameters to train"):
        fit(model, task(), quick(), verbose=False)


def test_a_last_batch_that_is_smaller_is_trained_on_too():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader = DataLoader(TensorDataset(*points(20)), 8, shuffle=True)
        report = fit(net(), task(loader), quick(), verbose=False)
    assert report.summary["optimizer steps"] == 9
