import os

import pytest
import torch
from by_hand import header_place, one
from state_dicts import assert_same, sparse_codebook
from torch import nn

from tersor.core.errors import ConfigError, FormatError
from tersor.store import load, load_into, open_, save, verify, words
from tersor.store.container import opened


class Tied(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.embed = nn.Embedding(6, width)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 6, bias=False)
        self.head.weight = self.embed.weight


def test_a_model_is_filled_and_returned(tmp_path):
    saved, model = Tied(), Tied()
    save(saved, tmp_path / "a.terse")
    assert load(tmp_path / "a.terse", into=model) is model
    assert_same(model.state_dict(), saved.state_dict())
    assert model.head.weight is model.embed.weight


def test_the_versions_of_the_modules_reach_load_state_dict(tmp_path):
    seen = []

    class Versioned(nn.Linear):
        _version = 7

        def _load_from_state_dict(self, state, prefix, local_metadata, *rest):
            seen.append(local_metadata.get("version"))
            super()._load_from_state_dict(state, prefix, local_metadata, *rest)

    model = Versioned(2, 2)
    save(model, tmp_path / "a.terse")
    load(tmp_path / "a.terse", into=model)
    assert seen == [7]


class Other(Tied):
    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("saved", "model", "match"),
    [
        (
            Tied(),
            Tied(5),
            r"a\.terse: 'embed\.weight' is float32 \[6, 4\], but float32 \[6, 5\] in",
        ),
        (Tied(), Tied().double(), r"'embed\.weight' is float32 .*, but float64"),
        (Tied(), Other(), r"has no tensor 'extra\.weight', which Other needs"),
        (Other(), Tied(), r"'extra\.weight' has no place in Tied"),
    ],
)
def test_a_model_that_differs_is_refused_and_not_changed(saved, model, match, tmp_path):
    save(saved, tmp_path / "a.terse")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match=match):
        load(tmp_path / "a.terse", into=model)
    assert_same(model.state_dict(), before)
    with pytest.raises(ConfigError, match=match.replace(r"a\.terse", "state dict")):
        load_into(model, saved.state_dict())
    assert_same(model.state_dict(), before)


def damage_the_last_tensor(path):
    data = bytearray(path.read_bytes())
    data[header_place(data)[0] - 1] ^= 1
    path.write_bytes(data)


