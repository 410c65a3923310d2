"""What an optimizer keeps of a weight: its buffers, its momentum, its learning rate.

torch's optimizers give a buffer the shape of its parameter, so no optimizer is named here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.core.errors import ConfigError
from tersor.core.hooks import unwrap
from tersor.prune.dynamic import bits


def clear(optimizer: Optimizer, parameter: nn.Parameter, where: Tensor) -> None:
    """Set every buffer of a parameter to zero at some places, as if they had never had a gradient.

    Args:
        where: bool, of the parameter's shape.
    """
    for buffer in _buffers(optimizer, parameter):
        bits.clear(buffer, where)


def momentum(optimizer: Optimizer, parameter: nn.Parameter, name: str) -> Tensor:
    """The running mean (Adam and its kin) or sum (SGD) of the gradients of a parameter.

    Raises:
        ConfigError: the optimizer has none, or has not made a step with this parameter.
    """
    state = unwrap(optimizer).state.get(parameter, {})
    for key in ("momentum_buffer", "exp_avg"):
        if isinstance(state.get(key), Tensor):
            found: Tensor = state[key]
            return found
    raise ConfigError(_without_momentum(optimizer, name))


def require_momentum(optimizer: Optimizer, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Check that the optimizer will keep a momentum of each of these named parameters it steps.

    Raises:
        ConfigError: it will not.
    """
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        group = group_of(optimizer, parameter)
        if not (group.get("momentum") or "betas" in group):
            raise ConfigError(_without_momentum(optimizer, name))


def group_of(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Any]:
    """The group of a parameter, with its learning rate as `group["lr"]`."""
    found: dict[str, Any] = next(
        group
        for group in unwrap(optimizer).param_groups
        if any(one is parameter for one in group["params"])
    )
    return found


def _buffers(optimizer: Optimizer, parameter: nn.Parameter) -> Iterator[Tensor]:
    for value in unwrap(optimizer).state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            yield value


def _without_momentum(optimizer: Optimizer, name: str) -> str:
    return (
        f"{type(unwrap(optimizer)).__name__} keeps no momentum of {name!r}; "
        "expected SGD with momentum, or Adam or one of its kin"
    )
