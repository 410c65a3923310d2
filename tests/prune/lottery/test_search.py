"""The search against a loop written out by hand, on a trainer that is no Stepper."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError, FormatError
from tersor.core.hooks import Method
from tersor.core.masks import MaskSet
from tersor.core.seeding import generator
from tersor.prune.lottery import CONTROLS, Tickets, TicketSettings, find_tickets

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, 0.02, weight_decay=0.1),
}
STEPS, WEIGHTS = 12, ("0.weight", "3.weight")


class Toy:
    """A trainer of twenty lines: batch and learning rate follow from the step's number."""

    def __init__(self, optimizer: str = "sgd", seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(
            nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 3)
        )
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.rate = self.optimizer.param_groups[0]["lr"]
        self.step = 0
        self.begins: list[tuple[int, dict[str, Tensor]]] = []

    def run(
        self,
        until: int,
        *,
        methods: Sequence[Method] = (),
        every: int | None = None,
        watch: Callable[[int], None] | None = None,
    ) -> None:
        with ExitStack() as stack:
            for method in methods:
                stack.enter_context(method.attach(self.optimizer))
            self.begins.append((self.step, clone(self.model.state_dict())))
            while self.step < until:
                self.one_step()
                if watch and (self.step == until or (every and self.step % every == 0)):
                    watch(self.step)

    def one_step(self) -> None:
        x, y = batch(self.step)
        self.optimizer.param_groups[0]["lr"] = self.rate * 0.9**self.step
        self.model.train()
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()
        self.step += 1

    def state_dict(self) -> dict[str, Any]:
        return copy.deepcopy(
            {
                "step": self.step,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))


def batch(step: int) -> tuple[Tensor, Tensor]:
    draws = generator(step, "toy")
    return torch.randn(16, 6, generator=draws), torch.randint(3, (16,), generator=draws)


def validate(model: nn.Module) -> float:
    x, y = batch(10**6)
    model.eval()
    with torch.no_grad():
        return nn.functional.cross_entropy(model(x), y).item()


def evaluate(model: nn.Module) -> dict[str, float]:
    x, y = batch(10**6 + 1)
    model.eval()
    with torch.no_grad():
        return {"right": (model(x).argmax(1) == y).float().mean().item()}


def search(trainer: Toy, folder: Path | None = None, **settings: Any) -> Tickets:
    given = TicketSettings(**({"steps": STEPS, "rounds": 3, "log_every": 3} | settings))
    return find_tickets(trainer, given, validate=validate, evaluate=evaluate, folder=folder)


def clone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[n].view(-1).view(torch.uint8), other[n].view(-1).view(torch.uint8))
        for n in one
    )


def smallest_go(model: nn.Module, masks: dict[str, Tensor], level: int) -> dict[str, Tensor]:
    """The next masks of the ladder, by sorting."""
    following = {}
    for name, fraction in zip(WEIGHTS, (0.2, 0.1), strict=True):
        weight = model.get_parameter(name).detach().abs().flatten()
        order = sorted(
            masks[name].flatten().nonzero().flatten().tolist(), key=lambda i: -weight[i].item()
        )
        kept = torch.zeros(weight.numel(), dtype=torch.bool)
        kept[order[: round(weight.numel() * (1 - fraction) ** level)]] = True
        following[name] = kept.view_as(masks[name])
    return following


def trained(toy: Toy, masks: dict[str, Tensor], until: int) -> None:
    """Train with the pruned weights set to zero by hand, before the first step and after each."""
    while True:
        with torch.no_grad():
            for name, mask in masks.items():
                toy.model.get_parameter(name)[~mask] = 0.0
        if toy.step == until:
            return
        toy.one_step()


