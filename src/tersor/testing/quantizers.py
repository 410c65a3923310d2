"""Checks that every quantizer has to pass, also one of your own: `check_quantizer(make)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tersor.core.errors import ConfigError
from tersor.core.seeding import generator, rng_state, set_rng_state
from tersor.quantize.granularity import GRANULARITIES
from tersor.quantize.quantizer import GridQuantizer, Quantizer, label, rounded

MOST_COUNTED_BITS = 10
"""Grids of more bits are too large to count their values."""

ROUNDING_ERROR = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3}
"""Relative, of a value that was computed twice."""


def check_quantizer(
    make: Callable[[], Quantizer],
    *,
    idempotent: bool = True,
    nearest: bool = True,
    counted: bool = True,
) -> None:
    """Check that a quantizer keeps its promises and leaves all else as it was.

    It is a frozen dataclass, and equal settings make equal quantizers. Weights of every shape and
    floating dtype come back finite, in their shape and dtype; what is not kept comes back as +0.0
    and has no say. Weight, mask, importance, global random generators and grad mode are as they
    were; the same call gives the same bytes, whatever the strides of the weight. Importance changes
    nothing where it is said not to be used, and its scale never does. One channel is quantized
    alike per tensor and per channel.

    One that works entry by entry (`fit`) has a grid that is idempotent, monotone, within its bounds
    and of no more than 2**bits values for each entry; each value goes to the nearest of them.

    Args:
        make: gives the quantizer, as `lambda: Affine(4)`, or its class.
        idempotent: quantized again, a weight stays (for one without a grid; a grid always is).
        nearest: a value goes to the nearest of its grid, not to that of a transformed value.
        counted: `bits` bounds the number of values of an entry.

    Raises:
        AssertionError: what was found, and for which weight.

    >>> from tersor.quantize import Affine
    >>> check_quantizer(lambda: Affine(4))
    >>> check_quantizer(Affine, counted=False)
    """
    quantizer = make()
    _require(quantizer, isinstance(quantizer, Quantizer), "not a Quantizer: see its protocol")
    frozen = dataclasses.is_dataclass(quantizer) and type(quantizer).__hash__ is not None
    _require(quantizer, frozen, "expected a frozen dataclass, whose fields are its settings")
    _require(quantizer, make() == quantizer, "made twice, it is not equal to itself")
    _require(quantizer, quantizer.bits > 0, f"bits is {quantizer.bits}; expected more than 0")
    for case in cases():
        _check_call(make, case)
        if isinstance(quantizer, GridQuantizer):
            _check_grid(quantizer, case, nearest=nearest, counted=counted)
        elif idempotent:
            _check_again(quantizer, case)
    _check_strides(quantizer)
    _check_importance(quantizer)
    _check_one_channel(quantizer)


@dataclass(frozen=True, eq=False)
class Case:
    """A weight to quantize.

    Args:
        name: of what it is, for messages.
        weight: (out, in, *kernel).
        kept: its mask, or None.
    """

    name: str
    weight: Tensor
    kept: Tensor | None = None


def cases() -> Iterator[Case]:
    """Weights of layers and odd ones, whole and pruned."""
    draw = generator(0, "testing quantizers")
    linear = torch.randn(8, 24, generator=draw)
    conv = torch.randn(6, 4, 3, 3, generator=draw)
    pruned = torch.rand(8, 24, generator=draw) < 0.4
    pruned[3] = False
    yield Case("a linear weight", linear)
    yield Case("a convolution", conv)
    yield Case("a pruned weight with an empty row", torch.where(pruned, linear, -0.0), pruned)
    yield Case("a pruned convolution", conv, torch.rand(conv.shape, generator=draw) < 0.4)
    yield Case("heavy tails", linear**5)
    yield Case("rows of very different sizes", linear * torch.logspace(-6, 6, 8)[:, None])
    yield Case("one weight", torch.tensor([[0.7]]))
    yield Case("equal weights", torch.full((3, 5), -0.2))
    yield Case("one kept weight", linear, torch.arange(192).view(8, 24) == 77)
    yield Case("positive weights", linear.abs() + 1)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        yield Case(f"a weight of {dtype}", linear.to(dtype), pruned)


def _require(quantizer: Quantizer, holds: bool, message: str) -> None:
    if not holds:
        name = label(quantizer) if dataclasses.is_dataclass(quantizer) else repr(quantizer)
        raise AssertionError(f"quantizer {name}: {message}")


def _check_call(make: Callable[[], Quantizer], case: Case) -> None:
    quantizer = make()
    weight, kept = case.weight.clone(), None if case.kept is None else case.kept.clone()
    state, grads = rng_state(), torch.is_grad_enabled()
    found = quantizer(weight, kept)
    same_state = _same_state(rng_state(), state)
    _require(quantizer, same_state, f"{case.name}: a global random generator is not where it was")
    _require(quantizer, torch.is_grad_enabled() == grads, f"{case.name}: the grad mode changed")
    _require(quantizer, _bits_equal(weight, case.weight), f"{case.name}: the weight was changed")
    _require(
        quantizer,
        found.shape == weight.shape and found.dtype == weight.dtype,
        f"{case.name}: {tuple(found.shape)} of {found.dtype}, "
        f"expected {tuple(weight.shape)} of {weight.dtype}",
    )
    _require(quantizer, bool(torch.isfinite(found).all()), f"{case.name}: not all are finite")
    torch.manual_seed(12345)
    again = make()(weight, kept)
    set_rng_state(state)
    _require(quantizer, _bits_equal(again, found), f"{case.name}: two calls differ")
    if kept is None or case.kept is None:
        return
    _require(quantizer, torch.equal(kept, case.kept), f"{case.name}: the mask was changed")
    out = found[~kept]
    zeros = bool((out == 0).all()) and not bool(out.signbit().any())
    _require(quantizer, zeros, f"{case.name}: what is not kept is not +0.0")
    other = quantizer(torch.where(kept, weight, 3.0), kept)
    _require(
        quantizer, _bits_equal(other, found), f"{case.name}: what is not kept changes the others"
    )


def _check_again(quantizer: Quantizer, case: Case) -> None:
    once = quantizer(case.weight, case.kept)
    twice = quantizer(once, case.kept)
    _require(quantizer, _close(once, twice), f"{case.name}: quantized again, it is another weight")


def _check_grid(quantizer: GridQuantizer, case: Case, *, nearest: bool, counted: bool) -> None:
    weight, name = case.weight, case.name
    grid = quantizer.fit(weight, case.kept)
    found = grid.round(weight)
    called = quantizer(weight, case.kept)
    _require(
        quantizer,
        _bits_equal(rounded(grid, weight, case.kept), called),
        f"{name}: a call gives another weight than the grid of fit",
    )
    _require(
        quantizer, _bits_equal(grid.round(found), found), f"{name}: the grid is not idempotent"
    )
    low, high = (end.to(weight.dtype) for end in grid.bounds())
    slack = ROUNDING_ERROR.get(weight.dtype, 1e-2)
    low, high = low - slack * low.abs(), high + slack * high.abs()
    inside = bool(((found >= low) & (found <= high)).all())
    _require(quantizer, inside, f"{name}: a value lies beyond the bounds of its grid")
    _check_sweep(quantizer, case, nearest=nearest, counted=counted)


def _check_sweep(quantizer: GridQuantizer, case: Case, *, nearest: bool, counted: bool) -> None:
    """The same numbers, from below the range to above it, put at every entry of a weight."""
    grid = quantizer.fit(case.weight, case.kept)
    reach = float(case.weight.abs().max()) * 1.25
    line = torch.linspace(-reach, reach, 301).to(case.weight.dtype)
    numbers = torch.cat([line, case.weight.flatten()[:40]]).sort().values
    shape = [1] * case.weight.dim()
    swept = torch.stack([grid.round(x.view(shape).expand(case.weight.shape)) for x in numbers])
    rising = bool((swept.diff(dim=0) >= 0).all())
    _require(quantizer, rising, f"{case.name}: the grid is not monotone")
    flat = swept.flatten(1)[:, :: max(case.weight.numel() // 12, 1)].double()
    exact = numbers.double()
    for column in flat.unbind(dim=1):
        values = column.unique()
        if counted and quantizer.bits <= MOST_COUNTED_BITS:
            most = 2.0**quantizer.bits
            _require(
                quantizer,
                len(values) <= most * (1 + 1e-9),
                f"{case.name}: an entry takes {len(values)} values; {quantizer.bits:g} bits "
                f"make {most:g}",
            )
        if nearest:
            off = (column - exact).abs()
            best = (values[:, None] - exact).abs().amin(dim=0)
            slack = ROUNDING_ERROR.get(case.weight.dtype, 1e-2) * exact.abs()
            near = bool((off <= best + slack).all())
            _require(quantizer, near, f"{case.name}: a value does not go to the nearest one")


def _check_strides(quantizer: Quantizer) -> None:
    weight = next(case.weight for case in cases() if case.weight.dim() == 4)
    last = weight.to(memory_format=torch.channels_last)
    same = _bits_equal(quantizer(weight).contiguous(), quantizer(last).contiguous())
    _require(quantizer, same, "a weight in channels_last is quantized otherwise")
    turned = weight.flatten(1).t().contiguous().t()
    same = _bits_equal(quantizer(weight.flatten(1)).contiguous(), quantizer(turned).contiguous())
    _require(quantizer, same, "a transposed view is quantized otherwise")


def _check_importance(quantizer: Quantizer) -> None:
    weight = next(cases()).weight
    matters = torch.rand(weight.shape, generator=generator(1, "testing quantizers"))
    given, before = quantizer(weight, None, matters), matters.clone()
    _require(quantizer, bool(torch.isfinite(given).all()), "with importance, not all are finite")
    _require(quantizer, torch.equal(matters, before), "the importance was changed")
    if quantizer.uses_importance:
        same = _close(quantizer(weight, None, 4 * matters), given)
        _require(quantizer, same, "importance four times as large changes the weight")
        none = quantizer(weight, None, torch.zeros_like(matters))
        _require(quantizer, bool(torch.isfinite(none).all()), "importance of zeros: not finite")
    else:
        same = _bits_equal(quantizer(weight), given)
        _require(quantizer, same, "importance changes the weight, but uses_importance is false")


def _check_one_channel(quantizer: Quantizer) -> None:
    if not hasattr(quantizer, "granularity") or quantizer.granularity is None:
        return
    weight = next(cases()).weight[:1]
    whole = {"group": weight.numel()} if hasattr(quantizer, "group") else {}
    expected = None
    for granularity in GRANULARITIES:
        try:
            other = dataclasses.replace(quantizer, granularity=granularity, **whole)  # type: ignore[type-var]
        except ConfigError:
            continue
        found = other(weight)
        same = expected is None or _bits_equal(found, expected)
        _require(quantizer, same, f"one channel alone is another weight per {granularity}")
        expected = found


def _bits_equal(left: Tensor, right: Tensor) -> bool:
    same = left.dtype == right.dtype and left.shape == right.shape
    return same and bool(torch.equal(_words(left), _words(right)))


def _words(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.uint8)


def _close(left: Tensor, right: Tensor) -> bool:
    tolerance = ROUNDING_ERROR.get(left.dtype, 1e-2)
    return torch.allclose(left.double(), right.double(), rtol=tolerance, atol=1e-30)


def _same_state(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return torch.equal(left["torch"], right["torch"]) and left["python"] == right["python"]
