"""Train a network that sees quantized weights: a method for any optimizer.

Between steps the parameters hold the quantized values, so whoever evaluates or saves the model sees
what it will be; the method keeps the hidden weights, and puts them in place for the step alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.core.errors import ConfigError, did_you_mean
from tersor.core.hooks import Attachment, require_owned, unwrap
from tersor.core.report import Report, Value
from tersor.core.seeding import derive
from tersor.core.weights import Selectors, Weight, assign, survey
from tersor.quantize.hidden_weight import HiddenWeight
from tersor.quantize.learners import Moment, StraightThrough, Training
from tersor.quantize.noise import check_noise, noisy_blocks
from tersor.quantize.orientation import as_stored
from tersor.quantize.quantizer import Quantizer
from tersor.quantize.trainings import TRAININGS, as_training
from tersor.quantize.transform import check_shaped, errors, kept_entries

How = str | Quantizer | Training


class QuantizedTraining:
    """Quantize the weights through a training; what it learns, and how, its rule says.

    Before a step the gradient of the quantized values becomes that of the hidden weights, which are
    put into the parameters; the optimizer moves these (with its momentum and weight decay);
    after the step they are taken back, and the parameters hold quantized values again. What a rule
    learns besides (steps, values, ranges) is trained by an Adam of its own.

    Args:
        model: the model that the optimizer trains, with the weights to begin with.
        how: a `Training` (`LearnedStep(4)`), a quantizer, which is then trained straight through,
            or a name of `TRAININGS` with its defaults; or one for each of some selectors, and then
            what none of them names trains as ever.
        masks: which weights are kept, by name; a tensor without a mask keeps its non-zero ones.
            What is not kept stays zero.
        noise: share of the blocks that are quantized at each step before `end` (quantization
            noise); the other blocks have exact gradients.
        block: weights of such a block, consecutive inputs of an output.
        end: optimizer steps after which all is quantized, and rounded to the nearest: for `noise`
            below 1 and for stochastic rounding.
        learning_rate: of what is learned besides the weights, as a share of its size at first, in a
            step; it falls and rises as the optimizer's own rate does.
        seed: of noise and stochastic rounding.
        select, ignore: which weights take part, as in `tersor.core.prunable`.
        ends: False leaves the first and the last weight of the model as they are.

    Raises:
        ConfigError: a setting is out of range, a mask does not fit, or no weight is left.

    A closure that evaluates the model inside `optimizer.step` (LBFGS) would see hidden weights:
    such optimizers are not for this.

    >>> from tersor.quantize import QuantizedTraining
    >>> _ = torch.manual_seed(0)
    >>> model, x = nn.Linear(8, 4), torch.randn(64, 8)
    >>> y = x[:, :4].sign()
    >>> optimizer = torch.optim.Adam(model.parameters(), 0.02)
    >>> losses = []
    >>> with QuantizedTraining(model, "ttq").attach(optimizer):
    ...     for _ in range(80):
    ...         optimizer.zero_grad()
    ...         loss = (model(x) - y).square().mean()
    ...         loss.backward()
    ...         optimizer.step()
    ...         losses.append(loss.item())
    >>> len(model.weight.unique()), losses[-1] < losses[0] / 2
    (3, True)
    """

    def __init__(
        self,
        model: nn.Module,
        how: How | Mapping[str, How],
        *,
        masks: Mapping[str, Tensor] | None = None,
        noise: float = 1.0,
        block: int = 8,
        end: int = 0,
        learning_rate: float = 1e-3,
        seed: int = 0,
        select: Selectors = None,
        ignore: Selectors = None,
        ends: bool = True,
    ) -> None:
        check_noise(noise, block)
        if end < 0:
            raise ConfigError(f"end: {end}; expected 0 or more optimizer steps")
        if noise < 1 and end == 0:
            raise ConfigError(
                f"noise: {noise}; expected `end` beside it, the steps until all is quantized"
            )
        if not learning_rate >= 0:
            raise ConfigError(f"learning_rate: {learning_rate!r}; expected 0 or more")
        weights, self._skipped = survey(model, select=select, ignore=ignore)
        if not ends:
            for weight in (weights[0], weights[-1]):
                self._skipped[weight.name] = "the first or the last weight"
            weights = weights[1:-1]
        check_shaped(model, masks or {}, "mask")
        chosen = _chosen(model, how, weights)
        self._parts: dict[str, HiddenWeight] = {}
        for weight in weights:
            if weight.name not in chosen:
                self._skipped[weight.name] = "no training given"
                continue
            kept = kept_entries(weight, masks or {})
            if not bool(kept.any()):
                self._skipped[weight.name] = "all of its weights are zero"
                continue
            self._parts[weight.name] = HiddenWeight(weight, chosen[weight.name], kept)
        if not self._parts:
            raise ConfigError(f"{type(model).__name__}: no weight is left to be quantized")
        self._noise, self._block, self._end, self._seed = noise, block, end, seed
        self.step = 0
        self._ended = False  # by `finish`
        self._rate = learning_rate
        self._base: float | None = None  # the optimizer's learning rate at first
        groups = [
            {"params": [p], "lr": 0.0, "size": max(float(p.detach().abs().mean()), 1e-12)}
            for part in self._parts.values()
            for p in part.learner.learned.values()
        ]
        self._own = torch.optim.Adam(groups) if groups else None

    @property
    def finished(self) -> bool:
        """Whether all values are on their grids."""
        return self._ended or (
            self.step >= self._end
            and all(part.learner.finished(self.step) for part in self._parts.values())
        )

    def attach(self, optimizer: Optimizer) -> Attachment:
        """Train with quantized weights through every step of this optimizer, until detached.

        Raises:
            ConfigError: the optimizer does not step one of the weights.
        """
        named = [(n, p.weight.parameter) for n, p in self._parts.items()]
        require_owned(optimizer, named)
        inner = unwrap(optimizer)
        first = id(named[0][1])
        owner = next(
            (g for g in inner.param_groups if any(id(p) == first for p in g["params"])),
            inner.param_groups[0],
        )
        if self._base is None:
            self._base = float(owner.get("initial_lr", owner["lr"]))
        for part in self._parts.values():
            part.to_device()
        if self.step == 0:
            self._write(inner)
        else:
            for part in self._parts.values():
                part.show()
        return Attachment(
            optimizer, before=self._before_step, after=lambda: self._after_step(inner, owner)
        )

    def finish(self) -> None:
        """Quantize all now, rounded to the nearest, whatever `end` and shares say."""
        self._ended = True
        for part in self._parts.values():
            part.quantize(Moment(self.step))
            part.show()

    def latent(self, name: str) -> Tensor:
        """The hidden weights of a tensor, in its own shape."""
        return as_stored(self._parts[name].weight, self._parts[name].latent)

    def learned(self, name: str) -> dict[str, Tensor]:
        """What is learned besides the weights of a tensor: steps, values, ranges."""
        return {n: p.detach() for n, p in self._parts[name].learner.learned.items()}

    def state_dict(self) -> dict[str, Any]:
        """The steps done, hidden weights, values and all that is learned."""
        return {
            "step": self.step,
            "ended": self._ended,
            "base": self._base,
            "own": None if self._own is None else self._own.state_dict(),
            "parts": {name: part.state() for name, part in self._parts.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`, attached or not; the weights take its values."""
        if set(state["parts"]) != set(self._parts):
            raise ConfigError("a state of other weights than those that are quantized here")
        self.step, self._base = int(state["step"]), state["base"]
        self._ended = bool(state["ended"])
        for name, part in self._parts.items():
            part.load(state["parts"][name])
        if self._own is not None:
            self._own.load_state_dict(state["own"])

    def report(self) -> Report:
        """How far the values are from the hidden weights, and what was learned."""
        rows: list[dict[str, Value]] = []
        for name, part in self._parts.items():
            row: dict[str, Value] = {"name": name, "training": _label(part.training)}
            row |= {"kept": int(part.kept.sum()), "bits": part.training.bits}
            rows.append(row | errors(part.latent, part.values, part.kept))
        summary: dict[str, Value] = {
            "optimizer steps": self.step,
            "finished": self.finished,
            "tensors": len(rows),
        }
        return Report("Training with quantized weights", summary, rows, self._skipped)

    @torch.no_grad()
    def _before_step(self) -> None:
        for part in self._parts.values():
            part.hide()

    @torch.no_grad()
    def _after_step(self, inner: Optimizer, owner: Mapping[str, Any]) -> None:
        for part in self._parts.values():
            part.take()
        if self._own is not None:
            factor = owner["lr"] / self._base if self._base else 1.0
            for group in self._own.param_groups:
                group["lr"] = self._rate * factor * group["size"]
            self._own.step()
            self._own.zero_grad()
        self.step += 1
        for part in self._parts.values():
            part.learner.restrain(part.latent)
        self._write(inner)

    def _write(self, inner: Optimizer) -> None:
        for name, part in self._parts.items():
            generator = noisy = None
            if self._ended:
                pass
            elif self.step < self._end or not part.learner.finished(self.step):
                generator = torch.Generator().manual_seed(derive(self._seed, name, self.step))
                if self._noise < 1 and self.step < self._end:
                    shape = part.latent.shape
                    noisy = noisy_blocks(shape, self._noise, self._block, generator)
            part.quantize(Moment(self.step, generator, part.curvature(inner)), noisy)
            part.show()


def _chosen(
    model: nn.Module, how: How | Mapping[str, How], weights: list[Weight]
) -> dict[str, Training]:
    if isinstance(how, Mapping):
        found = {selector: _training(value) for selector, value in how.items()}
        return assign(model, found, weights, what="how")
    return dict.fromkeys((weight.name for weight in weights), _training(how))


def _training(value: How) -> Training:
    if isinstance(value, str):
        if value not in TRAININGS:
            raise ConfigError(f"training {value!r}: {did_you_mean(value, TRAININGS)}")
        if value == "inq":
            raise ConfigError("training 'inq': give Incremental(every=...), its steps for a share")
        return TRAININGS[value]()
    found = as_training(value)
    if found is None:
        raise ConfigError(
            f"training: {value!r}; expected one as LearnedStep(4), a quantizer as Affine(4), "
            "or a name of TRAININGS"
        )
    return found


def _label(training: Training) -> str:
    shown = training.quantizer if isinstance(training, StraightThrough) else training
    return repr(shown)
