"""What a factorizer is: a weight to factors, factors to layers, and back to a weight."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

Rank = tuple[int, ...]
"""One number, or several where a method has several."""


@runtime_checkable
class Factorizer(Protocol):
    """A frozen dataclass whose fields are its settings, checked when it is made."""

    @property
    def needs_inputs(self) -> bool:
        """Whether `split` is to be given the second moment of what comes into the layer."""
        ...

    def refuses(self, layer: nn.Module) -> str:
        """Why this layer cannot be taken, or ""."""
        ...

    def most(self, layer: nn.Module) -> Rank:
        """The largest rank; with it the product is the weight."""
        ...

    def count(self, layer: nn.Module, rank: Rank) -> int:
        """Weights of all factors."""
        ...

    def spectra(self, weight: Tensor, moment: Tensor | None) -> list[Tensor]:
        """For each number of the rank the singular values that it cuts off; [] if there are none.

        Without them the rank for an energy is searched for by `split`.
        """
        ...

    def matrices(self, weight: Tensor) -> list[Tensor]:
        """For each number of the rank a matrix whose rank it is; [] if there are none."""
        ...

    def split(self, weight: Tensor, rank: Rank, moment: Tensor | None, seed: int) -> list[Tensor]:
        """The weights of the layers that `build` gives, in their order.

        Args:
            weight: (out, in, *kernel).
            rank: at most `most`.
            moment: mean of x x^T over the inputs x (in * kernel), where it is needed.
            seed: of what is random.
        """
        ...

    def build(self, layer: nn.Module, rank: Rank) -> list[nn.Module]:
        """Layers that do in sequence what the layer did; any values, the bias in the last one."""
        ...

    def product(self, factors: list[Tensor]) -> Tensor:
        """The weight of the layer that the factors stand for."""
        ...
