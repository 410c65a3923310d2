from numpy import bool_, float32, float64, int16, int32, int64, uint8, uint16, uint64
from numpy.typing import NDArray

class FormatError(ValueError):
    """Bytes that break the format; `tersor.store` adds file and tensor."""

def pack_bits(codes: NDArray[uint16], width: int) -> NDArray[uint8]:
    """Codes of `width` bits (1 to 16) in a row, low bit first, padded with zero bits."""

def unpack_bits(
    data: NDArray[uint8] | bytes | memoryview, width: int, count: int
) -> NDArray[uint16]:
    """What `pack_bits` packed. FormatError: `data` has another size, or its padding is not zero."""

def huffman_lengths(counts: NDArray[uint64], max_length: int = 15) -> NDArray[uint8]:
    """Lengths of an optimal prefix code with none above `max_length`; 0 for a count of 0.

    One used symbol has length 1, and its streams take no bits. ValueError: more symbols are used
    than there are codes.
    """

def huffman_encode(symbols: NDArray[uint16], lengths: NDArray[uint8]) -> NDArray[uint8]:
    """The stream of `symbols` in the canonical code of these lengths (at most 15)."""

def huffman_decode(
    data: NDArray[uint8] | bytes | memoryview, lengths: NDArray[uint8], count: int
) -> NDArray[uint16]:
    """The `count` symbols of a stream. FormatError: no complete code, or another stream."""

def kmeans_1d(
    values: NDArray[float32] | NDArray[float64], weights: NDArray[float64], k: int, bins: int
) -> tuple[NDArray[float64], NDArray[int64], float, float]:
    """The best k clusters of ascending values: centroids, boundaries, cost, least possible cost.

    Cluster c holds values[boundaries[c] : boundaries[c + 1]], fewer than k if there are fewer
    distinct values. The cost is the sum of weight * (value - centroid)**2; weights may be empty.
    The optimum itself if there are at most `bins` distinct values. ValueError: an input breaks the
    rules.
    """

def lloyd(
    values: NDArray[float32] | NDArray[float64],
    weights: NDArray[float64],
    centroids: NDArray[float64],
    steps: int,
) -> tuple[NDArray[float64], NDArray[int64], float, float]:
    """Lloyd's steps from ascending centroids, until nothing moves: as `kmeans_1d`, least is 0."""

def count_below(
    values: NDArray[float32] | NDArray[float64], borders: NDArray[float64]
) -> NDArray[int32]:
    """How many of the ascending borders are below each value."""

def count_into_bins(values: NDArray[float32], width: float, counts: NDArray[int64]) -> int:
    """Add each value but the zeros to bin floor(value / width) + len(counts) // 2; how many zeros.

    The values may be a view with a stride. ValueError: a value lies in no bin.
    """

def kl_thresholds(counts: NDArray[int64], histograms: int, levels: int) -> NDArray[int64]:
    """For each histogram, one after the other in `counts`, the bins that `quantize.KL` keeps."""

def histogram_errors(
    centers: NDArray[float64],
    counts: NDArray[float64],
    scales: NDArray[float64],
    zero_points: NDArray[float64],
    low: float,
    high: float,
) -> NDArray[float64]:
    """For each scale and zero point the sum of counts * (nearest - center)**2.

    Nearest: scale * (q - zero_point) for a whole number q from `low` to `high`.
    """

def rans_estimate(counts: NDArray[uint64]) -> int:
    """Bytes that an rANS stream of symbols that occur so often takes, to within a few."""

def rans_encode(symbols: NDArray[uint16], alphabet: int) -> NDArray[uint8]:
    """The rANS stream of symbols below `alphabet` (at most 1,024)."""

def rans_decode(
    data: NDArray[uint8] | bytes | memoryview, alphabet: int, count: int
) -> NDArray[uint16]:
    """The `count` symbols of a stream. FormatError: it is none."""

def planes_encode(
    words: NDArray[uint8], word_size: int, rotate: bool
) -> tuple[NDArray[uint8], NDArray[uint64]]:
    """The byte planes of words (given as their bytes), and the length of each, 0 = as it is."""

def planes_decode(
    data: NDArray[uint8] | bytes | memoryview,
    lengths: NDArray[uint64],
    rotate: bool,
    words: NDArray[uint8],
) -> None:
    """Fill `words`, the bytes of as many words as were encoded. FormatError: other planes."""

def map_encode(
    map: NDArray[uint8], rows: int, columns: int, kernel: int, lag: int
) -> NDArray[uint8]:
    """The context stream of a grid of zeros and ones."""

def map_decode(
    data: NDArray[uint8] | bytes | memoryview,
    rows: int,
    columns: int,
    kernel: int,
    lag: int,
    map: NDArray[uint8],
) -> None:
    """Fill `map` with zeros and ones. FormatError: another stream."""

def codes_encode(
    codes: NDArray[uint16],
    alphabet: int,
    map: NDArray[uint8],
    rows: int,
    columns: int,
    lag: int,
) -> NDArray[uint8]:
    """The context stream of one code below `alphabet` (at most 1,024) for each 1 of a map."""

def codes_decode(
    data: NDArray[uint8] | bytes | memoryview,
    alphabet: int,
    map: NDArray[uint8],
    rows: int,
    columns: int,
    lag: int,
    count: int,
) -> NDArray[uint16]:
    """The `count` codes of a stream. FormatError: another stream, or another number of ones."""

def add_digits(
    numbers: NDArray[float32 | float64], shift: int, prefix: int, cost: int, counts: NDArray[int64]
) -> None:
    """Add `cost` at the digit that follows `prefix` of each number's key; see selection.hpp.

    A key is an integer of the float's width, ordered as floats are; a digit is its 16 bits from
    `shift` on. `counts` has 65,536 entries.
    """

