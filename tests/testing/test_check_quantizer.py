"""The shared suite of quantizers: each way to be wrong is caught."""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch

from tersor.quantize import Affine, CodebookGrid, KMeans
from tersor.quantize.quantizer import rounded
from tersor.testing import check_quantizer


@dataclass(frozen=True)
class Wrong:
    """A sound quantizer by itself; each subclass breaks one promise."""

    bits: int = 2
    uses_importance: ClassVar[bool] = False

    def __call__(self, weight, kept=None, importance=None):
        return KMeans(2)(weight, kept)


class OfAnotherDtype(Wrong):
    def __call__(self, weight, kept=None, importance=None):
        return KMeans(2)(weight, kept).double()


class InPlace(Wrong):
    def __call__(self, weight, kept=None, importance=None):
        return weight.copy_(KMeans(2)(weight, kept))


class Infinite(Wrong):
    def __call__(self, weight, kept=None, importance=None):
        return KMeans(2)(weight, kept) * 1e38 * 10


class Random(Wrong):
    def __call__(self, weight, kept=None, importance=None):
        return KMeans(2)(weight, kept) + torch.rand(()).to(weight.dtype)


class Careless(Wrong):
    def __call__(self, weight, kept=None, importance=None):
        state = torch.get_rng_state()
        found = Random()(weight, kept)
        torch.set_rng_state(state)
        return found


class MinusZero(Wrong):
    def __call__(self, weight, kept=None, importance=None):
        return KMeans(2)(weight, kept) if kept is None else -KMeans(2)(-weight, kept)


class Unmasked(Wrong):
    def __call__(self, weight, kept=None, importance=None):
        found = KMeans(2)(weight)
        return found if kept is None else torch.where(kept, found, 0.0)


class Shrinking(Wrong):
    def __call__(self, weight, kept=None, importance=None):
        return KMeans(2)(weight, kept) / 2


class Listening(Wrong):
    def __call__(self, weight, kept=None, importance=None):
        return KMeans(2 if importance is None else 3)(weight, kept)


class Loud(Wrong):
    uses_importance = True

    def __call__(self, weight, kept=None, importance=None):
        few = importance is None or importance.mean() < 1
        return KMeans(2 if few else 3)(weight, kept)


class OfTheLayout(Wrong):
    def __call__(self, weight, kept=None, importance=None):
        return KMeans(2 if weight.is_contiguous() else 3)(weight, kept)


@dataclass(frozen=True)
class OnGrid(Wrong):
    """With a grid that one of its ways breaks."""

    way: str = ""

    def fit(self, weight, kept=None, importance=None):
        return Grid(KMeans(3 if self.way == "many" else 2).fit(weight, kept), self.way)

    def __call__(self, weight, kept=None, importance=None):
        found = rounded(self.fit(weight, kept), weight, kept)
        return found * 2 if self.way == "other" else found


@dataclass(frozen=True)
class Grid:
    inner: CodebookGrid
    way: str

    def round(self, values):
        if self.way == "falling":
            return self.inner.round(-values)
        if self.way == "drifting":
            at = torch.searchsorted(self.inner.centroids, self.inner.round(values)) + 1
            return self.inner.centroids[at.clamp(max=len(self.inner.centroids) - 1)]
        if self.way == "floor":
            book = self.inner.centroids
            at = torch.bucketize(values.contiguous(), book, right=True) - 1
            return book[at.clamp(min=0)]
        return self.inner.round(values)

    def bounds(self):
        low, high = self.inner.bounds()
        return (low, high - (high - low) / 2) if self.way == "bounds" else (low, high)


@dataclass
class Thawed:
    bits: int = 2
    uses_importance: ClassVar[bool] = False

    def __call__(self, weight, kept=None, importance=None):
        return KMeans(2)(weight, kept)


@dataclass(frozen=True)
class Singular(Wrong):
    mine: object = field(default_factory=object)


@dataclass(frozen=True)
class ByNumber(Wrong):
    granularity: str = "tensor"

    def __call__(self, weight, kept=None, importance=None):
        return KMeans(2 if self.granularity == "tensor" else 1)(weight, kept)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: 4, "not a Quantizer"),
        (Thawed, "expected a frozen dataclass"),
        (Singular, "made twice, it is not equal"),
        (lambda: Wrong(0), "bits is 0; expected more than 0"),
        (OfAnotherDtype, "of torch.float64, expected"),
        (InPlace, "the weight was changed"),
        (Infinite, "not all are finite"),
        (Random, "a global random generator is not where it was"),
        (Careless, "two calls differ"),
        (MinusZero, r"what is not kept is not \+0.0"),
        (Unmasked, "what is not kept changes the others"),
        (Shrinking, "quantized again, it is another weight"),
        (Listening, "importance changes the weight, but uses_importance is false"),
        (Loud, "importance four times as large changes the weight"),
        (OfTheLayout, "a weight in channels_last is quantized otherwise"),
        (ByNumber, "one channel alone is another weight per channel"),
        (lambda: OnGrid(way="other"), "a call gives another weight than the grid"),
        (lambda: OnGrid(way="drifting"), "the grid is not idempotent"),
        (lambda: OnGrid(way="falling"), "the grid is not (monotone|idempotent)"),
        (lambda: OnGrid(way="bounds"), "a value lies beyond the bounds"),
        (lambda: OnGrid(way="many"), "an entry takes 8 values; 2 bits make 4"),
        (lambda: OnGrid(way="floor"), "a value does not go to the nearest one"),
    ],
)
def test_each_way_to_be_wrong_is_named(make, message):
    with pytest.raises(AssertionError, match=message):
        check_quantizer(make)


def test_a_sound_one_passes_and_what_does_not_apply_is_left_out():
    check_quantizer(Wrong)
    check_quantizer(OnGrid)
    check_quantizer(lambda: OnGrid(way="many"), counted=False)
    check_quantizer(lambda: OnGrid(way="floor"), nearest=False)
    check_quantizer(lambda: Affine(3, "group", 5))