def by_hand(strategy: str, optimizer: str, k: int, *, one_shot: bool) -> list[dict[str, Tensor]]:
    """What each level ends with, in the plainest words."""
    toy = Toy(optimizer)
    full = {name: torch.ones_like(toy.model.get_parameter(name)) > 0 for name in WEIGHTS}
    trained(toy, full, k)
    at_k = toy.state_dict()
    trained(toy, full, STEPS)
    ends, chain, masks = [clone(toy.model.state_dict())], toy.state_dict(), full
    dense = chain
    for level in (1, 2, 3):
        toy.load_state_dict(dense if one_shot else chain)
        masks = smallest_go(toy.model, full if one_shot else masks, level)
        if strategy in ("rewind", "continue"):
            toy.load_state_dict(at_k)
            trained(toy, masks, STEPS)
            ends.append(clone(toy.model.state_dict()))
            if strategy == "continue":
                toy.load_state_dict(chain)
                toy.step = k
                trained(toy, masks, STEPS)
        else:
            if strategy == "learning-rate":
                toy.step = k
            trained(toy, masks, toy.step + STEPS - k)
            ends.append(clone(toy.model.state_dict()))
        chain = toy.state_dict()
    return ends


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("k", [0, 4])
@pytest.mark.parametrize(
    ("strategy", "one_shot"),
    [
        ("rewind", False),
        ("learning-rate", False),
        ("fine-tune", False),
        ("continue", False),
        ("rewind", True),
        ("learning-rate", True),
        ("fine-tune", True),
    ],
)
def test_every_strategy_does_what_a_plain_loop_does_bit_for_bit(strategy, one_shot, k, optimizer):
    expected = by_hand(strategy, optimizer, k, one_shot=one_shot)
    found = search(Toy(optimizer), strategy=strategy, one_shot=one_shot, rewind_step=k)
    assert [
        same_bits(dict(level.trained), end)
        for level, end in zip(found.levels, expected, strict=True)
    ] == [True] * 4


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("k", [0, 5])
def test_a_round_begins_with_the_kept_weights_of_step_k_and_all_else_of_step_k(k, optimizer):
    dense = Toy(optimizer)
    dense.run(k)
    toy = Toy(optimizer)
    found = search(toy, rewind_step=k)
    rounds = toy.begins[1:]  # the first run was that to step k
    assert [step for step, _ in rounds] == [k] * 4
    for level, (_, begin) in zip(found.levels, rounds, strict=True):
        for name, tensor in dense.model.state_dict().items():
            mask = level.masks.get(name, torch.ones_like(tensor, dtype=torch.bool))
            assert torch.equal(begin[name][mask], tensor[mask])
            assert not begin[name][~mask].any()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masks_are_nested_and_pruned_weights_are_exactly_zero(optimizer):
    found = search(Toy(optimizer), rounds=5)
    for before, level in zip(found.levels, found.levels[1:], strict=False):
        for name in WEIGHTS:
            assert (before.masks[name] | ~level.masks[name]).all()
            assert not level.trained[name][~level.masks[name]].view(torch.int32).any()
        assert level.record.kept == {
            "0.weight": round(60 * 0.8**level.record.level),
            "3.weight": round(30 * 0.9**level.record.level),
        }


@pytest.mark.parametrize("k", [0, 1, 7])
def test_with_nothing_pruned_a_rewound_training_is_the_dense_one(k):
    nothing = {"0": 0.0, "3": 0.0}
    found = search(Toy(), layer_drop_fractions=nothing, rewind_step=k)
    assert all(same_bits(dict(x.trained), dict(found.levels[0].trained)) for x in found.levels)
    straight = Toy()
    straight.run(STEPS)
    assert same_bits(dict(found.levels[0].trained), clone(straight.model.state_dict()))


def test_looking_more_often_changes_nothing_but_the_log():
    often, seldom = search(Toy(), log_every=1), search(Toy(), log_every=100)
    for one, other in zip(often.levels, seldom.levels, strict=True):
        assert same_bits(dict(one.trained), dict(other.trained))
        assert [step for step, _ in one.record.log] == list(range(1, STEPS + 1))
        assert other.record.log == [one.record.log[-1]]


