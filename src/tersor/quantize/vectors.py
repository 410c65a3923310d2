"""Quantize subvectors at once, in place, and keep the codebooks to train them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.report import Report
from tersor.core.weights import Selectors, Weight
from tersor.quantize.codebook import Codebook
from tersor.quantize.orientation import as_stored
from tersor.quantize.quantizer import Quantizer, label
from tersor.quantize.transform import quantize_each, seen
from tersor.quantize.vector_codebook import VectorCodebook


@runtime_checkable
class VectorQuantizer(Quantizer, Protocol):
    """A quantizer of subvectors, as `Product`."""

    def encode(
        self, weight: Tensor, kept: Tensor | None = None, importance: Tensor | None = None
    ) -> VectorCodebook:
        """The codebook for a weight; arguments as those of a call."""
        ...


def quantize_vectors_(
    model: nn.Module,
    quantizer: Quantizer | Mapping[str, int | Quantizer],
    *,
    masks: Mapping[str, Tensor] | None = None,
    importance: Mapping[str, Tensor] | None = None,
    select: Selectors = None,
    ignore: Selectors = None,
) -> tuple[dict[str, Codebook], Report]:
    """Let the subvectors of each weight be centroids, in place; the weights are as by `quantize_`.

    Args:
        quantizer: a `Product`, or one for each of some selectors.
        model, masks, importance, select, ignore: as in `quantize_`.

    Returns:
        The codebook of each weight, for a `CodebookTuner`: each coordinate of each centroid is a
        value that entries share. And the report of `quantize_`.

    Raises:
        ConfigError: as `quantize_`, or a quantizer is none of subvectors, or of several stages;
            then nothing is changed.

    >>> import torch
    >>> from tersor.quantize import CodebookTuner, Product
    >>> model = nn.Linear(64, 64)
    >>> books, report = quantize_vectors_(model, Product(k=16, dimension=4))
    >>> len(books["weight"].centroids), report.rows[0]["bits"]
    (64, 1.0)
    >>> optimizer = torch.optim.SGD(model.parameters(), 0.01)
    >>> with CodebookTuner(model, books).attach(optimizer):
    ...     model(torch.ones(1, 64)).sum().backward()
    ...     optimizer.step()
    >>> len(model.weight.view(-1, 4).unique(dim=0))
    16
    """
    books: dict[str, Codebook] = {}

    def values(
        quantizer: Quantizer, weight: Weight, kept: Tensor, importance: Tensor | None
    ) -> Tensor:
        if not isinstance(quantizer, VectorQuantizer):
            raise ConfigError(
                f"{label(quantizer)} has no subvectors; expected a quantizer as Product(k=256)"
            )
        found = quantizer.encode(*seen(weight, kept, importance))
        books[weight.name] = stored(weight, found)
        return as_stored(weight, found.decode())

    report = quantize_each(
        model, quantizer, values, masks=masks, importance=importance, select=select, ignore=ignore
    )
    return books, report


def stored(weight: Weight, found: VectorCodebook) -> Codebook:
    """The codebook of single values, its codes in the weight's own shape."""
    book = found.entries()
    return Codebook(book.centroids, as_stored(weight, book.codes))
