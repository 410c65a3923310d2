"""Reads a `.terse` file in plain Python, written from docs/format.md alone: slow and obvious.

The oracle of the tests. It shares no code with tersor and checks little: what it gets is valid.
"""

import itertools
import json
import math
import zlib
from bisect import bisect_left

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


# What a deflated header of version 2 may refer to.
BEFORE = (
    b'"convention":"gap","order":"column","huffman":,"rans":,"mask":{"kept":,"copy":,"tied":},'
    b'"base":,"parts":[{"metadata":{"num_batches_tracked","running_mean","running_var","embed_'
    b'tokens.weight","self_attn.q_proj.weight","k_proj.weight","v_proj.weight","o_proj.weight"'
    b',"mlp.gate_proj.weight","up_proj.weight","down_proj.weight","layernorm.weight","dtype":"'
    b'int64","dtype":"uint8","dtype":"float16","dtype":"bfloat16","shape":[],"relative":{"bits'
    b'":8,"kept":,"fillers":0,"rans":},"codebook":{"size":,"rans":},"crc":{"tensors":[{"name":'
    b'"fc1.bias","dtype":"float32","shape":[100],"planes":{"lengths":[0,0,0,0],"rotate":true},'
    b'"crc":},{"name":"conv1.weight","dtype":"float32","shape":[300,784],"map":{"kept":,"bytes'
    b'":,"lag":28},"codebook":{"size":16,"context":,"lag":28},"crc":'
)
PART_WORDS = 2**22


def decode(data, base=None):
    """The tensors by name as (dtype, shape, bytes), ties and copies by name, and the metadata.

    `base` has the tensors of the base in the same form.
    """
    assert data[:6] == b"\x89TERSE", "magic"
    version = data[6]
    assert version in (1, 2), "version"
    assert data[7] in (0, 1), "flags"
    length = int.from_bytes(data[8:12], "little")
    at = 16 if version == 1 else len(data) - length
    header = data[at : at + length]
    assert zlib.crc32(data[:12] + header) == int.from_bytes(data[12:16], "little"), "header CRC"
    if data[7] == 1:
        inflater = zlib.decompressobj(-15) if version == 1 else zlib.decompressobj(-15, BEFORE)
        header = inflater.decompress(header)
        assert inflater.eof
        assert not inflater.unused_data
    header = json.loads(header.decode("utf-8"))
    tensors, repeats, stored = {}, {}, []
    stream = Stream(data[16 + length :] if version == 1 else data[16:at])
    for entry in header["tensors"]:
        name = entry["name"]
        for key in ("tied", "copy"):
            if key in entry:
                repeats[name] = (key, stored[entry[key]])
                tensors[name] = tensors[stored[entry[key]]]
        if "dtype" in entry:
            words = decode_tensor(stream, entry)
            if "base" in entry:
                dtype, shape, under = base[name]
                assert (dtype, list(shape)) == (entry["dtype"], entry["shape"]), name
                assert zlib.crc32(under) == entry["base"], name
                words = restore(words, under, entry["dtype"])
            tensors[name] = (entry["dtype"], tuple(entry["shape"]), words)
        stored.append(name)
    assert stream.at == len(stream.data), "bytes at the end"
    return tensors, repeats, header.get("metadata", {})


def decode_tensor(stream, entry):
    size = word_bytes(entry["dtype"])
    shape = list(entry["shape"]) + ([2] if entry["dtype"].startswith("complex") else [])
    rows, columns = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))
    kernel = math.prod(shape[2:]) or 1
    if "parts" not in entry:
        return decode_part(stream, entry, size, rows, columns, kernel)
    grids = []
    assert rows * columns > PART_WORDS
    if columns <= PART_WORDS:
        step = PART_WORDS // columns
        grids = [(min(step, rows - row), columns, kernel) for row in range(0, rows, step)]
    else:
        count = rows * columns
        grids = [(1, min(PART_WORDS, count - at), 1) for at in range(0, count, PART_WORDS)]
    parts = zip(entry["parts"], grids, strict=True)
    return b"".join(decode_part(stream, part, size, *grid) for part, grid in parts)


def word_bytes(dtype):
    return BYTES_OF[dtype] // 2 if dtype.startswith("complex") else BYTES_OF[dtype]


