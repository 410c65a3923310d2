"""What a codec is: one way to say which words are not zero, and one way to say those words.

Everything about a codec that the streams do not say themselves stands in these small records, so
the length of each stream is known before anything is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tersor.core.errors import FormatError
from tersor.store.relative import Convention
from tersor.store.words import Grid

Order = Literal["row", "column"]

MAX_ALPHABET = 1 << 16
MAX_HUFFMAN_ALPHABET = 1 << 15
MAX_RANS_ALPHABET = 1 << 10
MAX_CONTEXT_ALPHABET = 1 << 10
MAX_LAG = (1 << 31) - 1

Lengths = tuple[int, ...]


@dataclass(frozen=True)
class Dense:
    """Every word is stored."""

    fillers: ClassVar[int] = 0

    def entries(self, grid: Grid) -> int:
        return grid.count

    def byte_length(self, grid: Grid) -> int:
        return 0

    def check(self, grid: Grid) -> None:
        pass

    def __str__(self) -> str:
        return "dense"


@dataclass(frozen=True)
class Mask:
    """One bit a word, 1 = not zero.

    Args:
        kept: number of words that are not zero.
    """

    fillers: ClassVar[int] = 0
    kept: int

    def entries(self, grid: Grid) -> int:
        return self.kept

    def byte_length(self, grid: Grid) -> int:
        return (grid.count + 7) // 8

    def check(self, grid: Grid) -> None:
        _within("kept", self.kept, 0, grid.count)

    def __str__(self) -> str:
        return "bitmask"


@dataclass(frozen=True)
class Map:
    """Which words are not zero, place by place, by the context coder.

    Args:
        kept: number of words that are not zero.
        bytes: of the stream.
        lag: so many columns away are neighbours, as the width of an image; 0 = there are none.
    """

    fillers: ClassVar[int] = 0
    kept: int
    bytes: int
    lag: int = 0

    def entries(self, grid: Grid) -> int:
        return self.kept

    def byte_length(self, grid: Grid) -> int:
        return self.bytes

    def check(self, grid: Grid) -> None:
        _within("kept", self.kept, 0, grid.count)
        _within("lag", self.lag, 0, MAX_LAG)

    def __str__(self) -> str:
        return "context map" + (f", lag {self.lag}" if self.lag else "")


@dataclass(frozen=True)
class Relative:
    """Gaps between the words that are not zero.

    Args:
        bits: width of an index code, 2 to 8.
        kept: number of words that are not zero.
        fillers: number of filler entries among them.
        huffman: bytes of the Huffman stream of index codes, without its table.
        rans: bytes of their rANS stream; with neither, they have `bits` bits each.
        order: scan the grid by rows or by columns.
        convention: "gap1" or "gap".
    """

    bits: int
    kept: int
    fillers: int
    huffman: int | None = None
    rans: int | None = None
    order: Order = "row"
    convention: Convention = "gap1"

    def entries(self, grid: Grid) -> int:
        return self.kept + self.fillers

    def byte_length(self, grid: Grid) -> int:
        if self.rans is not None:
            return self.rans
        if self.huffman is None:
            return (self.entries(grid) * self.bits + 7) // 8
        return table_bytes(1 << self.bits) + self.huffman

    def check(self, grid: Grid) -> None:
        _only_one(huffman=self.huffman, rans=self.rans)
        _within("bits", self.bits, 2, 8)
        _within("kept", self.kept, 0, grid.count)
        # Entries stand at different positions, kept ones and fillers alike.
        _within("fillers", self.fillers, 0, grid.count - self.kept)

    def __str__(self) -> str:
        coding = _coding(huffman=self.huffman, rans=self.rans) or "fixed"
        extra = " by column" if self.order == "column" else ""
        extra += ", gaps from 0" if self.convention == "gap" else ""
        return f"relative index {self.bits} bits {coding}{extra}"


@dataclass(frozen=True)
class Raw:
    """The words themselves; a filler is a zero word."""

    def table_length(self, fillers: int, word_size: int) -> int:
        return 0

    def byte_length(self, entries: int, fillers: int, word_size: int) -> int:
        return entries * word_size

    def check(self, entries: int, fillers: int) -> None:
        pass

    def __str__(self) -> str:
        return "raw"


@dataclass(frozen=True)
class Planes:
    """The words as planes of bytes, the highest first, each as it is or by rANS.

    Args:
        lengths: bytes of the rANS stream of each plane; 0 = as it is.
        rotate: each word was turned left by one bit, so a float's exponent fills a plane.
    """

    lengths: Lengths
    rotate: bool = False

    def table_length(self, fillers: int, word_size: int) -> int:
        return 0

    def byte_length(self, entries: int, fillers: int, word_size: int) -> int:
        return sum(length or entries for length in self.lengths)

    def check(self, entries: int, fillers: int) -> None:
        pass

    def __str__(self) -> str:
        return f"byte planes {'/'.join('rANS' if n else 'raw' for n in self.lengths)}"


@dataclass(frozen=True)
class Codebook:
    """The distinct words, and the code of each entry; FILLER is one code more where there are any.

    Args:
        size: number of distinct words.
        huffman: bytes of the Huffman stream of codes, without its table.
        rans: bytes of their rANS stream.
        context: bytes of their context stream; with none of these, they are packed in the bits
            that they need.
        lag: with `context`, as in `Map`.
    """

    size: int
    huffman: int | None = None
    rans: int | None = None
    context: int | None = None
    lag: int = 0

    def alphabet(self, fillers: int) -> int:
        return self.size + (fillers > 0)

    def width(self, fillers: int) -> int:
        return (self.alphabet(fillers) - 1).bit_length()

    def table_length(self, fillers: int, word_size: int) -> int:
        """Bytes of the codebook and, with Huffman, of the code lengths."""
        lengths = 0 if self.huffman is None else table_bytes(self.alphabet(fillers))
        return self.size * word_size + lengths

    def byte_length(self, entries: int, fillers: int, word_size: int) -> int:
        streams = [n for n in (self.huffman, self.rans, self.context) if n is not None]
        codes = streams[0] if streams else (entries * self.width(fillers) + 7) // 8
        return self.table_length(fillers, word_size) + codes

    def check(self, entries: int, fillers: int) -> None:
        _only_one(huffman=self.huffman, rans=self.rans, context=self.context)
        _within("lag", self.lag, 0, MAX_LAG if self.context is not None else 0)
        limit = MAX_ALPHABET
        if self.huffman is not None:
            limit = MAX_HUFFMAN_ALPHABET
        elif self.rans is not None:
            limit = MAX_RANS_ALPHABET
        elif self.context is not None:
            limit = MAX_CONTEXT_ALPHABET
        # Every word of a codebook is used.
        _within("codebook size", self.size, 1, min(limit - (fillers > 0), entries - fillers))

    def __str__(self) -> str:
        coding = _coding(huffman=self.huffman, rans=self.rans, context=self.context) or "packed"
        return f"codebook {self.size} {coding}"


Positions = Dense | Mask | Map | Relative
Values = Raw | Planes | Codebook


@dataclass(frozen=True)
class Codec:
    """How one tensor is stored, or one part of it.

    >>> from tersor.store.words import Grid
    >>> codec = Codec(Relative(bits=5, kept=100, fillers=2), Codebook(16))
    >>> str(codec), codec.byte_length(Grid(10, 100, 4))
    ('relative index 5 bits fixed, codebook 16 packed', 192)
    """

    positions: Positions
    values: Values

    def byte_length(self, grid: Grid) -> int:
        """Bytes of all streams together."""
        entries = self.positions.entries(grid)
        return self.positions.byte_length(grid) + self.values.byte_length(
            entries, self.positions.fillers, grid.word_size
        )

    def table_length(self, grid: Grid) -> int:
        """Bytes of codebook and code lengths, part of `byte_length`."""
        index = 0
        if isinstance(self.positions, Relative) and self.positions.huffman is not None:
            index = table_bytes(1 << self.positions.bits)
        return index + self.values.table_length(self.positions.fillers, grid.word_size)

    def check(self, grid: Grid) -> None:
        """Check that every number is possible for this grid.

        Raises:
            FormatError: one is not.
        """
        self.positions.check(grid)
        fillers = self.positions.fillers
        self.values.check(self.positions.entries(grid), fillers)
        match self.positions, self.values:
            case Relative(), Codebook(context=int()):
                raise FormatError("codes by context with a relative index")
            case _, Planes(lengths=lengths) if len(lengths) != grid.word_size:
                raise FormatError(
                    f"{len(lengths)} byte planes, but words have {grid.word_size} bytes"
                )

    def __str__(self) -> str:
        return f"{self.positions}, {self.values}"


def table_bytes(alphabet: int) -> int:
    """Bytes of a table of code lengths, 4 bits each."""
    return (alphabet + 1) // 2


_CODINGS = {"huffman": "Huffman", "rans": "rANS", "context": "by context"}


def _coding(**streams: int | None) -> str | None:
    return next((_CODINGS[name] for name, length in streams.items() if length is not None), None)


def _only_one(**streams: int | None) -> None:
    given = [name for name, length in streams.items() if length is not None]
    if len(given) > 1:
        raise FormatError(f"both {given[0]!r} and {given[1]!r}")


def _within(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise FormatError(f"{what} {value}, expected {least} to {most}")
