"""Criteria of where a weight began and where it is now."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.weights import prunable
from tersor.prune.criteria.entries import precise
from tersor.prune.scoring import Criterion, Lazily, Scores, ScoringData

Compare = Callable[[Tensor, Tensor], Tensor]


def since(initial: Mapping[str, Tensor]) -> dict[str, Criterion]:
    """Criteria by name, of the values that weights had (w_i) and those they have now (w_f).

    | name | score |
    | --- | --- |
    | `large_final`, `small_final` | abs(w_f), -abs(w_f) |
    | `large_init`, `small_init` | abs(w_i), -abs(w_i) |
    | `large_init_large_final` | min(abs(w_f), a abs(w_i)) |
    | `small_init_small_final` | -max(abs(w_f), a abs(w_i)) |
    | `magnitude_increase` | abs(w_f) - abs(w_i) |
    | `movement_distance` | abs(w_f - w_i) |
    | `large_final_same_sign` | abs(w_f), where w_i and w_f have one sign; else 0 |

    a brings both sides to one scale: the ratio of the mean abs(w_f) to the mean abs(w_i) of a
    tensor.

    Args:
        initial: qualified weight name to its value then, a `state_dict` for example; copied.

    Raises:
        ConfigError: when asked to score a weight that `initial` has not, or in another shape.

    Source: Zhou, Lan, Liu and Yosinski 2019, arXiv 1905.01067, section 3; they tune a until both
    sides prune alike, which equal means do for distributions of one form. Of their variants with
    signs only the one for `large_final` is here.

    >>> model = nn.Linear(3, 1)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0, 3.0]]))
    >>> then = {"weight": torch.tensor([[2.0, 1.0, 1.0]])}
    >>> for name, criterion in since(then).items():
    ...     if name in ("magnitude_increase", "movement_distance", "large_final_same_sign"):
    ...         print(name, criterion(model, ScoringData())["weight"].tolist())
    magnitude_increase [[-1.0, 1.0, 2.0]]
    movement_distance [[1.0, 3.0, 2.0]]
    large_final_same_sign [[1.0, 0.0, 3.0]]
    """
    then = {name: tensor.detach().clone() for name, tensor in initial.items()}
    return {name: _criterion(name, then, compare) for name, compare in _COMPARISONS.items()}


def _criterion(name: str, initial: Mapping[str, Tensor], compare: Compare) -> Criterion:
    def criterion(model: nn.Module, data: ScoringData) -> Scores:
        def score(weight: str, now: Tensor) -> Callable[[], Tensor]:
            return lambda: compare(*_pair(name, initial, weight, now))

        return Lazily({w.name: score(w.name, w.parameter.detach()) for w in prunable(model)})

    criterion.__name__ = name
    return criterion


def _pair(
    criterion: str, initial: Mapping[str, Tensor], weight: str, now: Tensor
) -> tuple[Tensor, Tensor]:
    then = initial.get(weight)
    if then is None or then.shape != now.shape:
        found = "is not there" if then is None else f"has the shape {tuple(then.shape)}"
        raise ConfigError(
            f"criterion {criterion!r}: among the initial values {weight!r} {found}; expected one "
            f"of shape {tuple(now.shape)}"
        )
    return precise(then).to(now.device), precise(now)


def _rescaled(initial: Tensor, final: Tensor) -> Tensor:
    """The magnitudes of the first values, in the scale of the last."""
    mean = initial.abs().mean()
    return initial.abs() * torch.where(mean > 0, final.abs().mean() / mean, 1.0)


_COMPARISONS: dict[str, Compare] = {
    "large_final": lambda i, f: f.abs(),
    "small_final": lambda i, f: -f.abs(),
    "large_init": lambda i, f: i.abs(),
    "small_init": lambda i, f: -i.abs(),
    "large_init_large_final": lambda i, f: torch.minimum(f.abs(), _rescaled(i, f)),
    "small_init_small_final": lambda i, f: -torch.maximum(f.abs(), _rescaled(i, f)),
    "magnitude_increase": lambda i, f: f.abs() - i.abs(),
    "movement_distance": lambda i, f: (f - i).abs(),
    "large_final_same_sign": lambda i, f: torch.where(i * f > 0, f.abs(), 0.0),
}
