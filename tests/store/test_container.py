"""Damage: by accident, where checksums find it, and on purpose, where they are made to fit."""

import json
import zlib

import pytest
import torch
from by_hand import build, one, split
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from state_dicts import assert_same, sparse_codebook

from tersor.core.errors import FormatError
from tersor.store import inspect, load, save
from tersor.store.header import Stored, parse

QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def small_state():
    weight = sparse_codebook((9, 40), density=0.1, size=3)
    return {
        "relative": weight,
        "mask": sparse_codebook((40,), density=0.5, size=30),
        "dense": torch.arange(5.0),
        "book": torch.tensor([1, 2, 3, 1] * 30),
        "tied": weight,
        "copy": torch.arange(5.0),
        "none": torch.zeros(0, 3),
        "half": sparse_codebook((600,), density=0.03, size=40).half(),
    }


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "a.terse"
    save(small_state(), path, metadata={"task": "digits"})
    return path.read_bytes()


def header_end(data):
    return 16 + int.from_bytes(data[8:12], "little")


def test_the_small_state_reaches_every_kind_of_entry(good):
    entries = split(good)[0]["tensors"]
    keys = {key for entry in entries for key in entry}
    assert keys >= {"mask", "relative", "codebook", "tied", "copy", "crc"}


def test_truncated_at_every_byte(good, tmp_path):
    path = tmp_path / "cut.terse"
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(FormatError, match=r"cut\.terse: .*Nothing was loaded"):
            load(path)


def test_something_after_the_end(good, tmp_path):
    path = tmp_path / "long.terse"
    path.write_bytes(good + b"\0")
    with pytest.raises(FormatError, match="something follows its end"):
        load(path)


def test_every_bit_of_the_header_flipped(good, tmp_path):
    path = tmp_path / "flipped.terse"
    for bit in range(8 * header_end(good)):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(FormatError, match=r"flipped\.terse: .*Nothing was loaded"):
            load(path)


def test_every_byte_of_the_streams_damaged(good, tmp_path):
    path = tmp_path / "flipped.terse"
    for at in range(header_end(good), len(good)):
        data = bytearray(good)
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
        with pytest.raises(FormatError, match=r"flipped\.terse, tensor '\w+': checksum"):
            load(path)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "begins with '', not a .terse file"),
        (b"PK\3\4" + bytes(40), "begins with '50 4b 03 04 00 00 00 00', not a .terse file"),
        (build({"tensors": []}, version=2), r"version 2, but .* up to version 1\. Update tersor"),
        (build({"tensors": []}, version=0), "version 0 with flags 0x00 does not exist"),
        (build({"tensors": []}, flags=2), "version 1 with flags 0x02 does not exist"),
        (build(None, raw=b"[]"), r"header: \[\] is no object"),
        (build(None, raw=b"{"), "the header is not JSON"),
        (build(None, raw=b"\xff"), "the header is not JSON"),
        (build(None, raw=b"[" * 200_000), "the header is not JSON"),
        (build(None, raw=b'{"tensors":[],"tensors":[]}'), "a key comes twice"),
        (build(None, raw=b'{"tensors":[NaN]}'), "NaN is not JSON"),
        (build(None, raw=b"garbage", flags=1), "the header cannot be inflated"),
        (build(None, raw=zlib.compress(b"{}", wbits=-15)[:-1], flags=1), "cut short"),
        (build(None, raw=zlib.compress(b"{}", wbits=-15) + b"x", flags=1), "bytes after its end"),
        (
            build(None, raw=zlib.compress(bytes(2**26 + 1), wbits=-15), flags=1),
            "the header inflates to more than 67108864 bytes",
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
            "tensor 'w': 'order' is 1, expected one of",
        ),
        (
            one(relative={"bits": 2, "kept": 0, "fillers": 0, "convention": "G"}),
            "tensor 'w': 'convention' is 'G', expected one of",
        ),
        (
            one(relative={"bits": 2, "kept": 0, "fillers": 0, "huffman": None}),
            "tensor 'w': 'huffman' is None, expected a whole number",
        ),
        (one(codebook={"size": 5}), "tensor 'w': codebook size 5, expected 1 to 4"),
        (one(codebook={"size": 1, "huffman": -1}), "tensor 'w': 'huffman' is -1"),
        (one(shape=[2**60], codebook={"size": 2}), "the file is cut short"),
        (build({"tensors": [{"name": "w", "tied": 0}]}), "'tied' is 0, which is no stored tensor"),
        (build({"tensors": [{"name": "w", "tied": 0, "copy": 0}]}), "unknown key 'copy'"),
    ],
)
def test_each_lie_is_named(data, match, tmp_path):
    path = tmp_path / "lie.terse"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=match) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(FormatError, match=match):
        inspect(path)


