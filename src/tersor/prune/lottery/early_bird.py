"""Early-bird tickets: which channels matter is settled long before the training ends.

Each epoch the channels with the largest normalisation scales are drawn as a mask; when it has not
moved for some epochs, the ticket is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.core.errors import ConfigError
from tersor.core.hooks import Attachment, require_owned
from tersor.core.masks import MaskSet
from tersor.prune.selection import highest


class EarlyBird:
    """Watch the scales of batch normalisation until their order settles.

    distance(m, m') = channels in which they differ / channels

    After each epoch `observe()` draws a mask and compares it with those of the last `window`
    epochs. Once there are so many, and the largest distance is below `tolerance`, it is found.
    While attached, an L1 penalty pushes the scales towards zero: strength * sign(scale) is added to
    their gradients.

    Args:
        model: the model that is trained.
        density: the share of channels that are kept, 0 < density < 1, over all layers together.
        window: epochs that a mask is compared with.
        tolerance: the distance below which two masks count as the same.
        strength: of the L1 penalty; 0 is none.

    Raises:
        ConfigError: an argument is out of range, or the model has no batch normalisation with
            scales.

    Source: You, Li, Xu, Fu, Wang, Chen, Baraniuk, Wang and Lin 2020, arXiv 1909.11957, section 3
    and algorithm 1, with their window 5, tolerance 0.1 and strength 1e-4. Difference: the
    channels are silenced by masks over scale and shift, not cut out; the training goes on with
    them at zero.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    >>> _ = model[1].weight.data.copy_(torch.tensor([0.1, 0.9, 0.2, 0.8]))
    >>> bird = EarlyBird(model, 0.5, window=2)
    >>> [bird.observe() for _ in range(3)], bird.masks["1.weight"].tolist()
    ([False, False, True], [False, True, False, True])
    """

    def __init__(
        self,
        model: nn.Module,
        density: float,
        *,
        window: int = 5,
        tolerance: float = 0.1,
        strength: float = 1e-4,
    ) -> None:
        if not 0 < density < 1:
            raise ConfigError(f"EarlyBird: density {density}; expected 0 < density < 1")
        if window < 1:
            raise ConfigError(f"EarlyBird: window {window}; expected 1 epoch or more")
        if not 0 < tolerance <= 1:
            raise ConfigError(f"EarlyBird: tolerance {tolerance}; expected 0 < tolerance <= 1")
        if strength < 0:
            raise ConfigError(f"EarlyBird: strength {strength}; expected 0 or more")
        self._scales = {
            name: module.weight
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
        }
        if not self._scales:
            raise ConfigError(
                f"EarlyBird: {type(model).__name__} has no batch normalisation with scales, so "
                "there are no channels to rank"
            )
        self._density, self._window = density, window
        self._tolerance, self._strength = tolerance, strength
        self._seen: list[Tensor] = []  # the newest last, one bool a channel
        self.distances: list[float] = []
        self.found = False

    @property
    def finished(self) -> bool:
        """Whether the ticket is found."""
        return self.found

    @property
    def masks(self) -> MaskSet:
        """The channels that the last look kept, over each layer's scale and shift.

        A layer that kept none is left out: without it nothing would reach the output.

        Raises:
            ConfigError: there was no look yet.
        """
        if not self._seen:
            raise ConfigError("EarlyBird: no mask yet; observe() after an epoch first")
        parts = torch.split(self._seen[-1], [scale.numel() for scale in self._scales.values()])
        kept = {n: part for n, part in zip(self._scales, parts, strict=True) if part.any()}
        return MaskSet({f"{n}.{p}": part for n, part in kept.items() for p in ("weight", "bias")})

    def observe(self) -> bool:
        """Draw the mask of this epoch; whether the ticket is found is given."""
        flat = torch.cat([scale.detach().abs().flatten().cpu() for scale in self._scales.values()])
        mask = highest(flat, max(1, round(self._density * flat.numel())))
        distances = [float((mask != seen).float().mean()) for seen in self._seen]
        if distances:
            self.distances.append(max(distances))
        if len(distances) == self._window and max(distances) < self._tolerance:
            self.found = True
        self._seen = [*self._seen, mask][-self._window :]
        return self.found

    def attach(self, optimizer: Optimizer) -> Attachment:
        """Add the penalty to the gradients of the scales before each step, until detached.

        Raises:
            ConfigError: the optimizer does not step one of the scales.
        """
        require_owned(optimizer, [(f"{n}.weight", scale) for n, scale in self._scales.items()])
        return Attachment(optimizer, before=self._penalise)

    def state_dict(self) -> dict[str, Any]:
        """The masks of the last epochs, the distances, and whether it is found."""
        return {
            "seen": [mask.clone() for mask in self._seen],
            "distances": list(self.distances),
            "found": self.found,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict()`."""
        self._seen = [mask.clone() for mask in state["seen"]]
        self.distances, self.found = list(state["distances"]), bool(state["found"])

    def _penalise(self) -> None:
        for scale in self._scales.values():
            if scale.grad is not None:
                scale.grad.add_(scale.detach().sign(), alpha=self._strength)
