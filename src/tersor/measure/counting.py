"""Multiply-accumulates of one input, by the weight that they multiply with.

Counted are matrix products, convolutions and what PyTorch makes of them (linear, recurrent and
attention layers). Element-wise work, normalisation and pooling are not multiply-accumulates here.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from tersor.core.errors import ConfigError
from tersor.core.observing import observing

_PRODUCT = re.compile(r"mm|mv|dot|conv|rnn|lstm|gru|attention|trilinear")


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one input.

    Args:
        by_weight: name of a parameter to the multiply-accumulates with its values; tied ones
            under their first name.
        effective_by_weight: the same without those where the weight is zero.
        other: those between activations (attention), or with what is computed from a weight.
        not_counted: name of a parameter or an operation that may multiply, but is not counted, to
            the reason.
    """

    by_weight: Mapping[str, int]
    effective_by_weight: Mapping[str, int]
    other: int
    not_counted: Mapping[str, str]

    @property
    def total(self) -> int:
        """All that are counted: half of what FlopCounterMode counts as FLOPs."""
        return sum(self.by_weight.values()) + self.other

    @property
    def effective(self) -> int:
        """What is left of `total` when zero weights are left out."""
        return sum(self.effective_by_weight.values()) + self.other


def macs(model: nn.Module, example_input: Tensor) -> Macs:
    """Count the multiply-accumulates of one input by running it, in eval mode.

    Effective ones are a weight's multiply-accumulates times its density. That is exact for linear
    and recurrent layers, and for convolutions up to the padding, which is counted as data.

    Args:
        model: takes `example_input`.
        example_input: a batch, (N, *), of which the first sample is run.

    Raises:
        ConfigError: the batch is empty.

    >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> _ = nn.init.eye_(model[2].weight)
    >>> macs(model, torch.zeros(1, 8)).total, macs(model, torch.zeros(1, 8)).effective
    (40, 34)
    """
    if example_input.dim() == 0 or len(example_input) == 0:
        raise ConfigError(
            f"macs: example_input has shape {tuple(example_input.shape)}, "
            "expected a batch of one sample or more"
        )
    # One-dimensional parameters (biases, normalisation) are added or scaled with.
    weights = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    counter = FlopCounterMode(display=False)
    watch = _Watch(counter, weights)
    with observing(model) as device, _plain_operations(), watch, counter:
        model(example_input[:1].to(device))
    watch.settle()
    by_weight = {name: watch.macs[name] for name in weights if name in watch.macs}
    reasons = {
        name: watch.reasons.get(name, "took no part in this forward pass")
        for name in weights
        if name not in by_weight
    }
    return Macs(
        by_weight,
        {name: round(count * _density(weights[name])) for name, count in by_weight.items()},
        watch.macs.get(None, 0),
        reasons | watch.uncounted,
    )


class _Watch(TorchDispatchMode):
    """Sees each operation that the counter is about to count, and whose weight goes into it.

    It is entered before the counter, so it runs below it: when an operation arrives here, all
    earlier ones are in the counter's total and this one is not yet.
    """

    def __init__(self, counter: FlopCounterMode, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs: dict[str | None, int] = {}
        self.reasons: dict[str, str] = {}
        self.uncounted: dict[str, str] = {}
        self._counter = counter
        self._weights = weights
        self._last: tuple[str, str | None, bool] | None = None
        self._flops = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.settle()
        out = func(*args, **(kwargs or {}))
        name = self._weight_in(tree_leaves((args, kwargs)))
        is_view = name is not None and any(
            isinstance(leaf, Tensor) and _storage(leaf) == _storage(self._weights[name])
            for leaf in tree_leaves(out)
        )
        self._last = (str(func).removesuffix(".default"), name, is_view)
        return out

    def settle(self) -> None:
        """Book what the counter has added since to the operation before."""
        if self._last is None:
            return
        operation, name, is_view = self._last
        self._last = None
        flops = self._counter.get_total_flops() - self._flops
        self._flops += flops
        if flops:
            self.macs[name] = self.macs.get(name, 0) + flops // 2
        elif name is not None and not is_view:
            self.reasons[name] = (
                "looked up, not multiplied"
                if "embedding" in operation
                else f"read by {operation}, which is not counted"
            )
        elif name is None and _PRODUCT.search(operation):
            self.uncounted[operation] = "the multiply-accumulates of this operation are not counted"

    def _weight_in(self, leaves: list[Any]) -> str | None:
        """The weight that one of the arguments is, or is a view of; the largest of several."""
        starts = {_storage(x): x.data_ptr() for x in leaves if isinstance(x, Tensor)}
        found = [
            name
            for name, weight in self._weights.items()
            if _storage(weight) in starts
            and 0 <= starts[_storage(weight)] - weight.data_ptr() < weight.nbytes
        ]
        return max(found, key=lambda name: self._weights[name].numel(), default=None)


@contextlib.contextmanager
def _plain_operations() -> Iterator[None]:
    """Fused recurrent and attention kernels off: FlopCounterMode counts what they are made of."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    onednn = torch.backends.mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    # Its own context manager warns on machines without an Intel GPU; torch types it as a property.
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with torch.backends.cudnn.flags(enabled=False), sdpa_kernel([SDPBackend.MATH]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch.backends.mkldnn.enabled = onednn


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _density(weight: Tensor) -> float:
    return int(torch.count_nonzero(weight)) / weight.numel()
