"""Damage: by accident, where checksums find it, and on purpose, where they are made to fit."""

import functools
import json
import os
import tempfile
import zlib
from pathlib import Path

import pytest
import torch
from by_hand import build, codec_of, deflate, file_of, header_place, one, split
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from state_dicts import assert_same, sparse_codebook

from tersor.core.errors import FormatError
from tersor.store import inspect, load, open_, save, verify, words
from tersor.store.entries import Repeated, Stored
from tersor.store.header import parse

QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def small_tensors():
    """Tensors with the codecs that they are given; the last ones version 1 does not have."""
    weight = sparse_codebook((9, 40), density=0.1, size=3)
    half = sparse_codebook((600,), density=0.03, size=40).half()
    column = sparse_codebook((20, 30), density=0.2, size=3, seed=2)
    picture = sparse_codebook((6, 24), density=0.2, size=5, seed=3)
    old = [
        ("relative", weight, codec_of(weight, "relative.*4 bits Huffman, codebook 3 Huffman")),
        ("mask", *_with(sparse_codebook((40,), density=0.5, size=30), "bitmask, raw")),
        ("dense", *_with(torch.arange(5.0), "dense, raw")),
        ("book", *_with(torch.tensor([1, 2, 3, 1] * 30), "dense, codebook 3 packed")),
        ("none", *_with(torch.zeros(0, 3), "dense, raw")),
        ("half", half, codec_of(half, "relative.*4 bits fixed, codebook.*packed")),
        ("column", column, codec_of(column, "relative.*3 bits fixed by column, raw")),
    ]
    new = [
        ("map", picture, codec_of(picture, "context map, codebook 5 by context", lag=6)),
        ("context", *_with(picture + 1, "dense, codebook 6 by context")),
        ("rans", *_with(weight + weight.flip(1), "relative.*4 bits rANS, codebook.*rANS")),
        ("planes", *_with(torch.linspace(1, 2, 190).bfloat16(), "dense, byte planes .*rANS.*")),
        (
            "bytes",
            *_with(
                torch.tensor(([0] + [1] * 9 + [2]) * 20).to(torch.int8), "bitmask, byte planes rANS"
            ),
        ),
    ]
    return old, new


def _with(tensor, pattern):
    return tensor, codec_of(tensor, pattern)


@functools.cache
def small_file(version):
    """A good file, and the state dict in it."""
    old, new = small_tensors()
    tensors = old if version == 1 else old + new
    state = {name: tensor for name, tensor, _ in tensors}
    state |= {"tied": state["relative"], "copy": state["dense"].clone()}
    repeated = [Repeated("tied", 0, tied=True), Repeated("copy", 2, tied=False)]
    data = file_of(tensors, repeated, {"task": "digits"})
    return (build(*split(data), version=1) if version == 1 else data), state


@functools.cache
def file_in_parts(size):
    """A good file of tensors in parts of so many words."""
    state = {
        "rows": sparse_codebook((9, 12), density=0.4, size=3),
        "pieces": sparse_codebook((2, 90), density=0.2, size=3),
    }
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(words, "PART_WORDS", size)
        path = Path(folder, "a.terse")
        save(state, path)
        return path.read_bytes()


@pytest.fixture(params=[1, 2])
def small(request):
    return small_file(request.param)


@pytest.fixture
def good(small):
    return small[0]


def rebuilt(good, header, streams):
    """The file with this header and these streams instead of its own."""
    return build(header, streams, version=good[6])


def test_the_small_state_reaches_every_kind_of_entry(small):
    data, _ = small
    entries = split(data)[0]["tensors"]
    keys = {key for entry in entries for key in entry}
    assert keys >= {"mask", "relative", "codebook", "tied", "copy", "crc"}
    if data[6] > 1:
        assert keys >= {"map", "planes"}
        assert any("context" in entry.get("codebook", {}) for entry in entries)
        assert any("rans" in entry.get("relative", {}) for entry in entries)


def test_truncated_at_every_byte(good, tmp_path):
    path = tmp_path / "cut.terse"
    path.write_bytes(good)
    for size in reversed(range(len(good))):
        os.truncate(path, size)
        with pytest.raises(FormatError, match=r"cut\.terse: .*Nothing was loaded"):
            load(path)


def test_something_after_the_end(good, tmp_path):
    path = tmp_path / "long.terse"
    path.write_bytes(good + b"\0")
    match = "something follows its end" if good[6] == 1 else "header checksum"
    with pytest.raises(FormatError, match=match):
        load(path)


