"""The one loop of sparse-to-sparse training: now and then weights go, and others come.

Every so many steps the smallest weights of a layer become inactive and as many other places
become active, with the value zero. What is counted, looked at and dealt out are the rules of
`rules.py`; SET, RigL, SNFS, DSR and others are choices of them (`published.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.core.errors import ConfigError
from tersor.core.hooks import Attachment, require_owned, unwrap
from tersor.core.masks import MaskSet
from tersor.core.report import Report
from tersor.core.seeding import generator
from tersor.core.tables import look_up
from tersor.core.weights import Selectors
from tersor.prune.allocation import Allocation
from tersor.prune.dynamic import optimizer_state
from tersor.prune.dynamic.rules import DROPS, GROWS, SHARES, Drop, Grow, Layer, Memory, Share
from tersor.prune.dynamic.spreading import spread
from tersor.prune.dynamic.starting import describe, starting_masks
from tersor.prune.dynamic.top import top
from tersor.prune.transform import Density


class DropGrow:
    """Train a sparse network whose active places move; their number stays.

    Step t is the t-th step of the optimizer. At t = every, 2 * every, ... < end:

        a layer's smallest |w| go, as many as the drop rule says; the rest survives
        as many places as went in all are dealt out to the layers by the share rule
        in each layer the places outside the survivors with the highest grow scores come

    A weight that went and came back at once keeps its value. Places that were not active before
    start at +0.0 and with optimizer buffers of zero. Where the grow rule looks at the gradient the
    update takes the place of that optimizer step. All weights that are not active are +0.0 after
    every step, whatever the optimizer does.

    Args:
        model: the model that the optimizer trains; changed in place from `attach` on.
        density: of the random masks at the start, as in `prune_`; or give `masks`.
        end: the step from which on the masks stay.
        every: optimizer steps between two updates.
        drop_fraction: the share of the active weights that an update drops, 0 <= f < 1; a number,
            or a function of the step.
        drop: a name of `DROPS`, or a function of their form.
        grow: a name of `GROWS`, or a `Grow`.
        share: a name of `SHARES`, or a function of their form.
        shrink: a function of the step to the density of all layers together, which may not rise:
            the network becomes sparser, each layer in proportion to what it has. Without it the
            number of active weights never changes.
        masks: to start from; a weight without one is left alone.
        allocation, select, ignore: as in `prune_`.
        seed: of all that is random; the same on all processes.

    Raises:
        ConfigError: an argument is out of range or unknown, or both or neither of `density` and
            `masks` are given.

    Source: the loop is that of Mocanu et al. 2018 (SET), arXiv 1707.04780, as Evci et al. 2020
    (RigL), arXiv 1911.11134, algorithm 1, write it. Equal scores are ordered by flat index, where
    RigL's code adds noise of 1e-5.

    >>> model = nn.Linear(10, 10)
    >>> optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    >>> method = DropGrow(model, 0.2, end=8, every=2, drop_fraction=0.5, grow="gradient")
    >>> before = method.masks["weight"]
    >>> with method.attach(optimizer):
    ...     for step in range(8):
    ...         optimizer.zero_grad()
    ...         model(torch.eye(10)[step : step + 2]).square().sum().backward()
    ...         optimizer.step()
    >>> method.masks.kept, bool((method.masks["weight"] != before).any()), method.finished
    (20, True, True)
    """

    def __init__(
        self,
        model: nn.Module,
        density: Density | None = None,
        *,
        end: int,
        every: int = 100,
        drop_fraction: float | Callable[[int], float] = 0.3,
        drop: str | Drop = "magnitude",
        grow: str | Grow = "random",
        share: str | Share = "own",
        shrink: Callable[[int], float] | None = None,
        masks: MaskSet | None = None,
        allocation: str | Allocation = "erk",
        seed: int = 0,
        select: Selectors = None,
        ignore: Selectors = None,
    ) -> None:
        if every < 1:
            raise ConfigError(f"every: {every}; expected at least 1 optimizer step")
        if end < 0:
            raise ConfigError(f"end: {end}; expected 0 or more optimizer steps")
        self._fraction = drop_fraction if callable(drop_fraction) else lambda step: drop_fraction
        _checked(self._fraction(0))
        self._drop = look_up("drop", drop, DROPS)
        self._grow = look_up("grow", grow, GROWS)
        self._share = look_up("share", share, SHARES)
        self._weights, self.masks, self._skipped = starting_masks(
            model,
            density,
            masks,
            allocation=allocation,
            seed=seed,
            select=select,
            ignore=ignore,
        )
        self._model, self._end, self._every, self._seed = model, end, every, seed
        self._shrink = shrink
        self.step = 0
        self._memory: Memory = {}
        self._optimizer: Optimizer | None = None
        self._hold = self.masks.holder(model)

    @property
    def finished(self) -> bool:
        """Whether the masks stay as they are."""
        return self.step >= self._end

    def attach(self, optimizer: Optimizer) -> Attachment:
        """Hold and update through every step of this optimizer, until detached.

        Raises:
            ConfigError: the optimizer does not step one of the weights, or keeps no momentum
                where a rule looks at it.
        """
        named = [(w.name, w.parameter) for w in self._weights]
        require_owned(optimizer, named)
        if self._grow.needs_momentum:
            optimizer_state.require_momentum(optimizer, named)
        self._optimizer = unwrap(optimizer)
        self._hold = self.masks.holder(self._model)  # the model may have moved since
        self._hold()
        before = self._before_step if self._grow.instead_of_step else None
        return Attachment(optimizer, before=before, after=self._after_step)

    def state_dict(self) -> dict[str, Any]:
        """The steps done, the masks, and what the drop rule remembers."""
        return {
            "step": self.step,
            "masks": self.masks.state_dict(),
            "memory": dict(self._memory),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`; attached or not."""
        self.step = int(state["step"])
        self.masks.load_state_dict(state["masks"])
        self._memory = dict(state["memory"])
        self._hold = self.masks.holder(self._model)

    def report(self) -> Report:
        """The masks as they are, layer by layer."""
        summary = {"steps": self.step, "masks stay from step": self._end} | self._memory
        return describe("Sparse training", self._weights, self.masks, self._skipped, summary)

    def _due(self, step: int) -> bool:
        return step % self._every == 0 and 0 < step < self._end

    def _before_step(self) -> None:
        if self._due(self.step + 1):
            self._update(self.step + 1)
            for group in self._optimizer.param_groups if self._optimizer else ():
                for parameter in group["params"]:
                    parameter.grad = None  # what has no gradient is not stepped

    def _after_step(self) -> None:
        self.step += 1
        self._hold()
        if not self._grow.instead_of_step and self._due(self.step):
            self._update(self.step)
            self._hold()

    @torch.no_grad()
    def _update(self, step: int) -> None:
        layers = self._layers()
        active = {layer.name: layer.active for layer in layers}
        # Of what becomes fewer for good every layer gives its part; none gives its last weight.
        spare = {name: max(count - 1, 0) for name, count in active.items()}
        lost = spread(min(self._surplus(step), sum(spare.values())), active, spare)
        moved = self._drop(layers, _checked(self._fraction(step)), self._memory)
        moved = {name: min(count, spare[name] - lost[name]) for name, count in moved.items()}
        dropped = {name: count + lost[name] for name, count in moved.items()}
        if not any(dropped.values()):
            return
        room = {layer.name: layer.mask.numel() - layer.active for layer in layers}
        room = {name: count + dropped[name] for name, count in room.items()}
        arrivals = spread(sum(moved.values()), self._share(layers, dropped), room)
        masks = dict(self.masks)
        for layer in layers:
            name = layer.name
            masks[name] = self._moved(layer, dropped[name], arrivals[name], step)
        self.masks = MaskSet(masks)
        self._hold = self.masks.holder(self._model)

    def _moved(self, layer: Layer, leaving: int, arriving: int, step: int) -> Tensor:
        """The mask of a layer after an update, the optimizer's buffers cleared where it is new."""
        survivors = layer.mask & ~top(layer.parameter.abs().neg_(), leaving, layer.mask)
        numbers = generator(self._seed, "grow", step, layer.name)
        mask = survivors | top(self._grow.scores(layer, numbers), arriving, ~survivors)
        optimizer_state.clear(layer.optimizer, layer.parameter, mask & ~layer.mask)
        return mask

    def _layers(self) -> list[Layer]:
        """The weights that this step trains; one that is frozen or was not used stays."""
        assert self._optimizer is not None  # hooks come after `attach`
        layers = []
        for weight in self._weights:
            unused = self._grow.instead_of_step and weight.parameter.grad is None
            if weight.parameter.requires_grad and not unused:
                mask = self.masks[weight.name].to(weight.parameter.device)
                count = int(mask.sum())
                layers.append(Layer(weight.name, weight.parameter, mask, count, self._optimizer))
        return layers

    def _surplus(self, step: int) -> int:
        if self._shrink is None:
            return 0
        return max(self.masks.kept - round(self._shrink(step) * self.masks.total), 0)


def _checked(fraction: float) -> float:
    if not 0 <= fraction < 1:
        raise ConfigError(
            f"drop_fraction: {fraction}; expected 0 <= drop_fraction < 1, "
            "the share of the active weights that an update drops"
        )
    return fraction
