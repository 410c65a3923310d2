"""Reads a `.terse` file in plain Python, written from docs/format.md alone: slow and obvious.

The oracle of the tests. It shares no code with tersor and checks little: what it gets is valid.
"""

import json
import math
import zlib

ELEMENT_BYTES = {
    1: "bool uint8 int8 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu "
    "float4_e2m1fn_x2 bits8 bits1x8 bits2x4 bits4x2 "
    + " ".join(f"{kind}{bits}" for kind in ("int", "uint") for bits in range(1, 8)),
    2: "float16 bfloat16 int16 uint16 bits16",
    4: "float32 int32 uint32 complex32",
    8: "float64 int64 uint64 complex64",
    16: "complex128",
}
BYTES_OF = {name: size for size, names in ELEMENT_BYTES.items() for name in names.split()}


def decode(data):
    """The tensors by name as (dtype, shape, bytes), ties and copies by name, and the metadata."""
    assert data[:6] == b"\x89TERSE", "magic"
    assert data[6] == 1, "version"
    assert data[7] in (0, 1), "flags"
    length = int.from_bytes(data[8:12], "little")
    header = data[16 : 16 + length]
    assert zlib.crc32(data[:12] + header) == int.from_bytes(data[12:16], "little"), "header CRC"
    if data[7] == 1:
        header = zlib.decompress(header, wbits=-15)
    header = json.loads(header.decode("utf-8"))
    tensors, repeats, stored = {}, {}, []
    stream = Stream(data[16 + length :])
    for entry in header["tensors"]:
        name = entry["name"]
        for key in ("tied", "copy"):
            if key in entry:
                repeats[name] = (key, stored[entry[key]])
                tensors[name] = tensors[stored[entry[key]]]
        if "dtype" in entry:
            begin = stream.at
            words = decode_words(stream, entry)
            assert zlib.crc32(stream.data[begin : stream.at]) == entry["crc"], name
            tensors[name] = (entry["dtype"], tuple(entry["shape"]), words)
        stored.append(name)
    assert stream.at == len(stream.data), "bytes at the end"
    return tensors, repeats, header.get("metadata", {})


def decode_words(stream, entry):
    size = BYTES_OF[entry["dtype"]]
    shape = list(entry["shape"])
    if entry["dtype"].startswith("complex"):
        size //= 2
        shape.append(2)
    count = math.prod(shape)
    rows = shape[0] if len(shape) > 1 else 1
    if "mask" in entry:
        bits = stream.codes(count, 1)
        positions = [i for i in range(count) if bits[i]]
        assert len(positions) == entry["mask"]["kept"]
        values = decode_values(stream, entry, size, len(positions), 0)
    elif "relative" in entry:
        positions, values = decode_relative(stream, entry, size, count, rows)
    else:
        positions = list(range(count))
        values = decode_values(stream, entry, size, count, 0)
    words = [bytes(size)] * count
    for position, value in zip(positions, values, strict=True):
        words[position] = value
    return b"".join(words)


def decode_relative(stream, entry, size, count, rows):
    relative = entry["relative"]
    bits = relative["bits"]
    entries = relative["kept"] + relative["fillers"]
    if "huffman" in relative:
        codes = stream.huffman(entries, 2**bits, relative["huffman"])
    else:
        codes = stream.codes(entries, bits)
    values = decode_values(stream, entry, size, entries, relative["fillers"])
    gap1 = relative.get("convention", "gap1") == "gap1"
    at = -1 if gap1 else 0
    positions, kept = [], []
    for code, value in zip(codes, values, strict=True):
        at += code + 1 if gap1 else code
        assert at < count
        if value is None:
            assert code == 2**bits - 1
            continue
        columns = count // rows
        by_column = relative.get("order", "row") == "column"
        positions.append((at % rows) * columns + at // rows if by_column else at)
        kept.append(value)
    assert len(kept) == relative["kept"] == len(set(positions))
    return positions, kept


def decode_values(stream, entry, size, entries, fillers):
    """One word as bytes for each entry; None is FILLER."""
    if "codebook" not in entry:
        words = [stream.take(size) for _ in range(entries)]
        return [None if "relative" in entry and not any(w) else w for w in words]
    book = [stream.take(size) for _ in range(entry["codebook"]["size"])]
    alphabet = [*book, None] if fillers else book
    if "huffman" in entry["codebook"]:
        codes = stream.huffman(entries, len(alphabet), entry["codebook"]["huffman"])
    else:
        width = 0
        while 2**width < len(alphabet):
            width += 1
        codes = stream.codes(entries, width)
    return [alphabet[code] for code in codes]


class Stream:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, size):
        assert self.at + size <= len(self.data)
        self.at += size
        return self.data[self.at - size : self.at]

    def codes(self, count, width):
        number = int.from_bytes(self.take((count * width + 7) // 8), "little")
        codes = [number >> (i * width) & (2**width - 1) for i in range(count)]
        assert number >> (count * width) == 0
        return codes

    def huffman(self, count, alphabet, size):
        lengths = self.codes(alphabet, 4)
        used = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
        data = self.take(size)
        if len(used) == 1:
            assert size == 0
            return [used[0][1]] * count
        table, code, before = {}, 0, 0
        for length, symbol in used:
            code <<= length - before
            table[length, code] = symbol
            code, before = code + 1, length
        assert not used or code == 2**before, "the code is not complete"
        bits = "".join(f"{byte:08b}"[::-1] for byte in data)
        symbols, at = [], 0
        for _ in range(count):
            end = at + 1
            while (end - at, int(bits[at:end], 2)) not in table:
                end += 1
            symbols.append(table[end - at, int(bits[at:end], 2)])
            at = end
        assert len(bits) - at < 8
        assert "1" not in bits[at:]
        return symbols