def test_something_between_streams_and_header(good, tmp_path):
    path = tmp_path / "long.terse"
    path.write_bytes(
        rebuilt(good, *[part + b"\0" if i else part for i, part in enumerate(split(good))])
    )
    with pytest.raises(FormatError, match="something follows its end"):
        load(path)


def flip(path, at, bit):
    """Turn over one bit in place: to write a file anew takes a disk a hundred times as long."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def test_every_bit_of_the_header_flipped(good, tmp_path):
    path = tmp_path / "flipped.terse"
    path.write_bytes(good)
    begin, end = header_place(good)
    for at in (*range(16), *range(begin, end)):
        for bit in range(8):
            flip(path, at, bit)
            with pytest.raises(FormatError, match=r"flipped\.terse: .*Nothing was loaded"):
                load(path)
            flip(path, at, bit)
    assert path.read_bytes() == good


def test_every_byte_of_the_streams_damaged(good, tmp_path):
    path = tmp_path / "flipped.terse"
    path.write_bytes(good)
    begin, end = header_place(good)
    for at in (*range(16, begin), *range(end, len(good))):
        flip(path, at, at % 8)
        with pytest.raises(FormatError, match=r"flipped\.terse, tensor '\w+': checksum"):
            load(path)
        flip(path, at, at % 8)
    assert path.read_bytes() == good


def test_damage_anywhere_is_found_by_verify(good, tmp_path):
    path = tmp_path / "flipped.terse"
    path.write_bytes(good)
    for at in range(0, len(good), 7):
        flip(path, at, at % 8)
        with pytest.raises(FormatError, match=r"flipped\.terse"):
            verify(path)
        flip(path, at, at % 8)
    assert verify(path).summary["file bytes"] == len(good)


def old(data):
    """The same header and streams as a file of version 1."""
    begin, end = header_place(data)
    return build(None, data[16:begin], raw=data[begin:end], flags=data[7], version=1)


# In version 2; version 1 refuses all of them too.
LIES = [
    (build({"tensors": []}, flags=2), r"version [12] with flags 0x02 does not exist"),
    (build(None, raw=b"[]"), r"header: \[\] is no object"),
    (build(None, raw=b"{"), "the header is not JSON"),
    (build(None, raw=b"\xff"), "the header is not JSON"),
    (build(None, raw=b"[" * 200_000), "the header is not JSON"),
    (build(None, raw=b'{"tensors":[],"tensors":[]}'), "a key comes twice"),
    (build(None, raw=b'{"tensors":[NaN]}'), "NaN is not JSON"),
    (build(None, raw=b"garbage", flags=1), "the header cannot be inflated"),
    (build(None, raw=deflate(b"{}", version=1)[:-1], flags=1), "cut short"),
    (build(None, raw=deflate(b"{}", version=1) + b"x", flags=1), "bytes after its end"),
    (
        build(None, raw=deflate(bytes(2**26 + 1), version=1), flags=1),
        "the header inflates to more than 67108864 bytes",
    ),
    (
        build(None, raw=deflate(b'{"tensors":[' + b"[]," * 2**20, version=1), flags=1),
        "more than 1048576 lists and objects",
    ),
    (build({}), "header: 'tensors' is missing"),
    (build({"tensors": {}}), "'tensors' is no list"),
    (build({"tensors": [], "metadata": 1}), "'metadata' is no object"),
    (build({"tensors": [], "extra": 1}), "header: unknown key 'extra'"),
    (build({"tensors": [1]}), "tensor number 0: 1 is no object"),
    (one(bytes(16), name=3), "tensor number 0: 'name' is 3, expected a text"),
    (one(bytes(16), extra=1), "tensor 'w': unknown key 'extra'"),
    (one(bytes(16), dtype="float33"), "tensor 'w': dtype 'float33' is not known"),
    (one(bytes(16), dtype=["x"]), r"tensor 'w': dtype \['x'\] is not known"),
    (one(bytes(16), shape=4), "tensor 'w': 'shape' is no list"),
    (one(bytes(16), shape=[-4]), "tensor 'w': a side of the shape is -4"),
    (one(bytes(16), shape=[True]), "tensor 'w': a side of the shape is True"),
    (one(bytes(16), shape=[4.0]), "tensor 'w': a side of the shape is 4.0"),
    (one(bytes(16), shape=[2**63]), "tensor 'w': a side of the shape is 9223372036854775808"),
    (one(shape=[0, 2**62]), r"tensor 'w': shape \[0, 4611686018427387904\] overflows"),
    (one(shape=[2**62 + 1] * 50_000), r"tensor 'w': shape \[4611686.* overflows"),
    (one(bytes(16), crc=2**32), "tensor 'w': 'crc' is 4294967296, expected 32 bits"),
    (one(bytes(16), crc="0"), "tensor 'w': 'crc' is '0', expected a whole number"),
    (one(bytes(15)), r"\d+ bytes, expected \d+: the file is cut short"),
    (one(bytes(17)), r"\d+ bytes, expected \d+: something follows its end"),
    (one(b"\0", mask={"kept": 5}), "tensor 'w': kept 5, expected 0 to 4"),
    (one(b"\0", mask={"kept": 0, "x": 1}), "tensor 'w': mask: unknown key 'x'"),
    (one(b"\0", mask=0), "tensor 'w': mask: 0 is no object"),
    (one(mask={"kept": 0}, relative={}), "tensor 'w': both 'mask' and 'relative'"),
    (one(relative={"bits": 2, "kept": 0}), "tensor 'w': relative: 'fillers' is missing"),
    (
        one(relative={"bits": 2, "kept": 0, "fillers": 0, "order": 1}),
        "tensor 'w': relative: 'order' is 1, expected one of",
    ),
    (
        one(relative={"bits": 2, "kept": 0, "fillers": 0, "convention": "G"}),
        "tensor 'w': relative: 'convention' is 'G', expected one of",
    ),
    (
        one(relative={"bits": 2, "kept": 0, "fillers": 0, "huffman": None}),
        "tensor 'w': relative: 'huffman' is None, expected a whole number",
    ),
    (one(codebook={"size": 5}), "tensor 'w': codebook size 5, expected 1 to 4"),
    (one(codebook={"size": 1, "huffman": -1}), "tensor 'w': codebook: 'huffman' is -1"),
    (build({"tensors": [{"name": "w", "tied": 0}]}), "'tied' is 0, which is no stored tensor"),
    (build({"tensors": [{"name": "w", "tied": 0, "copy": 0}]}), "unknown key 'copy'"),
]
PLANES = {"lengths": [0, 0, 0, 0]}
LONG = 2**22 + 1  # words that need two parts
RAW_PART = {"codebook": {"size": 1}, "crc": 0x2144DF1C}  # of a word that is zero
LIES_OF_ONE_VERSION = [
    (b"", "begins with '', not a .terse file"),
    (b"PK\3\4" + bytes(40), "begins with '50 4b 03 04 00 00 00 00', not a .terse file"),
    (build({"tensors": []}, version=3), r"version 3, but .* up to version 2\. Update tersor"),
    (build({"tensors": []}, version=0), "version 0 with flags 0x00 does not exist"),
    (
        build(None, raw=deflate(b'{"tensors":[{"name":"fc1.bias"'), flags=1, version=1),
        "the header cannot be inflated",  # there is nothing before its beginning
    ),
    (one(version=1, shape=[2**60], codebook={"size": 2}), "the file is cut short"),
    (one(version=1, map={"kept": 0, "bytes": 0}), "tensor 'w': unknown key 'map'"),
    (one(bytes(16), version=1, planes=PLANES), "tensor 'w': unknown key 'planes'"),
    (one(bytes(16), version=1, base=0), "tensor 'w': unknown key 'base'"),
    (one(version=1, parts=[]), "tensor 'w': 'crc' is missing|unknown key 'parts'"),
    (
        one(version=1, relative={"bits": 2, "kept": 0, "fillers": 0, "rans": 0}),
        "tensor 'w': 'rans' in a file of version 1",
    ),
    (one(bytes(4), version=1, codebook={"size": 1, "rans": 0}), "'rans' in a file of version 1"),
    (one(bytes(4), version=1, codebook={"size": 1, "context": 0}), "in a file of version 1"),
    (one(bytes(4), version=1, codebook={"size": 1, "lag": 1}), "tensor 'w': .*lag"),
    (one(shape=[2**60], codebook={"size": 2}), "tensor 'w': not the 274877906944 parts"),
    (one(bytes(4), shape=[LONG], codebook={"size": 1}), "tensor 'w': not the 2 parts of its shape"),
    (one(bytes(4), shape=[LONG], parts=[RAW_PART]), "tensor 'w': not the 2 parts of its shape"),
    (one(bytes(12), shape=[LONG], parts=[RAW_PART] * 3), "tensor 'w': not the 2 parts"),
    (one(bytes(8), shape=[2], parts=[RAW_PART] * 2), "tensor 'w': 'parts', but .* only one"),
    (one(shape=[LONG], parts={}), "tensor 'w': not the 2 parts of its shape"),
    (one(shape=[LONG], parts=[RAW_PART], crc=0), "tensor 'w': unknown key 'crc'"),
    (one(shape=[LONG], parts=[RAW_PART], planes=PLANES), "tensor 'w': unknown key 'planes'"),
    (
        one(bytes(8), shape=[LONG], parts=[RAW_PART, RAW_PART | {"name": "v"}]),
        "tensor 'w': part 1: unknown key 'name'",
    ),
    (
        one(bytes(8), shape=[LONG], parts=[RAW_PART, RAW_PART | {"base": 1}]),
        "tensor 'w': part 1: unknown key 'base'",
    ),
    (one(shape=[LONG], parts=[RAW_PART, {}]), "tensor 'w': part 1: 'crc' is missing"),
    (one(shape=[LONG], parts=[RAW_PART, 7]), "tensor 'w': part 1: 7 is no object"),
    (one(bytes(16), base=2**32), "tensor 'w': 'base' is 4294967296, expected 32 bits"),
    (one(bytes(16), base=True), "tensor 'w': 'base' is True, expected a whole number"),
    (one(map={"kept": 0}), "tensor 'w': map: 'bytes' is missing"),
    (one(map={"kept": 0, "bytes": 0, "x": 1}), "tensor 'w': map: unknown key 'x'"),
    (one(map={"kept": 5, "bytes": 0}), "tensor 'w': kept 5, expected 0 to 4"),
    (one(map={"kept": 0, "bytes": 0, "lag": 2**31}), "lag 2147483648, expected 0 to 2147483647"),
    (one(map={"kept": 0, "bytes": 0, "lag": -1}), "tensor 'w': map: 'lag' is -1"),
    (one(map={"kept": 0, "bytes": 0}, mask={"kept": 0}), "tensor 'w': both 'mask' and 'map'"),
    (one(planes=PLANES, codebook={"size": 1}), "tensor 'w': both 'codebook' and 'planes'"),
    (one(planes={"lengths": 0}), "tensor 'w': planes: expected a list of lengths"),
    (one(planes=PLANES | {"rotate": False}), "'rotate' only as true"),
    (one(planes=PLANES | {"rotate": 1}), "'rotate' only as true"),
    (one(planes={"lengths": [0, 0, 0, -1]}), "tensor 'w': planes: a length is -1"),
    (one(bytes(12), planes={"lengths": [0] * 3}), "3 byte planes, but words have 4 bytes"),
    (one(bytes(4), codebook={"size": 1, "lag": 1}), "tensor 'w': lag 1, expected 0 to 0"),
    (
        one(bytes(4), codebook={"size": 1, "rans": 0, "context": 0}),
        "tensor 'w': both 'rans' and 'context'",
    ),
    (
        one(relative={"bits": 2, "kept": 0, "fillers": 0, "huffman": 0, "rans": 0}),
        "tensor 'w': both 'huffman' and 'rans'",
    ),
    (
        one(relative={"bits": 2, "kept": 1, "fillers": 0}, codebook={"size": 1, "context": 0}),
        "tensor 'w': codes by context with a relative index",
    ),
    (
        one(shape=[2000], codebook={"size": 1025, "rans": 0}),
        "tensor 'w': codebook size 1025, expected 1 to 1024",
    ),
    (
        one(shape=[2000], codebook={"size": 1025, "context": 0}),
        "tensor 'w': codebook size 1025, expected 1 to 1024",
    ),
]


@pytest.mark.parametrize(
    ("data", "match"),
    [*LIES, *((old(data), match) for data, match in LIES), *LIES_OF_ONE_VERSION],
)
def test_each_lie_is_named(data, match, tmp_path):
    path = tmp_path / "lie.terse"
    path.write_bytes(data)
    for read in (load, verify, inspect, _open):
        with pytest.raises(FormatError, match=match) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))


def _open(path):
    with open_(path):
        pass


def test_repeated_tensors_must_repeat_a_stored_one_before_them(good, tmp_path):
    path = tmp_path / "a.terse"
    header, streams = split(good)
    tied = next(i for i, entry in enumerate(header["tensors"]) if "tied" in entry)
    header["tensors"][-1]["copy"] = tied
    path.write_bytes(rebuilt(good, header, streams))
    match = f"tensor 'copy': 'copy' is {tied}, which is no stored tensor"
    with pytest.raises(FormatError, match=match):
        load(path)


def test_a_name_must_not_come_twice(good, tmp_path):
    path = tmp_path / "a.terse"
    header, streams = split(good)
    header["tensors"][4]["name"] = "relative"
    path.write_bytes(rebuilt(good, header, streams))
    with pytest.raises(FormatError, match="tensor 'relative': the name comes twice"):
        load(path)


def test_a_file_put_together_by_hand_is_read(small, tmp_path):
    good, state = small
    path = tmp_path / "a.terse"
    path.write_bytes(rebuilt(good, *split(good)))
    assert_same(load(path), state)
    assert verify(path).summary["version"] == good[6]


def test_a_header_is_shorter_for_the_text_that_it_may_refer_to(small, tmp_path):
    good, state = small
    path = tmp_path / "a.terse"
    header, streams = split(good)
    text = json.dumps(header).encode()
    deflated = deflate(text, version=good[6])
    path.write_bytes(build(None, streams, raw=deflated, flags=1, version=good[6]))
    assert_same(load(path), state)
    if good[6] > 1:
        assert len(deflated) < len(deflate(text, version=1)) - 50


def numbers_in(value, path=()):
    """Where the whole numbers of a JSON value stand."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        if isinstance(part, dict | list):
            yield from numbers_in(part, (*path, key))
        elif isinstance(part, int) and key != "crc":
            yield (*path, key)


