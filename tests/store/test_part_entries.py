"""Tensors read as their entries are the tensors that are loaded, and cost less memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from by_hand import codec_of, file_of, header_place
from hypothesis import given, settings
from hypothesis import strategies as st
from state_dicts import (
    LARGE_SHAPES,
    SHAPES,
    assert_same,
    bits_of,
    sparse_codebook,
    state_dicts,
    tensors,
)

from tersor.core.errors import FormatError
from tersor.store import load, open_, save, words
from tersor.store.entries import Repeated
from tersor.store.words import from_words, grid, to_words

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")


def assert_part_is_plain(part, dtype):
    """Everything that the parts of any tensor promise about themselves."""
    entries = part.values if part.codes is None else part.codes
    if part.codes is None:
        assert part.codebook is None
    else:
        assert part.values is None
        size = len(part.codebook)
        assert part.codes.dtype == (torch.uint8 if size <= 256 else torch.uint16)
        assert np.all(np.diff(to_words(part.codebook).astype(object)) > 0)
    assert (entries if part.codes is None else part.codebook).dtype == dtype
    if part.positions is None:
        assert len(entries) == part.count
        return
    assert part.positions.dtype == torch.int64
    places = part.positions.numpy()
    assert len(entries) == len(places)
    assert np.all(np.diff(places) > 0)
    assert np.all((places >= 0) & (places < part.count))
    assert np.all(to_words(entries if part.codes is None else part.codebook) != 0)


def scattered(file, name):
    """The tensor that these entries are, put together word by word."""
    dtype, shape = file.dtype(name), file.shape(name)
    real = dtype.to_real() if dtype.is_complex else dtype
    lattice, end = grid(dtype, shape), 0
    dense = np.zeros(lattice.count, f"u{lattice.word_size}")
    for part in file.entries(name):
        assert part.begin == end
        end += part.count
        assert_part_is_plain(part, real)
        places = np.arange(part.count) if part.positions is None else part.positions.numpy()
        if part.codes is None:
            dense[part.begin + places] = to_words(part.values)
        else:
            dense[part.begin + places] = to_words(part.codebook)[part.codes.numpy()]
    assert end == lattice.count
    return from_words(dense, dtype, shape)


def assert_entries_are_what_is_loaded(path, base=None):
    expected = load(path, base=base)
    with open_(path, base=base) as file:
        assert_same({name: scattered(file, name) for name in file}, expected)


@settings(deadline=None, max_examples=100)
@given(state=state_dicts(LARGE_SHAPES | SHAPES), fast=st.booleans())
def test_scattered_entries_are_the_loaded_tensors(state, fast, tmp_path_factory):
    path = tmp_path_factory.mktemp("entries") / "a.terse"
    save(state, path, fast=fast)
    assert_entries_are_what_is_loaded(path)


@settings(deadline=None, max_examples=30)
@given(tensor=tensors(LARGE_SHAPES), size=st.sampled_from([30, 64, 500]))
def test_the_entries_of_parts_lie_one_after_the_other(tensor, size, tmp_path_factory):
    path = tmp_path_factory.mktemp("entries") / "a.terse"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "PART_WORDS", size)
        save({"w": tensor}, path, fast=True)
        assert_entries_are_what_is_loaded(path)
        with open_(path) as file:
            parts = grid(tensor.dtype, tuple(tensor.shape)).parts()
            assert [part.count for part in file.entries("w")] == [p.count for p in parts]


@settings(deadline=None, max_examples=60)
@given(tensor=tensors(LARGE_SHAPES), size=st.sampled_from([64, 1 << 22]))
def test_differences_to_a_base_are_scattered_to_what_is_loaded(tensor, size, tmp_path_factory):
    path = tmp_path_factory.mktemp("entries") / "a.terse"
    near = to_words(tensor).copy()
    near[::9] += 1
    base = {"w": from_words(near, tensor.dtype, tuple(tensor.shape))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "PART_WORDS", size)
        save({"w": tensor, "tied": tensor}, path, base=base, fast=True)
        assert_entries_are_what_is_loaded(path, base)


def test_a_difference_comes_as_values_at_every_place(tmp_path):
    base = {"w": torch.randn(40, 30, generator=torch.Generator().manual_seed(0))}
    tuned = base["w"] * 1.000001
    save({"w": tuned}, tmp_path / "a.terse", base=base)
    with open_(tmp_path / "a.terse", base=base) as file:
        (part,) = file.entries("w")
        assert (part.positions, part.codes, part.codebook) == (None, None, None)
        assert bits_of(part.values) == bits_of(tuned)
    with (
        open_(tmp_path / "a.terse") as file,
        pytest.raises(FormatError, match=r"a\.terse, tensor 'w': .* none is given"),
    ):
        next(file.entries("w"))


@pytest.mark.parametrize("size", [5, 256, 257])
@pytest.mark.parametrize(
    "positions",
    [
        "bitmask",
        "context map",
        "relative index 3 bits fixed",
        "relative index 3 bits fixed by column",
    ],
)
def test_entries_are_what_is_not_zero_by_row_and_its_codes(positions, size, tmp_path):
    weight = torch.zeros(60, 80)
    weight[:40, ::3] = (torch.arange(40 * 27).view(40, 27) % (size - 1)) + 1.0
    weight[59, 79] = -0.0  # after many fillers
    codec = codec_of(weight, f"{positions}, codebook {size} packed")
    file = file_of([("w", weight, codec)], [Repeated("tied", 0, True)])
    (tmp_path / "a.terse").write_bytes(file)
    flat = weight.view(-1)
    kept = np.flatnonzero(to_words(weight))
    with open_(tmp_path / "a.terse") as file:
        for name in ("w", "tied"):
            (part,) = file.entries(name)
            assert (part.begin, part.count) == (0, 4800)
            assert part.positions.tolist() == kept.tolist()
            assert 5 * 80 + 3 in part.positions
            assert part.codes.dtype == (torch.uint16 if size > 256 else torch.uint8)
            assert len(part.codebook) == size
            values = part.codebook[part.codes.int()]
            assert bits_of(values) == bits_of(flat[part.positions])


def test_a_complex_tensor_comes_as_two_real_ones_side_by_side(tmp_path):
    weight = torch.zeros(30, 40, dtype=torch.complex64)
    weight[::4, ::5] = 2 + 0j
    weight[3, 39] = 0 - 1j
    save({"w": weight}, tmp_path / "a.terse", fast=True)
    flat = torch.zeros(2400)
    with open_(tmp_path / "a.terse") as file:
        for part in file.entries("w"):
            flat[part.positions] = part.codebook[part.codes.int()]
    assert torch.equal(torch.view_as_complex(flat.view(30, 40, 2)), weight)


def test_entries_are_writable_and_made_anew(tmp_path):
    weight = sparse_codebook((60, 80), density=0.1, size=4)
    codec = codec_of(weight, "bitmask, codebook 4 packed")
    (tmp_path / "a.terse").write_bytes(file_of([("w", weight, codec)]))
    with open_(tmp_path / "a.terse") as file:
        (first,) = file.entries("w")
        before = [t.clone() for t in (first.positions, first.codes, first.codebook)]
        for tensor in (first.positions, first.codes, first.codebook):
            tensor.zero_()
        (again,) = file.entries("w")
        for old, new in zip(before, (again.positions, again.codes, again.codebook), strict=True):
            assert torch.equal(old, new)
        with pytest.raises(KeyError, match="'v'"):
            file.entries("v")
        late = file.entries("w")
    with pytest.raises(ValueError, match="closed file"):
        next(late)


def test_the_parts_before_a_damaged_one_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(words, "PART_WORDS", 1000)
    path = tmp_path / "a.terse"
    save({"w": sparse_codebook((50, 80), density=0.1, size=4)}, path)
    with open_(path) as file:
        whole = list(file.entries("w"))
    data = bytearray(path.read_bytes())
    data[header_place(data)[0] - 1] ^= 1  # the last stream
    path.write_bytes(data)
    with open_(path) as file:
        found = file.entries("w")
        for part in whole[:-1]:
            assert torch.equal(next(found).codes, part.codes)
        with pytest.raises(FormatError, match=r"a\.terse, tensor 'w': checksum .*, expected"):
            next(found)


MEASURED = """
import sys
from tersor.store import load, open_

def status(field):
    with open("/proc/self/status") as lines:
        return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])

before = status("VmRSS")
with open_(sys.argv[1]) as file:
    for name in file:
        for part in file.entries(name):
            del part
    one_by_one = status("VmHWM")
    parts = [part for name in file for part in file.entries(name)]
together = status("VmHWM")
del parts
load(sys.argv[1])
print(one_by_one - before, together - before, status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_thirty_million_weights_are_read_in_a_part_of_their_memory(tmp_path):
    # Of 17 words zero is one that has a code, of 5,000 it has none.
    few, many = (sparse_codebook((300, 5000), density=0.1, size=size) for size in (16, 5000))
    state = {"few": few.repeat(10, 1), "many": many.repeat(10, 1)}
    path = tmp_path / "a.terse"
    save(state, path, fast=True)
    with open_(path) as file:
        assert next(file.entries("few")).positions is None
        assert next(file.entries("many")).positions is not None
    dense = sum(tensor.nbytes for tensor in state.values())
    command = [sys.executable, "-c", MEASURED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    one_by_one, together, loaded = map(int, done.stdout.split())
    assert one_by_one < dense / 3
    assert together < dense / 2
    assert loaded > dense  # so much is seen where tensors are made
