import io
import json

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from state_dicts import assert_same, state_dicts

from tersor.core.errors import ConfigError, FormatError
from tersor.store import safetensors_files as files

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")

KNOWN = (
    *("uint64", "int64", "float64", "complex64", "float32", "uint32", "int32"),
    *("bfloat16", "float16", "uint16", "int16", "float8_e5m2fnuz", "float8_e4m3fnuz"),
    *("float8_e8m0fnu", "float8_e4m3fn", "float8_e5m2", "int8", "uint8", "bool"),
)


def kinds_of(state):
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}


def plain(state):
    """Those tensors that safetensors takes, each in memory of its own."""
    names = [n for n, t in state.items() if str(t.dtype)[6:] in KNOWN and n != "__metadata__"]
    return {n: state[n].resolve_conj().resolve_neg().contiguous().clone() for n in names}


def written(header, tensors):
    target = io.BytesIO()
    assert files.write(target, header, tensors) == len(target.getvalue())
    return target.getvalue()


@given(state=state_dicts(), metadata=st.dictionaries(st.text(), st.text(), max_size=1))
def test_a_file_is_the_one_that_the_library_writes(state, metadata):
    state = plain(state)
    expected = safetensors.torch.save(state, metadata or None)
    header = files.canonical_header(kinds_of(state), metadata)
    places, said = files.parse_header(header)
    assert said == (metadata or None)
    found = written(header, (state[place.name] for place in places))
    assert found == expected
    assert len(found) == 8 + len(header) + files.data_bytes(places)


def test_every_dtype_is_laid_out_as_the_library_does_it():
    state = {name: torch.zeros(3, dtype=getattr(torch, name)) for name in KNOWN}
    four = torch.zeros(2, 3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    state |= {"four": four, "a": torch.ones(2), "scalar": torch.tensor(1.5)}
    header = files.canonical_header(kinds_of(state), {})
    places, _ = files.parse_header(header)
    assert {place.name: (place.dtype, place.shape) for place in places} == kinds_of(state)
    tensors = (state[place.name] for place in places)
    assert written(header, tensors) == safetensors.torch.save(state)


def test_a_tensor_is_read_alone(tmp_path):
    path = tmp_path / "a.safetensors"
    state = {"a": torch.randn(4, 5), "b": torch.randn(3, dtype=torch.complex64), "c": torch.ones(0)}
    path.write_bytes(safetensors.torch.save(state))
    header = files.read_header(path)
    places, _ = files.parse_header(header)
    found = {p.name: files.InFile(path, p, 8 + len(header))() for p in places}
    assert_same(dict(sorted(found.items())), state)
    path.write_bytes(path.read_bytes()[:-5])
    cut = files.InFile(path, next(p for p in places if p.name == "a"), 8 + len(header))
    with pytest.raises(FormatError, match=r"a\.safetensors: ends before tensor 'a'"):
        cut()


def test_a_large_tensor_is_read_and_written_in_the_same_pieces(tmp_path):
    path, tensor = tmp_path / "a.safetensors", torch.arange(2**21 + 3, dtype=torch.int16)
    safetensors.torch.save_file({"a": tensor}, path)
    header = files.read_header(path)
    lying = files.InFile(path, files.parse_header(header)[0][0], 8 + len(header))
    assert torch.equal(lying(), tensor)
    sizes = [len(octets) for octets in lying.octets()]
    assert sizes == [2**21, 2**21, 6]
    for a, b in zip(lying.octets(), files.octets_of(tensor), strict=True):
        assert np.array_equal(a, b)


GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no object"),
        (b'{"a":1,"a":2}', "a key comes twice"),
        ({"__metadata__": {"a": 1}}, "no object of texts"),
        ({"a": 3}, "'a': expected dtype, shape and data_offsets"),
        ({"a": GOOD["a"] | {"more": 1}}, "'a': expected dtype"),
        ({"a": GOOD["a"] | {"shape": [-2]}}, r"'a': \[-2\], expected whole numbers"),
        ({"a": GOOD["a"] | {"shape": [2.0]}}, r"'a': \[2\.0\], expected whole numbers"),
        ({"a": GOOD["a"] | {"shape": [True, 2]}}, r"'a': \[True, 2\], expected whole numbers"),
        ({"a": GOOD["a"] | {"shape": [2**62, 2]}}, "'a': shape .* overflows"),
        ({"a": GOOD["a"] | {"data_offsets": [0, 9]}}, r"'a': offsets \[0, 9\], .* 8 bytes"),
        ({"a": GOOD["a"] | {"data_offsets": [8, 16]}}, "'a' begins at byte 8, expected 0"),
        ({"a": GOOD["a"] | {"data_offsets": [0]}}, r"'a': offsets \[0\]"),
        (GOOD | {"b": GOOD["a"]}, "'b' begins at byte 0, expected 8"),
    ],
)
def test_a_header_that_lies_is_refused(header, match):
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    with pytest.raises(FormatError, match=match):
        files.parse_header(data)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"dtype": "F6_E2M3"}, "'a': dtype 'F6_E2M3' is none that this torch has"),
        ({"dtype": ["F32"]}, "'a': dtype"),
        ({"dtype": "F4", "shape": [3]}, "'a': F4 with an odd last side"),
    ],
)
def test_what_torch_cannot_hold_is_said(change, match):
    with pytest.raises(ConfigError, match=match):
        files.parse_header(json.dumps({"a": GOOD["a"] | change}).encode())


@pytest.mark.parametrize(
    ("kinds", "match"),
    [
        ({"a": (torch.complex128, (2,))}, r"cannot hold 'a' of torch\.complex128"),
        ({"__metadata__": (torch.float32, (2,))}, "cannot hold '__metadata__'"),
        ({"a": (torch.float4_e2m1fn_x2, ())}, "cannot hold 'a': no side"),
        ({"\ud800": (torch.float32, (2,))}, "cannot hold a name"),
    ],
)
def test_what_safetensors_cannot_hold_is_said(kinds, match):
    with pytest.raises(ConfigError, match=match):
        files.canonical_header(kinds, {})


@pytest.mark.parametrize("data", [b"", b"\x05", b"\xff" * 8, b"\x09" + bytes(7) + b"{}"])
def test_a_file_without_a_whole_header_is_refused(data, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(FormatError, match=r"a\.safetensors: not a safetensors file"):
        files.read_header(tmp_path / "a.safetensors")