def pay(counts: NDArray[int64], budget: int) -> tuple[int, int]:
    """How many digits, from the highest down, are paid for as a whole, and what is left."""

def count_above(numbers: NDArray[float32 | float64], key: int) -> tuple[int, int]:
    """How many keys are greater than `key` (a signed integer), and how many are equal."""

def mark_above(
    numbers: NDArray[float32 | float64], key: int, ties: int, out: NDArray[bool_]
) -> int:
    """Mark the greater keys, and the first `ties` equal ones; how many ties are left."""

def isa_names() -> list[str]:
    """Instruction sets that this build and this processor have, widest first."""

def isa() -> str:
    """The instruction set whose kernels run."""

def force_isa(name: str) -> None:
    """Run the kernels of this instruction set; "" = the widest. ValueError: there is none."""

def threads_kind() -> str:
    """What shares work among threads: "openmp", the runtime that torch loaded, or "threads"."""

def sparse_bytes(
    rows: int, columns: int, row_block: int, tile: int, code_bits: int, entries: int
) -> int:
    """Bytes of a sparse matrix. ValueError: it cannot be represented."""

def sparse_pack(
    rows: int,
    columns: int,
    row_block: int,
    tile: int,
    code_bits: int,
    positions: NDArray[int64],
    codes: NDArray[uint16],
    book: NDArray[float32],
    values: NDArray[float32],
    out: NDArray[uint8],
) -> None:
    """Fill `out` with a sparse matrix. ValueError: the parts do not fit each other."""

def sparse_check(weights: NDArray[uint8]) -> None:
    """ValueError: a count or a column of a sparse matrix is wrong."""

def sparse_shape(weights: int, size: int) -> tuple[int, int, int, int, int, int]:
    """rows, columns, row_block, tile, code_bits, entries of the sparse matrix at an address."""

def sparse_dense(weights: int, size: int, out: int) -> None:
    """Write the entries of a sparse matrix into zeros."""

def sparse_linear(
    weights: int,
    size: int,
    x: int,
    batch: int,
    out: int,
    scale: int,
    bias: int,
    activation: int,
    threads: int,
) -> None:
    """out = activation((x @ weights.T) * scale + bias), all of them addresses; 0 = none."""

def sparse_rows(weights: int, size: int, ids: int, count: int, out: int, threads: int) -> None:
    """out = rows of a matrix with blocks of one row. IndexError: an id that is none."""

def sparse_convolution(
    weights: int,
    size: int,
    x: int,
    images: int,
    channels: int,
    height: int,
    width: int,
    kernel_y: int,
    kernel_x: int,
    stride_y: int,
    stride_x: int,
    padding_y: int,
    padding_x: int,
    dilation_y: int,
    dilation_x: int,
    out: int,
    scale: int,
    bias: int,
    activation: int,
    threads: int,
) -> None:
    """out = activation(conv2d(x, weights) * scale + bias), tensors by address; 0 = none."""

def codes_bytes(rows: int, columns: int, bits: int, row_books: bool) -> int:
    """Bytes of a matrix of codes. ValueError: it cannot be represented."""

def codes_pack(
    rows: int,
    columns: int,
    bits: int,
    row_books: bool,
    codes: NDArray[uint16],
    books: NDArray[float32],
    out: NDArray[uint8],
) -> None:
    """Fill `out` with a matrix of codes; `books` is the codebook, or those of the rows."""

def integers_bytes(rows: int, columns: int, bits: int, group: int) -> int:
    """Bytes of a matrix of integers. ValueError: it cannot be represented."""

def integers_pack(
    rows: int,
    columns: int,
    bits: int,
    group: int,
    integers: NDArray[int16],
    scales: NDArray[float32],
    out: NDArray[uint8],
) -> None:
    """Fill `out` with integers, and a scale for each row and each `group` columns."""

def codes_shape(weights: int, size: int) -> tuple[int, int]:
    """rows and columns of the codes or integers at an address."""

def codes_dense(weights: int, size: int, out: int) -> None:
    """Write all values of a matrix of codes or integers."""

def codes_linear(
    weights: int,
    size: int,
    x: int,
    batch: int,
    out: int,
    scale: int,
    bias: int,
    activation: int,
    threads: int,
) -> None:
    """As `sparse_linear`, for a matrix of codes or integers."""

def recurrent(
    cell: int,
    reverse: bool,
    input: int,
    input_size: int,
    input_coded: bool,
    hidden: int,
    hidden_size: int,
    hidden_coded: bool,
    input_bias: int,
    hidden_bias: int,
    x: int,
    steps: int,
    batch: int,
    inputs: int,
    units: int,
    h: int,
    c: int,
    out: int,
    stride: int,
    threads: int,
) -> None:
    """One layer and direction of an LSTM (cell 0) or GRU (1), tensors by address; 0 = none.

    x (steps, batch, inputs) -> out, whose samples are `stride` floats apart; h and c (batch,
    units) become the state after the last step. ValueError: matrices of other sides.
    """

def linear_chain(
    links: list[tuple[bool, int, int, int, int, int]],
    x: int,
    batch: int,
    out: int,
    threads: int,
) -> None:
    """Layers one after another: (coded, weights, size, scale, bias, activation) each."""

def max_pool(
    x: int,
    planes: int,
    height: int,
    width: int,
    kernel_y: int,
    kernel_x: int,
    stride_y: int,
    stride_x: int,
    padding_y: int,
    padding_x: int,
    out: int,
    threads: int,
) -> None:
    """out = the largest value of each window of each plane."""