def test_the_early_stop_step_and_what_was_measured_there():
    record = search(Toy(), log_every=1, rounds=1).levels[1].record
    losses = []
    for step in range(1, STEPS + 1):
        again = Toy()
        again.load_state_dict(again.state_dict())
        masks = search(Toy(), rounds=1).levels[1].masks
        trained(again, dict(masks), step)
        losses.append((validate(again.model), step, evaluate(again.model)))
    least = min(losses, key=lambda entry: entry[0])
    assert record.early_stop_step == least[1]
    assert record.at_early_stop == least[2]
    assert record.at_end == losses[-1][2]
    assert [loss for _, loss in record.log] == [loss for loss, _, _ in losses]


class KilledError(Exception):
    pass


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("strategy", ["rewind", "continue", "learning-rate", "fine-tune"])
def test_a_killed_search_goes_on_and_ends_with_the_same_bytes(strategy, tmp_path):
    plan = {
        "strategy": strategy,
        "rewind_step": 2,
        "controls": ("random-mask", "random-reinit"),
        "pruned": "toward-zero",
    }
    whole = search(Toy(), tmp_path / "whole", **plan)
    for allowed in (0, 1, 15, 40, 25):  # optimizer steps before it is killed, each time anew
        toy = Toy()
        step, left = toy.one_step, [allowed]

        def one_step(step=step, left=left) -> None:
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
            step()

        toy.one_step = one_step
        with pytest.raises(KilledError):
            search(toy, tmp_path / "killed", **plan)
    resumed = search(Toy(), tmp_path / "killed", **plan)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert resumed.controls == whole.controls
    assert [x.record for x in resumed.levels] == [x.record for x in whole.levels]


def test_a_finished_search_is_read_and_not_trained_again(tmp_path):
    first = search(Toy(), tmp_path, controls=("random-mask",))
    toy = Toy()
    toy.one_step = lambda: pytest.fail("it trains")
    second = search(toy, tmp_path, controls=("random-mask",))
    assert second.report() == first.report()
    assert second.folder == first.folder
    assert str(second.folder).startswith(str(tmp_path / "tickets-"))
    for one, other in zip(first.levels, second.levels, strict=True):
        assert same_bits(dict(one.masks), dict(other.masks))
        assert same_bits(dict(one.trained), dict(other.trained))


def test_other_settings_and_other_starts_do_not_meet_in_one_folder(tmp_path):
    first = search(Toy(), tmp_path)
    assert search(Toy(), tmp_path, steps=STEPS + 1).folder != first.folder
    with pytest.raises(ConfigError, match=r"began with other weights \('0.weight'\)"):
        search(Toy(seed=1), tmp_path)


def test_damaged_files_are_named(tmp_path):
    folder = search(Toy(), tmp_path, controls=("random-mask",)).folder
    record = folder / "level-02-random-mask-0.json"
    record.write_text("{}")
    with pytest.raises(FormatError, match=r"level-02-random-mask-0\.json: no record of a network"):
        search(Toy(), tmp_path, controls=("random-mask",))
    (folder / "level-02.pt").write_bytes(b"x")
    with pytest.raises(FormatError, match=r"level-02\.pt: no checkpoint"):
        search(Toy(), tmp_path, controls=("random-mask",))


def test_the_trainer_stands_at_step_0_again_and_keeps_its_weights():
    toy = Toy()
    before = toy.state_dict()
    search(toy, rewind_step=3, controls=("noise-1",))
    assert toy.step == 0
    assert same_bits(clone(toy.model.state_dict()), clone(before["model"]))
    assert toy.optimizer.state_dict() == before["optimizer"]


