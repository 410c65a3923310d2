"""A layer whose weights lie in kernel storage: what all kinds of them have in common."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.run.calls import refuse_gradient
from tersor.run.operators import traced
from tersor.run.packing import refusal


class Deployed(nn.Module):
    """A layer that only infers. Its `weight` is made anew, dense, each time it is asked for.

    Args:
        name: qualified name of the layer that it replaces, for messages.
        kernel: what runs it, as the plan says it.
    """

    def __init__(self, name: str, kernel: str) -> None:
        super().__init__()
        self.name = name
        self.kernel = kernel
        self.training = False
        self._prepared: Any = None  # what a call needs of the tensors, made by the first one

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_prepared": None}  # a copy has tensors of its own

    def _apply(self, fn: Any, recurse: bool = True) -> Deployed:
        like = fn(torch.empty(0))
        if like.dtype != torch.float32 or not like.is_cpu:
            raise ConfigError(
                f"{self.name}: a deployed layer is torch.float32 on the CPU, not {like.dtype} on "
                f"{like.device}"
            )
        self._prepared = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Nothing is taken if a tensor would let the kernels read or write beyond their memory."""
        given = {n: state_dict[prefix + n] for n in self._buffers if prefix + n in state_dict}
        refused = self._refused(given, bool(local_metadata.get("assign_to_params_buffers")))
        if refused:
            error_msgs.extend(f"{prefix}{text}" for text in refused)
            return
        self._prepared = None
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )

    def _refused(self, given: Mapping[str, Tensor], assign: bool) -> list[str]:
        """What is wrong with tensors that are to be loaded into this layer itself."""
        found = []
        for name, tensor in given.items():
            own = self._buffers[name]
            kept = torch.float32 if tensor.is_floating_point() else tensor.dtype
            if tensor.is_meta or (assign and not (tensor.is_cpu and tensor.dtype == kept)):
                found.append(
                    f"{name}: {tensor.dtype} on {tensor.device}, expected torch.float32 on the CPU"
                )
            elif own is not None and own.dtype == torch.uint8:
                text = refusal(tensor, own)
                found += [f"{name}: {text}"] if text else []
        return found

    def train(self, mode: bool = True) -> Deployed:
        """Raises ConfigError for True: a deployed layer has no weights that could be trained."""
        if mode:
            raise ConfigError(
                f"{self.name}: a deployed layer cannot be trained; train the plain model and "
                "deploy it again"
            )
        return self

    @property
    def weight_bytes(self) -> int:
        """Bytes of memory of the weights, without scale and bias."""
        return sum(b.numel() * b.element_size() for n, b in self.named_buffers() if "packed" in n)

    def _located(self, error: ConfigError) -> ConfigError:
        return ConfigError(f"{self.name}: {error}")


class OfOneTensor(Deployed):
    """A deployed layer that takes one tensor and gives one.

    A final class says what a call needs of the layer's own tensors (`_prepare`), how it is run with
    that (`_run`), and which operator does the same under tracing (`_operator`).
    """

    def forward(self, x: Tensor) -> Tensor:
        if traced(x):
            return self._operator(x)
        try:
            refuse_gradient(x)
            if self._prepared is None:
                self._prepared = self._prepare()
            return self._run(x)
        except ConfigError as error:
            raise self._located(error) from None

    def _prepare(self) -> Any:
        return ()

    @abc.abstractmethod
    def _run(self, x: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def _operator(self, x: Tensor) -> Tensor: ...