def test_repeated_tensors_must_repeat_a_stored_one_before_them(good, tmp_path):
    path = tmp_path / "a.terse"
    header, streams = split(good)
    header["tensors"][5]["copy"] = 4
    path.write_bytes(build(header, streams))
    with pytest.raises(FormatError, match="tensor 'copy': 'copy' is 4, which is no stored tensor"):
        load(path)


def test_a_name_must_not_come_twice(good, tmp_path):
    path = tmp_path / "a.terse"
    header, streams = split(good)
    header["tensors"][4]["name"] = "relative"
    path.write_bytes(build(header, streams))
    with pytest.raises(FormatError, match="tensor 'relative': the name comes twice"):
        load(path)


def test_a_file_put_together_by_hand_is_read(good, tmp_path):
    path = tmp_path / "a.terse"
    path.write_bytes(build(*split(good)))
    assert_same(load(path), small_state())


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


def with_checksums(header, streams):
    """The file, each checksum made to fit to the lengths that the header now declares."""
    try:
        entries = parse(json.dumps(header).encode(), False).entries
    except FormatError:
        return build(header, streams)
    at = 0
    for entry, plain in zip(entries, header["tensors"], strict=True):
        if isinstance(entry, Stored):
            plain["crc"] = zlib.crc32(streams[at : at + entry.byte_length])
            at += entry.byte_length
    return build(header, streams.ljust(min(at, 10_000), b"\0")[: max(at, 0)])


@settings(QUIET, max_examples=400)
@given(data=st.data())
def test_hostile_numbers_with_fitting_checksums(good, tmp_path, data):
    header, streams = split(good)
    for _ in range(data.draw(st.integers(1, 2))):
        *way, last = data.draw(st.sampled_from(list(numbers_in(header))))
        target = header
        for key in way:
            target = target[key]
        edits = st.sampled_from([0, 1, 2, 7, 255, 256, 65536, 2**31, 2**62]) | st.integers(-2, 40)
        target[last] = data.draw(edits | st.just(target[last] + 1) | st.just(target[last] - 1))
    path = tmp_path / "hostile.terse"
    path.write_bytes(with_checksums(header, streams))
    assert_refused_or_as_declared(path, header)


@settings(QUIET, max_examples=400)
@given(data=st.data())
def test_hostile_streams_with_fitting_checksums(good, tmp_path, data):
    header, streams = split(good)
    damaged = bytearray(streams)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "hostile.terse"
    path.write_bytes(with_checksums(header, bytes(damaged)))
    assert_refused_or_as_declared(path, header)


def test_fitting_checksums_do_fit(good, tmp_path):
    header, streams = split(good)
    dense = next(e for e in header["tensors"] if e["name"] == "dense")
    at = streams.index(torch.arange(5.0).numpy().tobytes()[4:])
    path = tmp_path / "hostile.terse"
    path.write_bytes(with_checksums(header, streams[:at] + b"\1" + streams[at + 1 :]))
    assert dense["crc"] != split(good)[0]["tensors"][2]["crc"]
    assert not torch.equal(load(path)["dense"], torch.arange(5.0))


def test_the_files_size_is_what_the_system_says(good, tmp_path):
    path = tmp_path / "a.terse"
    path.write_bytes(good)
    found = inspect(path)
    assert found.file_bytes == path.stat().st_size == len(good)
