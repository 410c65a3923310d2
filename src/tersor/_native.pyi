from numpy import float64, int64, uint8, uint16
from numpy.typing import NDArray

class FormatError(ValueError):
    """Bytes that break the format; `tersor.store` adds file and tensor."""

def pack_bits(codes: NDArray[uint16], width: int) -> NDArray[uint8]:
    """Codes of `width` bits (1 to 16) in a row, low bit first, padded with zero bits."""

def unpack_bits(data: NDArray[uint8] | bytes, width: int, count: int) -> NDArray[uint16]:
    """What `pack_bits` packed. FormatError: `data` has another size, or its padding is not zero."""

def kmeans_1d(
    values: NDArray[float64], weights: NDArray[float64], k: int
) -> tuple[NDArray[float64], NDArray[int64], float]:
    """Exact k-means of strictly ascending values: centroids, boundaries, cost.

    `min(k, len(values))` clusters; cluster c holds values[boundaries[c] : boundaries[c + 1]].
    The cost is the sum of weight * (value - centroid)**2. ValueError: an input breaks the rules.
    """
