"""Train a network under a mixture prior beside any loop, then let each weight be a mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from tersor.core.errors import ConfigError
from tersor.core.hooks import Attachment, require_owned
from tersor.core.report import Report, Value
from tersor.core.weights import Selectors, survey
from tersor.share.soft import MixturePrior, merge_


class SoftSharing:
    """Add the gradient of strength * -log p(weights) before each step, and train the mixture.

    What is zero at the start stays zero. When training is over, `harden_` gives the weights their
    values; until then they are many.

    Args:
        model: a trained network.
        components: free ones of the mixture.
        strength: tau / training samples where the loss is a mean over samples; Ullrich et al. take
            tau = 0.005.
        learning_rate: of the mixture, which Adam trains.
        zero: the share of the component at zero.
        select, ignore: which weights take part, as in `tersor.core.prunable`.
        merge_below: as `below` of `merge_`, at the end.

    Raises:
        ConfigError: a setting is out of range.

    Source: Ullrich, Meeds and Welling 2017, arXiv 1702.04008; biases are left out.

    >>> _ = torch.manual_seed(0)
    >>> model = nn.Linear(32, 32)
    >>> sharing = SoftSharing(model, 3, strength=1e-3)
    >>> optimizer = torch.optim.SGD(model.parameters(), 0.01)
    >>> with sharing.attach(optimizer):
    ...     for _ in range(20):
    ...         optimizer.step()
    >>> report = sharing.harden_()
    >>> len(model.weight.unique()) <= 4
    True
    """

    finished = False  # the values are many until `harden_`

    def __init__(
        self,
        model: nn.Module,
        components: int = 16,
        *,
        strength: float = 0.005 / 60_000,
        learning_rate: float = 5e-4,
        zero: float | None = 0.99,
        select: Selectors = None,
        ignore: Selectors = None,
        merge_below: float = 1e-10,
    ) -> None:
        if not 0 < strength < float("inf") or not 0 < learning_rate < float("inf"):
            raise ConfigError(
                f"strength {strength}, learning_rate {learning_rate}; expected numbers above 0"
            )
        weights, self._skipped = survey(model, select=select, ignore=ignore)
        self._weights = {weight.name: weight.parameter for weight in weights}
        self._kept = {name: w.detach() != 0 for name, w in self._weights.items()}
        self._strength, self._merge_below = strength, merge_below
        self.prior = MixturePrior(self._weights.values(), components, zero=zero)
        self._optimizer = torch.optim.Adam(self.prior.parameters(), learning_rate)

    def attach(self, optimizer: Optimizer) -> Attachment:
        """Act at every step of this optimizer, until detached.

        Raises:
            ConfigError: the optimizer does not step one of the weights.
        """
        require_owned(optimizer, self._weights.items())
        device = next(iter(self._weights.values())).device
        self.prior.to(device)
        self._kept = {name: mask.to(device) for name, mask in self._kept.items()}
        return Attachment(optimizer, before=self._before_step, after=self._after_step)

    def harden_(self) -> Report:
        """Merge components that are the same, and set each weight to its component's mean."""
        merged = merge_(self.prior, below=self._merge_below)
        rows: list[dict[str, Value]] = []
        with torch.no_grad():
            for name, weight in self._weights.items():
                before = weight.detach().clone()
                weight.copy_(self.prior.nearest(before).mul_(self._kept[name].to(weight.device)))
                error = (weight - before).double().square().mean().sqrt()
                rows.append({"name": name, "weights": weight.numel()})
                rows[-1] |= {"kept": int((weight != 0).sum()), "values": len(weight.unique())}
                rows[-1] |= {"rms error": float(error)}
        summary: dict[str, Value] = {
            "components": len(self.prior.means),
            "components merged": merged,
            "weights": sum(int(row["weights"] or 0) for row in rows),
            "kept": sum(int(row["kept"] or 0) for row in rows),
        }
        return Report("Soft weight sharing", summary, rows, self._skipped)

    def state_dict(self) -> dict[str, Any]:
        """The mixture, its optimizer's state, and which weights are kept."""
        return {
            "prior": self.prior.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "kept": {name: mask.cpu() for name, mask in self._kept.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`."""
        self.prior.load_state_dict(state["prior"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._kept = {n: m.to(self._weights[n].device) for n, m in state["kept"].items()}

    def _before_step(self) -> None:
        self._optimizer.zero_grad()
        with torch.enable_grad():
            twins = {n: w.detach().requires_grad_() for n, w in self._weights.items()}
            # What is pruned has no say, and no gradient.
            (self._strength * self.prior(t[self._kept[n]] for n, t in twins.items())).backward()
        for name, weight in self._weights.items():
            added = twins[name].grad
            assert added is not None
            if weight.grad is None:
                weight.grad = added
            else:
                weight.grad.add_(added)
        self._optimizer.step()

    @torch.no_grad()
    def _after_step(self) -> None:
        for name, weight in self._weights.items():
            weight.mul_(self._kept[name])