def test_a_damaged_tensor_leaves_the_model_as_it_was(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    path = tmp_path / "a.terse"
    save(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), path)
    damage_the_last_tensor(path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(FormatError, match=r"a\.terse, tensor '1\.bias': checksum .*Nothing was"):
        load(path, into=model)
    assert_same(model.state_dict(), before)


def test_a_model_that_differs_is_told_before_anything_is_decoded(tmp_path):
    path = tmp_path / "a.terse"
    save(nn.Linear(3, 3), path)
    damage_the_last_tensor(path)
    with pytest.raises(ConfigError, match=r"'weight' is float32 \[3, 3\]"):
        load(path, into=nn.Linear(4, 3))


def test_any_tensor_can_be_decoded_alone(tmp_path):
    state = {f"w{i}": sparse_codebook((20, 30), density=0.3, size=4, seed=i) for i in range(4)}
    save(state, tmp_path / "a.terse")
    with opened(tmp_path / "a.terse") as file:
        for entry in reversed(file.header.entries):
            assert torch.equal(file.tensor(entry), state[entry.name])


def test_loaded_tensors_are_writable_and_separate(tmp_path):
    save({"a": torch.randn(5), "b": torch.zeros(0), "c": torch.tensor(2)}, tmp_path / "a.terse")
    state = load(tmp_path / "a.terse")
    for tensor in state.values():
        tensor += 1
    assert load(tmp_path / "a.terse")["c"] == 2


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        load(tmp_path / "nothing.terse")


def test_a_tensor_larger_than_memory_is_not_begun(tmp_path, monkeypatch):
    path = tmp_path / "a.terse"
    path.write_bytes(one(bytes(4), version=1, shape=[2**58], codebook={"size": 1}))
    with pytest.raises(FormatError, match=r"tensors of \d+ bytes cannot be allocated"):
        load(path)
    with pytest.raises(FormatError, match=r"tensor 'w': \d+ bytes cannot be allocated"):
        verify(path)
    save({"a": torch.zeros(300), "b": torch.zeros(200)}, path)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": 5}.get(name, 250))
    with pytest.raises(FormatError, match=r"tensors of 2000 bytes .* the machine has 1250"):
        load(path)
    verify(path)  # holds one at a time
    monkeypatch.setattr(os, "sysconf", lambda name: 33)
    with pytest.raises(FormatError, match=r"'a': 1200 bytes cannot be allocated, .* has 1089"):
        verify(path)
    with open_(path) as file:
        assert file["b"].tolist() == [0] * 200


def large_state():
    """Tensors of several parts: whole rows, rows that are too long, and one beside them."""
    rows = torch.zeros(3, 2**21, dtype=torch.int8)
    rows[:, ::1000] = torch.arange(3, dtype=torch.int8).add(1)[:, None]
    pieces = torch.zeros(2, 2**22 + 3, dtype=torch.uint8)
    pieces[0, -1] = pieces[1, 5] = pieces[1, -1] = 7
    return {"rows": rows, "small": torch.arange(9.0), "pieces": pieces}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "a.terse"
    save(large_state(), path, metadata={"n": 1}, fast=True)
    return path


@pytest.mark.parametrize("threads", [1, 2])
def test_tensors_of_many_parts_come_back(threads, large):
    with opened(large) as file:
        assert [len(entry.parts) for entry in file.header.entries] == [2, 1, 3]
        grids = [(p.grid.rows, p.grid.columns) for p in file.header.entries[0].parts]
    assert grids == [(2, 2**21), (1, 2**21)]
    try:
        torch.set_num_threads(threads)
        assert_same(load(large), large_state())
        assert verify(large).summary["stored tensors"] == 3
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("threads", [1, 2])
def test_damage_to_any_part_is_found_in_any_number_of_threads(threads, large, tmp_path):
    data = bytearray(large.read_bytes())
    with opened(large) as file:
        (*_, pieces) = file.header.entries
        last = pieces.parts[-1].byte_length
    data[header_place(data)[0] - last] ^= 1
    path = tmp_path / "b.terse"
    path.write_bytes(data)
    try:
        torch.set_num_threads(threads)
        for read in (load, verify):
            with pytest.raises(FormatError, match=r"b\.terse, tensor 'pieces': checksum .*Nothing"):
                read(path)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("shape", [(200,), (13, 20), (3, 70), (130, 2), (5, 3, 7, 3), (2, 200)])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_small_parts_come_back_alone_and_in_threads(shape, size, tmp_path, monkeypatch):
    monkeypatch.setattr(words, "PART_WORDS", size)
    state = {
        "w": sparse_codebook(shape, density=0.3, size=4),
        "z": torch.randn(shape, dtype=torch.complex64),
    }
    base = {"z": state["z"] * 1.000001}
    path = tmp_path / "a.terse"
    save(state, path, base=base)
    try:
        torch.set_num_threads(2)
        assert_same(load(path, base=base), state)
    finally:
        torch.set_num_threads(1)
    with open_(path, base=base) as file:
        assert_same(file, state)


def test_an_open_file_decodes_one_tensor_alone(tmp_path):
    weight = torch.randn(40, 5)
    state = {"a": weight, "b": torch.zeros(7).half(), "tied": weight, "copy": weight.clone()}
    path = tmp_path / "a.terse"
    save(state, path, metadata={"task": "digits"})
    data = bytearray(path.read_bytes())
    data[16] ^= 1  # in the streams of a
    path.write_bytes(data)
    with open_(path) as file:
        assert file.metadata == {"task": "digits"}
        assert (len(file), list(file), "c" in file) == (4, ["a", "b", "tied", "copy"], False)
        assert {n: (file.shape(n), file.dtype(n)) for n in ("b", "copy")} == {
            "b": ((7,), torch.float16),
            "copy": ((40, 5), torch.float32),
        }
        assert file.ties == {"tied": "a"}
        assert torch.equal(file["b"], state["b"])
        for name in ("a", "tied", "copy"):
            with pytest.raises(FormatError, match=r"a\.terse, tensor 'a': checksum"):
                file[name]
        with pytest.raises(KeyError, match="'c'"):
            file["c"]


def test_tensors_of_an_open_file_are_made_anew(tmp_path):
    save({"a": torch.ones(3)}, tmp_path / "a.terse")
    with open_(tmp_path / "a.terse") as file:
        file["a"].zero_()
        assert file["a"].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="closed file"):
        file["a"]


def test_verify_says_what_it_has_checked(tmp_path):
    path = tmp_path / "a.terse"
    weight = torch.randn(50)
    base = {"b": torch.arange(300.0)}
    state = {"a": weight, "b": base["b"] + torch.rand(300) * 1e-3, "tied": weight}
    save(state, path, base=base)
    report = verify(path, base=base)
    assert "every tensor decodes" in report.title
    assert report.summary == {
        "file bytes": path.stat().st_size,
        "version": 2,
        "tensors": 3,
        "stored tensors": 2,
        "dense bytes": 4 * 350,
        "differences to the base": 1,
    }
    with pytest.raises(FormatError, match=r"a\.terse, tensor 'b': .* none is given"):
        verify(path)