def assert_refused_or_as_declared(path, header):
    """No crash, and no tensor of another kind than the header says."""
    try:
        state = load(path)
    except FormatError as error:
        assert "Nothing was loaded" in str(error)  # noqa: PT017 - both outcomes are right
        return
    for entry in header["tensors"]:
        if "shape" in entry:
            tensor = state[entry["name"]]
            assert list(tensor.shape) == entry["shape"]
            assert str(tensor.dtype) == f"torch.{entry['dtype']}"


def with_checksums(good, header, streams):
    """The file, each checksum made to fit to the lengths that the header now declares."""
    try:
        entries = parse(json.dumps(header).encode(), False, good[6]).entries
    except FormatError:
        return rebuilt(good, header, streams)
    at = 0
    for entry, plain in zip(entries, header["tensors"], strict=True):
        if isinstance(entry, Stored):
            for part, said in zip(entry.parts, plain.get("parts", [plain]), strict=True):
                said["crc"] = zlib.crc32(streams[at : at + part.byte_length])
                at += part.byte_length
    return rebuilt(good, header, streams.ljust(min(at, 10_000), b"\0")[: max(at, 0)])


@pytest.fixture(params=["version 1", "version 2", "in parts"])
def to_damage(request, monkeypatch):
    """A good file."""
    if request.param != "in parts":
        return small_file(int(request.param[-1]))[0]
    monkeypatch.setattr(words, "PART_WORDS", 40)
    return file_in_parts(40)


