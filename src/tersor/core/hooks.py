"""A method acts through the optimizer's own step hooks, so it fits any training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Protocol, Self

from torch import nn
from torch.optim import Optimizer

from tersor.core.errors import ConfigError


class Method(Protocol):
    """What acts on a network while it trains.

    `attach` returns a context manager; inside it every optimizer step is accompanied. With
    `state_dict` and `load_state_dict` a run that was killed resumes to the same result.
    """

    def attach(self, optimizer: Optimizer) -> Attachment: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    @property
    def finished(self) -> bool:
        """Whether the weights now have their final structure: only such a model may be kept."""
        ...


class Attachment:
    """Hooks on an optimizer, removed by `detach()` or at the end of the `with` block."""

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        before: Callable[[], None] | None = None,
        after: Callable[[], None] | None = None,
    ) -> None:
        inner = unwrap(optimizer)
        self._handles = []
        if before is not None:
            self._handles.append(inner.register_step_pre_hook(lambda *_: before()))
        if after is not None:
            self._handles.append(inner.register_step_post_hook(lambda *_: after()))

    def detach(self) -> None:
        """Remove the hooks; doing it twice is harmless."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()


def unwrap(optimizer: Optimizer) -> Optimizer:
    """The optimizer whose `step` does the work (Accelerate and others wrap it)."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return inner if isinstance(inner, Optimizer) else optimizer


def require_owned(optimizer: Optimizer, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Check that the optimizer steps each of these named parameters.

    Raises:
        ConfigError: it does not have one of them, so nothing would hold its structure.
    """
    owned = {id(p) for group in unwrap(optimizer).param_groups for p in group["params"]}
    for name, parameter in parameters:
        if parameter.requires_grad and id(parameter) not in owned:
            raise ConfigError(
                f"attach: the optimizer does not have {name!r}. Give it the parameters of the "
                "same model, after the model is on its device"
            )
