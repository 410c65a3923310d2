"""One weight of a training: hidden behind the quantized values that the network sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tersor.core.errors import ConfigError
from tersor.core.weights import Weight
from tersor.quantize.learners import Moment, StraightThrough, Training
from tersor.quantize.orientation import as_stored, outputs_first


class HiddenWeight:
    """One weight: its hidden weights and its values, outputs first."""

    def __init__(self, weight: Weight, training: Training, kept: Tensor) -> None:
        self.weight, self.training = weight, training
        before = weight.parameter.detach()
        if not bool(torch.isfinite(before).all()):
            raise ConfigError(f"{weight.name!r}: a weight is NaN or infinite")
        self.kept = outputs_first(weight, kept).contiguous()
        self.latent = torch.where(self.kept, outputs_first(weight, before), 0.0)
        try:
            self.learner = training.start(self.latent, self.kept)
        except ConfigError as error:
            raise ConfigError(f"{weight.name!r}: {error}") from error
        self.values = self.latent
        self.noisy: Tensor | None = None

    def to_device(self) -> None:
        device = self.weight.parameter.device
        if self.latent.device == device:
            return
        for parameter in self.learner.learned.values():
            parameter.data = parameter.data.to(device)
        self.learner.load({n: t.to(device) for n, t in self.learner.state().items()})
        for name in ("kept", "latent", "values"):
            setattr(self, name, getattr(self, name).to(device))

    @torch.no_grad()
    def quantize(self, moment: Moment, noisy: Tensor | None = None) -> None:
        self.values = self.learner.values(self.latent, self.kept, moment)
        self.noisy = None if noisy is None else noisy.to(self.latent.device)
        if self.noisy is not None:
            self.values = torch.where(self.noisy, self.values, self.latent)

    @torch.no_grad()
    def show(self) -> None:
        """The values into the parameter."""
        self.weight.parameter.copy_(as_stored(self.weight, self.values))

    def hide(self) -> None:
        """The hidden weights into the parameter, and their gradient."""
        parameter = self.weight.parameter
        if parameter.grad is None:
            return
        gradient = outputs_first(self.weight, parameter.grad)
        gradient = torch.where(self.kept, gradient, 0.0)
        if self.noisy is None:
            found = self.learner.backward(self.latent, self.kept, gradient)
        else:
            seen = torch.where(self.noisy, gradient, 0.0)
            found = self.learner.backward(self.latent, self.kept, seen)
            found = torch.where(self.noisy, found, gradient)
        parameter.grad.copy_(as_stored(self.weight, found))
        parameter.copy_(as_stored(self.weight, self.latent))

    def take(self) -> None:
        """The hidden weights out of the parameter."""
        parameter = self.weight.parameter
        if parameter.grad is not None:  # else it holds values still: it took no step
            moved = outputs_first(self.weight, parameter.detach())
            self.latent = torch.where(self.kept, moved, 0.0)

    def curvature(self, optimizer: Optimizer) -> Tensor | None:
        """The root of Adam's second moment of each entry, with what keeps it from zero."""
        if not (isinstance(self.training, StraightThrough) and self.training.curvature):
            return None
        state = optimizer.state.get(self.weight.parameter, {})
        if not state:
            return None
        if "exp_avg_sq" not in state:
            raise ConfigError(
                f"curvature: {type(optimizer).__name__} has no second moments; expected Adam"
            )
        root = state["exp_avg_sq"].sqrt() + 1e-8  # one factor on all entries changes nothing
        return outputs_first(self.weight, root)

    def state(self) -> dict[str, Any]:
        learned = {n: p.detach().cpu().clone() for n, p in self.learner.learned.items()}
        return {
            "latent": self.latent.cpu().clone(),
            "values": self.values.cpu().clone(),
            "kept": self.kept.cpu(),
            "noisy": None if self.noisy is None else self.noisy.cpu(),
            "learned": learned,
            "rule": {n: t.cpu().clone() for n, t in self.learner.state().items()},
        }

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        device = self.weight.parameter.device
        for name in ("latent", "values", "kept"):
            setattr(self, name, state[name].to(device).clone())
        self.noisy = None if state["noisy"] is None else state["noisy"].to(device)
        for name, parameter in self.learner.learned.items():
            parameter.copy_(state["learned"][name])
        self.learner.load({n: t.to(device) for n, t in state["rule"].items()})
        self.show()
