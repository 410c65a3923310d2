"""Deep rewiring: a connection that would change its sign goes, and a random one comes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.core.errors import ConfigError
from tersor.core.hooks import Attachment, require_owned
from tersor.core.masks import MaskSet
from tersor.core.report import Report
from tersor.core.seeding import generator
from tersor.core.weights import Selectors
from tersor.prune.allocation import Allocation
from tersor.prune.dynamic import bits, optimizer_state
from tersor.prune.dynamic.starting import describe, starting_masks
from tersor.prune.transform import Density


class DeepR:
    """Train a fixed number of connections, each with a fixed sign, w = s * theta, theta >= 0.

    After every optimizer step, for the active connections:

        theta <- theta - lr * l1 + sqrt(2 * lr * temperature) * nu,   nu of N(0, 1)
        theta < 0: the connection becomes dormant, w = +0.0
        as many dormant ones, each with the same chance, become active: theta = 0, a random sign

    The number of active connections of all layers together never changes; that of a layer may.

    Args:
        model: the model that the optimizer trains; changed in place from `attach` on.
        density, masks, allocation, seed, select, ignore: as in `DropGrow`.
        l1: the pull towards 0, alpha of the paper; 1e-5 to 1e-4 there.
        temperature: of the noise, Gamma of the paper; a number, or a function of the step.

    Raises:
        ConfigError: an argument is out of range, or both or neither of `density` and `masks` are
            given.

    Source: Bellec, Kappel, Maass and Legenstein 2018, arXiv 1711.05136, algorithm 1. The gradient
    step is that of any optimizer; there it is plain SGD.

    >>> model = nn.Linear(10, 10)
    >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
    >>> method = DeepR(model, 0.2)
    >>> with method.attach(optimizer):
    ...     for _ in range(5):
    ...         optimizer.zero_grad()
    ...         model(torch.ones(1, 10)).square().sum().backward()
    ...         optimizer.step()
    >>> method.masks.kept
    20
    """

    finished = True  # the number of connections is there from the first step on

    def __init__(
        self,
        model: nn.Module,
        density: Density | None = None,
        *,
        l1: float = 1e-5,
        temperature: float | Callable[[int], float] = 0.0,
        masks: MaskSet | None = None,
        allocation: str | Allocation = "erk",
        seed: int = 0,
        select: Selectors = None,
        ignore: Selectors = None,
    ) -> None:
        if l1 < 0:
            raise ConfigError(f"l1: {l1}; expected 0 or more")
        self._temperature = temperature if callable(temperature) else lambda step: temperature
        if self._temperature(0) < 0:
            raise ConfigError(f"temperature: {self._temperature(0)}; expected 0 or more")
        self._weights, start, self._skipped = starting_masks(
            model,
            density,
            masks,
            allocation=allocation,
            seed=seed,
            select=select,
            ignore=ignore,
        )
        self._l1, self._seed = l1, seed
        self.step = 0
        self._optimizer: Optimizer | None = None
        # +1 or -1 for an active connection, 0 for a dormant one.
        self._signs = {
            w.name: start[w.name].to(w.parameter.device, w.parameter.dtype) for w in self._weights
        }

    @property
    def masks(self) -> MaskSet:
        """Which connections are active now."""
        return MaskSet({name: signs != 0 for name, signs in self._signs.items()})

    def attach(self, optimizer: Optimizer) -> Attachment:
        """Hold and rewire after every step of this optimizer, until detached.

        Raises:
            ConfigError: the optimizer does not step one of the weights.
        """
        require_owned(optimizer, [(w.name, w.parameter) for w in self._weights])
        self._optimizer = optimizer
        self._to_device()
        with torch.no_grad():
            for weight in self._weights:
                signs = self._signs[weight.name]
                bits.clear(weight.parameter, signs == 0)
                # theta is not negative, so a weight has the sign of its connection; one that is
                # zero has the sign it was given, or is positive.
                signs.copy_(torch.where(weight.parameter == 0, signs, weight.parameter.sign()))
        return Attachment(optimizer, after=self._after_step)

    def state_dict(self) -> dict[str, Any]:
        """The steps done and the signs."""
        return {
            "step": self.step,
            "signs": {name: signs.cpu().clone() for name, signs in self._signs.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`; attached or not."""
        self.step = int(state["step"])
        self._signs = {name: state["signs"][name].clone() for name in self._signs}
        self._to_device()

    def report(self) -> Report:
        """The connections as they are, layer by layer."""
        return describe(
            "Deep rewiring", self._weights, self.masks, self._skipped, {"steps": self.step}
        )

    @torch.no_grad()
    def _after_step(self) -> None:
        assert self._optimizer is not None  # hooks come after `attach`
        self.step += 1
        gone = 0
        for weight in self._weights:
            parameter, signs = weight.parameter, self._signs[weight.name]
            if not parameter.requires_grad:
                continue
            rate = float(optimizer_state.group_of(self._optimizer, parameter)["lr"])
            bits.clear(parameter, signs == 0)
            parameter.sub_(signs, alpha=rate * self._l1)
            self._shake(weight.name, parameter, signs, rate)
            across = parameter * signs < 0
            count = int(across.sum())
            if count:
                bits.clear(signs, across)
                bits.clear(parameter, across)
                gone += count
        if gone:
            self._wake(gone, self._optimizer)

    def _shake(self, name: str, parameter: nn.Parameter, signs: Tensor, rate: float) -> None:
        size = math.sqrt(2 * rate * self._temperature(self.step))
        if size:
            numbers = generator(self._seed, "noise", self.step, name)
            noise = torch.randn(signs.shape, generator=numbers).to(signs.device, signs.dtype)
            parameter.addcmul_(noise, signs, value=size)

    def _wake(self, count: int, optimizer: Optimizer) -> None:
        """Make some dormant connections active, each with the same chance, with theta = 0."""
        numbers = generator(self._seed, "wake", self.step)
        trained = [weight for weight in self._weights if weight.parameter.requires_grad]
        dormant = [self._signs[weight.name].flatten().cpu() == 0 for weight in trained]
        chosen = _some(torch.cat(dormant), count, numbers)
        drawn = torch.randint(2, (count,), generator=numbers, dtype=torch.int8) * 2 - 1
        woken = torch.zeros(sum(map(len, dormant)), dtype=torch.int8)
        parts = woken.index_copy_(0, chosen, drawn).split([len(part) for part in dormant])
        for weight, part in zip(trained, parts, strict=True):
            signs = self._signs[weight.name]
            new = part.view(signs.shape).to(signs.device)
            signs.add_(new)
            optimizer_state.clear(optimizer, weight.parameter, new != 0)

    def _to_device(self) -> None:
        for weight in self._weights:
            like = weight.parameter
            self._signs[weight.name] = self._signs[weight.name].to(like.device, like.dtype)


def _some(among: Tensor, count: int, numbers: torch.Generator) -> Tensor:
    """`count` different indices at which a bool vector is True, all sets with the same chance.

    What is drawn from all indices is as good as what is drawn from those that count, and quicker.
    """
    size = 4 * count
    while True:
        drawn = torch.randint(len(among), (size,), generator=numbers).unique()
        found = drawn[among[drawn]]
        if len(found) >= count:
            chosen: Tensor = found[torch.randperm(len(found), generator=numbers)[:count]]
            return chosen
        size *= 2