def decode_part(stream, codec, size, rows, columns, kernel):
    """The words of a tensor, or of a part of it, in a row."""
    begin = stream.at
    count = rows * columns
    if "mask" in codec or "map" in codec:
        if "mask" in codec:
            bits = stream.codes(count, 1)
        else:
            bits = decode_map(
                stream.take(codec["map"]["bytes"]), rows, columns, kernel, lag_of(codec["map"])
            )
        positions = [i for i in range(count) if bits[i]]
        assert len(positions) == codec.get("mask", codec.get("map"))["kept"]
        values = decode_values(stream, codec, size, positions, 0, columns)
    elif "relative" in codec:
        positions, values = decode_relative(stream, codec, size, rows, columns)
    else:
        positions = range(count)
        values = decode_values(stream, codec, size, positions, 0, columns)
    words = [bytes(size)] * count
    for position, value in zip(positions, values, strict=True):
        words[position] = value
    assert zlib.crc32(stream.data[begin : stream.at]) == codec["crc"]
    return b"".join(words)


def decode_relative(stream, codec, size, rows, columns):
    relative = codec["relative"]
    bits = relative["bits"]
    entries = relative["kept"] + relative["fillers"]
    codes = stream.symbols(entries, 2**bits, bits, relative)
    values = decode_values(stream, codec, size, range(entries), relative["fillers"], columns)
    gap1 = relative.get("convention", "gap1") == "gap1"
    at = -1 if gap1 else 0
    positions, kept = [], []
    for code, value in zip(codes, values, strict=True):
        at += code + 1 if gap1 else code
        assert at < rows * columns
        if value is None:
            assert code == 2**bits - 1
            continue
        by_column = relative.get("order", "row") == "column"
        positions.append((at % rows) * columns + at // rows if by_column else at)
        kept.append(value)
    assert len(kept) == relative["kept"] == len(set(positions))
    return positions, kept


def decode_values(stream, codec, size, positions, fillers, columns):
    """One word as bytes for each entry; None is FILLER."""
    entries = len(positions)
    if "codebook" not in codec:
        if "planes" in codec:
            words = decode_planes(stream, codec["planes"], size, entries)
        else:
            words = [stream.take(size) for _ in range(entries)]
        return [None if "relative" in codec and not any(w) else w for w in words]
    codebook = codec["codebook"]
    book = [stream.take(size) for _ in range(codebook["size"])]
    alphabet = [*book, None] if fillers else book
    if "context" in codebook:
        data = stream.take(codebook["context"])
        codes = decode_codes(data, len(alphabet), positions, columns, lag_of(codebook))
    else:
        width = (len(alphabet) - 1).bit_length()
        codes = stream.symbols(entries, len(alphabet), width, codebook)
    return [alphabet[code] for code in codes]


def decode_planes(stream, planes, size, entries):
    octets = []  # of each plane, the highest first
    for length in planes["lengths"]:
        octets.append(stream.rans(entries, 256, length) if length else stream.take(entries))
    assert len(octets) == size
    words = []
    for octet in zip(*octets, strict=True):
        word = int.from_bytes(bytes(octet), "big")
        if planes.get("rotate"):
            word = word >> 1 | (word & 1) << (8 * size - 1)
        words.append(word.to_bytes(size, "little"))
    return words


def restore(words, base, dtype):
    """The words whose differences to the base these are."""
    size = word_bytes(dtype)
    ones, top = 2 ** (8 * size) - 1, 2 ** (8 * size - 1)
    signed = dtype.startswith(("float", "bfloat", "complex"))
    signed = signed and dtype not in ("float8_e8m0fnu", "float4_e2m1fn_x2")
    out = []
    for at in range(0, len(words), size):
        word = int.from_bytes(words[at : at + size], "little")
        d = (word ^ ones) >> 1 | top if word & 1 else word >> 1
        under = int.from_bytes(base[at : at + size], "little")
        if signed:
            under = under ^ ones if under & top else under | top
        value = (under + d) & ones
        if signed:
            value = value ^ top if value & top else value ^ ones
        out.append(value.to_bytes(size, "little"))
    return b"".join(out)


def lag_of(how):
    return how.get("lag", 0)


def decode_map(data, rows, columns, kernel, lag):
    """Of each place of the grid, whether its word is not zero."""
    coder = RangeDecoder(data)
    mixers, model = [Mixer() for _ in range(6)], Counters()
    every = Counter()
    by_column = [Counter(2**17, 1) for _ in range(columns)]
    grid = [[0] * columns for _ in range(rows)]
    for r, c in itertools.product(range(rows), range(columns)):
        if c == 0:
            by_row = Counter(every.p, 6)

        def bit(row, column):
            return grid[row][column] if row >= 0 and 0 <= column < columns else 0

        def b(d, r=r, c=c):
            return bit(r, c - d) if d > 0 else 0

        up, up2, up_left, up_right = (
            bit(r - 1, c),
            bit(r - 2, c),
            bit(r - 1, c - 1),
            bit(r - 1, c + 1),
        )
        if lag == 0:
            near = b(1) + b(2) + up + up2 + up_left + up_right
            low = [b(3), up_left, up_right, up2]
        else:
            near = b(1) + b(2) + b(lag) + b(lag - 1) + b(lag + 1) + b(2 * lag)
            near += b(2 * lag - 1) + b(2 * lag + 1) + b(lag + 2) + b(lag - 2)
            low = [b(lag), b(lag - 1), b(lag + 1), b(2 * lag)]
        shape = sum(value << i for i, value in enumerate([*low, b(1), b(2), up]))
        if kernel > 1:
            k = c % kernel
            shape = 4 * min(k, 63) + min(sum(b(d) for d in range(1, k + 1)), 3)
        around = [c, c - 1, c + 1] + ([c - lag, c + lag] if lag else [])
        near_columns = [by_column[i if 0 <= i < columns else c] for i in [c, *around]]
        mean = sum(counter.p for counter in near_columns) // len(near_columns)
        smooth = 16 * (STRETCH[mean >> 10] + 2048 >> 7) + (by_row.stretched() + 2048 >> 8)
        counters = [
            by_column[c],
            by_row,
            model["shape", shape],
            model["near", 16 * near + (by_column[c].stretched() + 2048 >> 8)],
            model["smooth", smooth],
            model["both", min(near, 5), smooth],
        ]
        grid[r][c] = mixers[min(near, 2) + 3 * up].decode(coder, counters)
        every.tell(grid[r][c])
    coder.finish()
    return [place for row in grid for place in row]


def decode_codes(data, size, positions, columns, lag):
    """The code of each entry; `positions` says where in the grid they are."""
    coder = RangeDecoder(data)
    width = (size - 1).bit_length()
    mixers, model = [Mixer() for _ in range(width)], Counters()
    codes = []
    row, before = -1, 16  # the row, and the class of the entry before in it
    here, above = {}, {}  # the classes of this row, and the last one of each column
    for position in positions:
        r, c = divmod(position, columns)
        if r != row:
            row, before, here = r, 16, {}

        def h(d, c=c, here=here):
            return here.get(c - d, 16) if d > 0 else 16

        up = above.get(c, 16)
        lagged = [h(lag), h(lag - 1), h(lag + 1)] if lag else []
        s = next((found for found in lagged if found != 16), 16)
        f = h(1) if h(1) != 16 else s
        node = 1
        for mixer in mixers:
            keys = [(), ("A", before), ("V", up), ("F", f), ("S", s), ("FS", f, s)]
            counters = [model[node, key] for key in keys]
            for counter in counters:
                if counter.n == 0:
                    counter.p, counter.n = counters[0].p, 2
            node = 2 * node + mixer.decode(coder, counters)
        code = node - 2**width
        assert code < size
        codes.append(code)
        before = here[c] = above[c] = code >> max(width - 4, 0)
    coder.finish()
    return codes


class RangeDecoder:
    def __init__(self, data):
        assert not data or data[-1], "the last byte is zero"
        self.data, self.at = data, 0
        self.low, self.high, self.value = 0, 2**32 - 1, 0
        for _ in range(4):
            self.value = self.value << 8 | self.byte()

    def byte(self):
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def bit(self, p):
        middle = self.low + ((self.high - self.low) * p >> 16)
        bit = int(self.value <= middle)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while self.low >> 24 == self.high >> 24:
            self.low = self.low << 8 & 0xFFFFFFFF
            self.high = self.high << 8 & 0xFFFFFFFF | 255
            self.value = self.value << 8 & 0xFFFFFFFF | self.byte()
        return bit

    def finish(self):
        assert self.at >= len(self.data), "bytes after the last bit"


CURVE = [22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743]
CURVE += [32768, 40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269]
CURVE += [65374, 65438, 65476, 65500, 65514]


def squash(x):
    i, w = (x + 2048) >> 7, (x + 2048) & 127
    return (CURVE[i] * (128 - w) + CURVE[i + 1] * w + 64) >> 7


def stretch_of(p):
    reached = range(-2047, 2048)  # squash never falls
    return min(bisect_left(reached, 16 * p + 8, key=squash) - 2047, 2047)


STRETCH = [stretch_of(p) for p in range(4096)]


class Counter:
    def __init__(self, p=2**21, n=0):
        self.p, self.n = p, n

    def stretched(self):
        return STRETCH[self.p >> 10]

    def tell(self, bit):
        target = 2**22 - 1 if bit else 0
        self.p += (target - self.p) * (131072 // (2 * self.n + 3)) >> 16
        self.n = min(self.n + 1, 1023)


class Counters(dict):
    """Counters by any key, each made when it is first asked for."""

    def __missing__(self, key):
        self[key] = Counter()
        return self[key]


class Mixer:
    def __init__(self):
        self.weights, self.rate, self.count = [11000] * 6, 15, 0

    def decode(self, coder, counters):
        stretched = [counter.stretched() for counter in counters]
        x = sum(w * s for w, s in zip(self.weights, stretched, strict=True)) >> 16
        p = squash(max(-2047, min(2047, x)))
        bit = coder.bit(p)
        e = 65536 * bit - p
        for i, s in enumerate(stretched):
            weight = self.weights[i] + (s * e * self.rate + 2**19 >> 20)
            self.weights[i] = max(-(2**22), min(2**22, weight))
        for counter in counters:
            counter.tell(bit)
        if self.rate > 6:
            self.count += 1
            if self.count == 256 * (16 - self.rate):
                self.rate, self.count = self.rate - 1, 0
        return bit


class Stream:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, size):
        assert self.at + size <= len(self.data)
        self.at += size
        return self.data[self.at - size : self.at]

    def packed(self, bits):
        """So many bits as a number, the first one lowest, and the padding behind them."""
        number = int.from_bytes(self.take((bits + 7) // 8), "little")
        assert number >> bits == 0
        return number

    def codes(self, count, width):
        number = self.packed(count * width)
        return [number >> (i * width) & (2**width - 1) for i in range(count)]

    def symbols(self, count, alphabet, width, how):
        """Codes by the coder that `how` has the length of, or packed in `width` bits each."""
        if "huffman" in how:
            return self.huffman(count, alphabet, how["huffman"])
        if "rans" in how:
            return self.rans(count, alphabet, how["rans"])
        return self.codes(count, width)

    def rans(self, count, alphabet, size):
        stream = Stream(self.take(size))
        if count == 0:
            assert size == 0
            return []
        precision = stream.take(1)[0]
        assert 8 <= precision <= 14
        lengths = stream.codes(alphabet, 4)
        number, at = stream.packed(sum(max(length - 1, 0) for length in lengths)), 0
        slots = []  # of each number below 2^precision, the symbol and the place within it
        frequencies = []
        for symbol, length in enumerate(lengths):
            assert length <= precision + 1
            low = max(length - 1, 0)
            frequency = (1 << low | number >> at & (1 << low) - 1) if length else 0
            at += low
            frequencies.append(frequency)
            slots += [(symbol, place) for place in range(frequency)]
        assert len(slots) == 2**precision
        lanes = 1 if count < 65536 else 8
        states = [int.from_bytes(stream.take(4), "little") for _ in range(lanes)]
        assert min(states) >= 2**16
        symbols = []
        for i in range(count):
            x = states[i % lanes]
            symbol, place = slots[x % 2**precision]
            x = frequencies[symbol] * (x // 2**precision) + place
            if x < 2**16:
                x = x << 16 | int.from_bytes(stream.take(2), "little")
            states[i % lanes] = x
            symbols.append(symbol)
        assert stream.at == len(stream.data), "words after the last symbol"
        assert set(states) == {2**16}
        return symbols

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