@pytest.mark.parametrize("k", [0, 4])
def test_controls_of_the_weights_start_at_step_0_and_those_of_the_mask_at_step_k(k):
    toy = Toy()
    start = clone(toy.model.state_dict())
    names = ("random-mask", "redrawn")
    found = search(toy, rewind_step=k, controls=names, control_levels=(3,))
    assert [record.what for record in found.controls] == list(names)
    masked, dense, redrawn = toy.begins[-3:]  # redrawn: dense to step k, and then masked
    assert (masked[0], dense[0], redrawn[0]) == (k, 0, k)
    kept = start["0.weight"][found.levels[3].masks["0.weight"]]
    assert set(dense[1]["0.weight"].flatten().tolist()) <= set(kept.tolist())
    at_k = Toy()
    at_k.run(k)
    there = masked[1]["0.weight"] != 0
    assert int(there.sum()) == found.controls[0].kept["0.weight"]
    assert torch.equal(masked[1]["0.weight"][there], at_k.model[0].weight[there])
    again = Toy()
    again.model.load_state_dict(dense[1])
    again.run(k)
    mask = found.levels[3].masks["0.weight"]
    assert torch.equal(redrawn[1]["0.weight"][mask], again.model[0].weight[mask])


def test_every_draw_of_a_control_has_a_seed_of_its_own():
    plan = {"rounds": 2, "controls": CONTROLS, "control_draws": 2, "control_levels": (2,)}
    found = search(Toy(), **plan)
    assert [(c.what, c.draw) for c in found.controls] == [(n, d) for n in CONTROLS for d in (0, 1)]
    logs = {(c.what, c.draw): c.log for c in found.controls}
    for name in CONTROLS:
        drawn = name not in ("magnitude-at-init", "signed-constant")
        assert (logs[name, 0] != logs[name, 1]) == drawn
    assert search(Toy(), **plan).controls == found.controls
    other = {(c.what, c.draw): c.log for c in search(Toy(), **plan, seed=1).controls}
    assert other["random-mask", 0] != logs["random-mask", 0]


@pytest.mark.parametrize("pruned", ["initial", "toward-zero"])
def test_pruned_weights_can_stay_at_their_initial_value(pruned):
    toy = Toy()
    start = clone(toy.model.state_dict())
    found = search(toy, pruned=pruned)
    earlier = MaskSet.full([])
    for before, level in zip(found.levels, found.levels[1:], strict=False):
        for name in WEIGHTS:
            newly = before.masks[name] & ~level.masks[name]
            values, first = level.trained[name][newly], start[name][newly]
            to_zero = before.trained[name][newly].abs() < first.abs()
            expected = torch.where(to_zero, 0.0, first) if pruned == "toward-zero" else first
            assert torch.equal(values, expected)
            if name in earlier:  # what was pruned before has kept the value it was given then
                old = ~before.masks[name]
                assert torch.equal(level.trained[name][old], before.trained[name][old])
        earlier = before.masks


def test_another_criterion_and_its_data():
    toy = Toy()
    settings = TicketSettings(steps=3, rounds=1, criterion="snip")
    options = {"validate": validate, "evaluate": evaluate}
    with pytest.raises(ConfigError, match="'snip' looks at data, and there is none"):
        find_tickets(toy, settings, **options)
    toy = Toy()
    found = find_tickets(toy, settings, data=[batch(0)], **options)
    assert found.levels[1].record.kept == {"0.weight": 48, "3.weight": 27}


def test_only_what_is_selected_is_pruned():
    options = {"validate": validate, "evaluate": evaluate, "ignore": "3"}
    found = find_tickets(Toy(), TicketSettings(steps=3, rounds=1), **options)
    assert list(found.levels[1].masks) == ["0.weight"]
    assert found.levels[1].record.kept == {"0.weight": 54}  # the last one that is left: half


def test_the_report_has_a_row_for_each_network():
    report = search(Toy(), rounds=2, controls=("random-mask",), control_levels=(1,)).report()
    assert [(row["network"], row["level"]) for row in report.rows] == [
        ("dense", 0),
        ("ticket", 1),
        ("random-mask", 1),
        ("ticket", 2),
    ]
    assert report.rows[1]["density %"] == pytest.approx(100 * (48 + 27) / 90)
    assert {"early-stop step", "right at early stop", "right at the end"} <= set(report.rows[1])
    assert report.summary["steps of one training"] == STEPS