@settings(QUIET, max_examples=200)
@given(data=st.data())
def test_hostile_numbers_with_fitting_checksums(to_damage, tmp_path, data):
    header, streams = split(to_damage)
    for _ in range(data.draw(st.integers(1, 2))):
        *way, last = data.draw(st.sampled_from(list(numbers_in(header))))
        target = header
        for key in way:
            target = target[key]
        edits = st.sampled_from([0, 1, 2, 7, 255, 256, 65536, 2**31, 2**62]) | st.integers(-2, 40)
        target[last] = data.draw(edits | st.just(target[last] + 1) | st.just(target[last] - 1))
    path = tmp_path / "hostile.terse"
    path.write_bytes(with_checksums(to_damage, header, streams))
    assert_refused_or_as_declared(path, header)


@settings(QUIET, max_examples=200)
@given(data=st.data())
def test_hostile_streams_with_fitting_checksums(to_damage, tmp_path, data):
    header, streams = split(to_damage)
    damaged = bytearray(streams)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "hostile.terse"
    path.write_bytes(with_checksums(to_damage, header, bytes(damaged)))
    assert_refused_or_as_declared(path, header)


def test_fitting_checksums_do_fit(good, tmp_path):
    header, streams = split(good)
    dense = next(e for e in header["tensors"] if e["name"] == "dense")
    before = dense["crc"]
    at = streams.index(torch.arange(5.0).numpy().tobytes()[4:])
    path = tmp_path / "hostile.terse"
    path.write_bytes(with_checksums(good, header, streams[:at] + b"\1" + streams[at + 1 :]))
    assert dense["crc"] != before
    assert not torch.equal(load(path)["dense"], torch.arange(5.0))


def test_the_files_size_is_what_the_system_says(good, tmp_path):
    path = tmp_path / "a.terse"
    path.write_bytes(good)
    found = inspect(path)
    assert found.file_bytes == path.stat().st_size == len(good)
