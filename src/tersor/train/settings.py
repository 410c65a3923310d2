"""How a network is trained: the numbers of one `fit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

from tersor.core.errors import ConfigError
from tersor.core.settings import Settings


class Training(Settings):
    """Settings of one `fit`; optimizers and schedules are torch's own.

    >>> Training(epochs=3, learning_rate=0.01).optimizer
    'adam'
    """

    epochs: int = Field(
        ge=1, description="a whole number of passes over the training data, 1 or more"
    )
    optimizer: Literal["adam", "adamw", "sgd"] = Field(
        default="adam", description="one of: adam, adamw, sgd"
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="a number above 0")
    learning_rate_schedule: Literal["cosine", "constant"] = Field(
        default="cosine", description="one of: cosine (to zero, step by step), constant"
    )
    momentum: float = Field(
        default=0.9, ge=0, lt=1, description="0 <= momentum < 1 (of sgd; adam's beta1 stays 0.9)"
    )
    weight_decay: float = Field(
        default=0.0, ge=0, description="0 or more: an L2 term, decoupled for adamw"
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="epochs without a better validation error after which to stop, 1 or more",
    )
    keep: Literal["best", "last"] = Field(
        default="best", description="one of: best (epoch by validation error), last"
    )
    precision: Literal["no", "fp16", "bf16"] = Field(
        default="no", description="one of: no, fp16, bf16 (mixed precision of Accelerate)"
    )
    checkpoint_steps: int | None = Field(
        default=None,
        ge=1,
        description="optimizer steps between checkpoints, 1 or more (always at an epoch's end)",
    )


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """torch's optimizer of this name over all parameters that are not frozen.

    Raises:
        ConfigError: there are none.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ConfigError(f"{type(model).__name__} has no parameters to train")
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=training.momentum, weight_decay=decay)
    kind = torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, rate, weight_decay=decay)


def make_schedule(optimizer: torch.optim.Optimizer, training: Training, steps: int) -> LRScheduler:
    """torch's learning-rate schedule of this name, one call a step."""
    if training.learning_rate_schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    unchanged: Callable[[int], float] = lambda _: 1.0  # noqa: E731 - a named function says no more
    return LambdaLR(optimizer, unchanged)
