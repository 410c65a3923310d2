"""The model is a sparse view of dense weights: what is not seen is kept aside and goes on training.

Between two steps the model holds the forward weights, and +0.0 elsewhere. `rest` holds the others.
Before the optimizer's step the two are put together, after it they are taken apart again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.core.errors import ConfigError
from tersor.core.hooks import Attachment, require_owned
from tersor.core.masks import MaskSet
from tersor.core.report import Report
from tersor.core.weights import Weight
from tersor.prune.dynamic.bits import bits, integers
from tersor.prune.dynamic.starting import describe

Choose = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Dense weights by name to bool masks by name, True = seen."""


class SparseView:
    """Train dense weights through a model that only ever shows some of them.

    A step of the optimizer, with the forward weights A, the trained weights B (A in B) and the
    gradient g of the loss at the sparse model:

        g <- g + active_decay * W  on A,   g <- g + rest_decay * W  outside A,   g <- 0 outside B
        the optimizer steps W with g; outside B nothing moves, whatever the optimizer does
        every so many steps A and B are chosen anew from |W|
        the model gets W on A and +0.0 outside

    So a weight outside A can grow until it is seen. The weights that are kept aside take as much
    memory as the model's. Give the optimizer no weight decay of its own for these weights, or all
    of B decays by it.

    Args:
        model: the model that the optimizer trains; changed in place from `attach` on.
        weights: those that take part.
        forward: chooses A.
        backward: chooses B, all of A among it; without it B is everything.
        every: optimizer steps between two choices.
        active_decay, rest_decay: by name of the weight, or none.
        skipped: why other weights do not take part, for the report.

    Raises:
        ConfigError: `every` is out of range.

    Source: see `top_kast`, `sr_ste` and `dynamic_filters`, which are made of it.
    """

    finished = True  # what the model shows has the structure from the first step on

    def __init__(
        self,
        model: nn.Module,
        weights: list[Weight],
        forward: Choose,
        *,
        backward: Choose | None = None,
        every: int = 1,
        active_decay: Mapping[str, float] | None = None,
        rest_decay: Mapping[str, float] | None = None,
        skipped: Mapping[str, str] | None = None,
    ) -> None:
        if every < 1:
            raise ConfigError(f"every: {every}; expected at least 1 optimizer step")
        self._model, self._weights, self._every = model, weights, every
        self._forward, self._backward = forward, backward
        self._active_decay, self._rest_decay = active_decay or {}, rest_decay or {}
        self._skipped = dict(skipped or {})
        self.step = 0
        self.masks = MaskSet.full(weights)
        self.trained = MaskSet.full(weights)
        self._rest = {w.name: torch.zeros_like(w.parameter.detach()) for w in weights}
        self._bits: dict[str, tuple[Tensor, Tensor | None]] = {}

    def attach(self, optimizer: Optimizer) -> Attachment:
        """Show the sparse model now and after every step of this optimizer, until detached.

        Raises:
            ConfigError: the optimizer does not step one of the weights.
        """
        require_owned(optimizer, [(w.name, w.parameter) for w in self._weights])
        self._to_device()
        if self.step == 0:
            self._join()
            self._choose()
            self._part()
        else:
            self.masks.apply(self._model)
        return Attachment(optimizer, before=self._before_step, after=self._after_step)

    def finalize(self) -> MaskSet:
        """Forget the weights that are not seen; the model as it is is the result.

        Returns:
            The masks of it, to be held while it trains on.
        """
        self._rest = {name: torch.zeros_like(rest) for name, rest in self._rest.items()}
        return self.masks

    def state_dict(self) -> dict[str, Any]:
        """The steps done, the masks of A and B, and the weights that are not seen."""
        return {
            "step": self.step,
            "masks": self.masks.state_dict(),
            "trained": self.trained.state_dict(),
            "rest": {name: rest.detach().cpu().clone() for name, rest in self._rest.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`, attached or not; the model's own state is not in it."""
        self.step = int(state["step"])
        self.masks.load_state_dict(state["masks"])
        self.trained.load_state_dict(state["trained"])
        self._rest = {name: state["rest"][name].clone() for name in self._rest}
        self._to_device()

    def report(self) -> Report:
        """What the model shows, layer by layer."""
        summary = {"steps": self.step, "density trained": self.trained.density}
        return describe("Sparse view", self._weights, self.masks, self._skipped, summary)

    @torch.no_grad()
    def _before_step(self) -> None:
        for weight in self._weights:
            name, gradient = weight.name, weight.parameter.grad
            if gradient is None:
                continue
            if self._active_decay.get(name):
                gradient.add_(weight.parameter, alpha=self._active_decay[name])
            if self._rest_decay.get(name):
                gradient.add_(self._rest[name], alpha=self._rest_decay[name])
            trained = self._bits[name][1]
            if trained is not None:
                integers(gradient).bitwise_and_(trained)
        self._join()

    @torch.no_grad()
    def _after_step(self) -> None:
        self.step += 1
        for weight in self._weights:
            trained = self._bits[weight.name][1]
            if trained is not None:  # outside B as before the step: there `rest` has it
                seen = integers(weight.parameter)
                # a ^ ((a ^ b) & m) is b where m, else a: three passes, no copy of a
                unmoved = integers(self._rest[weight.name])
                seen.bitwise_xor_(unmoved).bitwise_and_(trained).bitwise_xor_(unmoved)
        if self.step % self._every == 0:
            self._choose()
        self._part()

    @torch.no_grad()
    def _join(self) -> None:
        """The dense weights into the model: where one of the two is +0.0, "or" gives the other."""
        for weight in self._weights:
            integers(weight.parameter).bitwise_or_(integers(self._rest[weight.name]))

    @torch.no_grad()
    def _part(self) -> None:
        """The dense weights, which the model has, into what it goes on showing and the rest."""
        for weight in self._weights:
            values, rest = integers(weight.parameter), integers(self._rest[weight.name])
            rest.copy_(values)
            values.bitwise_and_(self._bits[weight.name][0])
            rest.bitwise_xor_(values)

    @torch.no_grad()
    def _choose(self) -> None:
        """A and B from the dense weights, which are in the model now."""
        dense = {weight.name: weight.parameter.detach() for weight in self._weights}
        self.masks = MaskSet(dict(self._forward(dense)))
        if self._backward is not None:
            self.trained = MaskSet(dict(self._backward(dense)))
        self._to_device()

    def _to_device(self) -> None:
        """The masks as integers of the weights' width, and all else beside the model."""
        for weight in self._weights:
            name, like = weight.name, weight.parameter
            self._rest[name] = self._rest[name].to(like.device, like.dtype)
            trained = None if self._backward is None else bits(self.trained[name], like)
            self._bits[name] = (bits(self.masks[name], like), trained)
