"""Subvectors that the rows of a weight are made of: codebooks of them, and which stands where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.core.errors import ConfigError, did_you_mean
from tersor.core.seeding import generator
from tersor.quantize.codebook import Codebook
from tersor.quantize.granularity import Blocks
from tersor.quantize.vector_kmeans import Points, kmeans_vectors

MAX_CENTROIDS = 1 << 16

CODEBOOKS = ("shared", "position")
"""One codebook for all subvectors of a weight, or one for each place that they have in a row."""

LEAST_IMPORTANCE = 1e-6
"""Of a kept entry, as a share of the mean: all errors count, if ever so little."""


@dataclass(frozen=True, eq=False)
class VectorCodebook:
    """A weight as subvectors: each is a centroid, or the sum of one centroid of each stage.

    Args:
        centroids: of each stage (books, k, d), of the weight's dtype; books is 1, or the subvectors
            of a row.
        codes: (stages, rows, subvectors of a row), int32.
        blocks: how the rows are cut into subvectors.
        kept: bool, shaped as the weight, or None: all.
    """

    centroids: tuple[Tensor, ...]
    codes: Tensor
    blocks: Blocks
    kept: Tensor | None

    def decode(self) -> Tensor:
        """The weight, (out, in, *kernel): its centroids where kept, +0.0 elsewhere."""
        dtype = self.centroids[0].dtype
        wide = dtype if dtype == torch.float64 else torch.float32
        parts = [
            stage[self._books(stage), codes.long()].to(wide)
            for stage, codes in zip(self.centroids, self.codes, strict=True)
        ]
        values = self.blocks.join(torch.stack(parts).sum(0).to(dtype))
        return values if self.kept is None else torch.where(self.kept, values, 0.0)

    def entries(self) -> Codebook:
        """The same of one stage as a codebook of single values: those of all centroids in turn.

        Raises:
            ConfigError: there are several stages, so an entry is a sum of values.
        """
        if len(self.centroids) > 1:
            raise ConfigError(
                f"a codebook of {len(self.centroids)} stages has no values of its own to train: "
                "each entry is a sum of them; expected one stage, as of Product"
            )
        stage = self.centroids[0]  # (books, k, d)
        books, k, size = stage.shape
        first = (self._books(stage) * k + self.codes[0].long()) * size
        codes = self.blocks.join(first[:, :, None] + torch.arange(size, device=first.device))
        if self.kept is not None:
            codes = torch.where(self.kept, codes, -1)
        small = books * k * size <= torch.iinfo(torch.int16).max
        return Codebook(stage.flatten(), codes.to(torch.int16 if small else torch.int32))

    def _books(self, stage: Tensor) -> Tensor:
        """The codebook of each place in a row."""
        if len(stage) == 1:
            return torch.zeros(1, dtype=torch.long, device=stage.device)
        return torch.arange(len(stage), device=stage.device)


def blocks_of(shape: Sequence[int], dimension: int | None) -> Blocks:
    """How a weight (out, in, *kernel) is cut: each row, (in * kernel), into subvectors in turn.

    The last one of a row is shorter if `dimension` does not divide it. None stands for a kernel of
    a convolution, 4 of a pointwise one, 8 of all else.

    >>> [blocks_of(s, None).size for s in ((64, 32, 3, 3), (64, 32, 1, 1), (300, 784))]
    [9, 4, 8]
    """
    if dimension is None:
        kernel = torch.Size(shape[2:]).numel()
        dimension = 8 if len(shape) <= 2 else 4 if kernel == 1 else kernel
    return Blocks.of(tuple(shape), "group", dimension)


def entry_weights(
    weight: Tensor, blocks: Blocks, kept: Tensor | None, importance: Tensor | None
) -> Tensor | None:
    """How much the error of each entry counts, cut into subvectors; None: all alike.

    What is not kept, and what a short subvector lacks, has no say.
    """
    if kept is None and importance is None and not blocks.padding:
        return None
    counts = torch.ones_like(weight, dtype=torch.float64)
    if importance is not None:
        counts = importance.double() if kept is None else importance.double()[kept]
        mean = counts.mean()
        scaled = (importance.double() / mean).clamp(min=LEAST_IMPORTANCE)
        counts = scaled if mean > 0 else torch.ones_like(scaled)
    if kept is not None:
        counts = torch.where(kept, counts, 0.0)
    return blocks.split(counts)


def find_centroids(
    vectors: Tensor,
    k: int,
    *,
    codebook: str = "shared",
    seed: int = 0,
    weights: Tensor | None = None,
    moments: Tensor | None = None,
    which: Tensor | None = None,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Codebooks for subvectors, and the code of each of them.

    Args:
        vectors: (rows, places, d).
        weights: shaped as they are; `moments`, (m, d, d), and `which`, (rows, places), as `Points`.
        start: (books, k, d), to go on from.

    Returns:
        (books, k, d) float64 or float32, filled up with zeros where a book has fewer; (rows,
        places) int32.
    """
    rows, places, size = vectors.shape
    books = 1 if codebook == "shared" else places
    found = []
    for book in range(books):
        part = slice(None) if books == 1 else slice(book, book + 1)
        points = Points(
            vectors[:, part].reshape(-1, size),
            None if weights is None else weights[:, part].reshape(-1, size),
            moments,
            None if which is None else which[:, part].reshape(-1),
        )
        draws = generator(seed, "product", book)
        first = None if start is None else start[book]
        found.append(kmeans_vectors(points, k, start=first, generator=draws))
    most = max(len(clusters.centroids) for clusters in found)
    centroids = vectors.new_zeros(books, most, size, dtype=found[0].centroids.dtype)
    for book, clusters in enumerate(found):
        centroids[book, : len(clusters.centroids)] = clusters.centroids
    codes = torch.stack([clusters.codes.view(rows, -1) for clusters in found], 1)
    return centroids, codes.view(rows, places).int()


def check_centroids(k: int, dimension: int | None, codebook: str) -> None:
    """Check the settings of a quantizer of subvectors.

    Raises:
        ConfigError: one is out of range.
    """
    if not _whole(k) or not 2 <= k <= MAX_CENTROIDS:
        raise ConfigError(f"k: {k!r}; expected 2 to {MAX_CENTROIDS:,} centroids")
    if dimension is not None and (not _whole(dimension) or dimension < 1):
        raise ConfigError(f"dimension: {dimension!r}; expected 1 or more entries of a subvector")
    if codebook not in CODEBOOKS:
        raise ConfigError(f"codebook {codebook!r}: {did_you_mean(codebook, CODEBOOKS)}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
