import numpy as np
import pytest
import torch
from by_hand import header_place
from state_dicts import sparse_codebook

from tersor.core.errors import FormatError
from tersor.store import inspect, inspection, save, words
from tersor.store.codecs import Dense
from tersor.store.streams import decode


@pytest.fixture
def state():
    weight = sparse_codebook((50, 60), density=0.1, size=6)
    return {
        "w": weight,
        "tied": weight,
        "same": weight.clone(),
        "bias": torch.tensor([0.5, 1.0, 2.5, -0.0]),
        "empty": torch.zeros(0, 2),
    }


def test_every_byte_of_the_file_is_accounted_for(state, tmp_path):
    path = tmp_path / "a.terse"
    save(state, path, metadata={"task": "digits"})
    found = inspect(path)
    assert found.file_bytes == path.stat().st_size
    assert found.header_bytes + sum(t.stored_bytes for t in found.tensors) == found.file_bytes
    assert found.metadata == {"task": "digits"}
    assert found.dense_bytes == 2 * state["w"].nbytes + 16
    assert found.version == 2


def test_each_tensor_is_told_as_it_is(state, tmp_path):
    path = tmp_path / "a.terse"
    save(state, path)
    weight, tied, same, bias, empty = inspect(path).tensors
    assert (weight.name, weight.dtype, weight.shape) == ("w", "float32", (50, 60))
    assert weight.density == torch.count_nonzero(state["w"]).item() / 3000
    assert weight.bits_per_weight == 8 * weight.stored_bytes / 3000
    assert "codebook 6 " in weight.codec
    assert 6 * 4 <= weight.table_bytes < weight.stored_bytes
    assert (tied.codec, same.codec) == ("tied to w", "same as w")
    assert (tied.stored_bytes, tied.density, tied.shape) == (0, weight.density, (50, 60))
    assert bias.density == 1.0  # -0.0 has a bit that is set
    assert (empty.density, empty.bits_per_weight) == (None, None)


def test_the_report_has_a_row_for_each_tensor(state, tmp_path):
    path = tmp_path / "a.terse"
    save(state, path, metadata={"task": "digits"})
    report = inspect(path).report()
    assert [row["name"] for row in report.rows] == list(state)
    assert report.summary["metadata task"] == "digits"
    assert report.summary["file bytes"] == path.stat().st_size
    assert "| w | float32 | 50x60 |" in report.to_markdown()


def test_only_dense_tensors_are_decoded(state, tmp_path, monkeypatch):
    path = tmp_path / "a.terse"
    save(state, path)
    seen = []

    def watching(codec, data, grid):
        seen.append(codec.positions)
        return decode(codec, data, grid)

    monkeypatch.setattr(inspection, "decode", watching)
    inspect(path)
    assert seen == [Dense()]  # of bias: w is sparse, and empty has nothing to be counted


def test_damage_to_a_dense_tensor_is_told(state, tmp_path):
    path = tmp_path / "a.terse"
    save(state, path)
    data = bytearray(path.read_bytes())
    data[header_place(data)[0] - 1] ^= 1  # in the streams of bias
    path.write_bytes(data)
    with pytest.raises(FormatError, match="tensor 'bias': checksum"):
        inspect(path)


def test_what_others_would_have_taken_is_never_less(tmp_path):
    path = tmp_path / "a.terse"
    weight = sparse_codebook((50, 60), density=0.1, size=6)
    coin = torch.tensor([0.5, 2.0] * 512)
    save({"w": weight, "coin": coin, "empty": torch.zeros(0)}, path)
    sparse, coins, empty = inspect(path, codecs=True).tensors
    assert set(sparse.others) == {"raw", "byte planes", "packed", "Huffman", "rANS", "by context"}
    for found in (sparse, coins):
        assert found.stored_bytes <= min(found.others.values()) + 4  # those of rANS are estimates
    assert coins.entropy_bits == 1.0
    assert coins.others["raw"] == coin.nbytes
    values, counts = np.unique(weight, return_counts=True)
    assert len(values) == 7
    assert sparse.entropy_bits == pytest.approx(-(counts / 3000 @ np.log2(counts / 3000)))
    assert (empty.entropy_bits, empty.others) == (None, {"raw": 0})
    rows = inspect(path, codecs=True).report().rows
    assert rows[0]["rANS bytes"] == sparse.others["rANS"]
    assert rows[2]["rANS bytes"] is None
    assert "entropy_bits" not in inspect(path).report().rows[0]


def test_tensors_in_parts_are_told_as_one(state, tmp_path, monkeypatch):
    path = tmp_path / "a.terse"
    save(state, path)
    whole = inspect(path, codecs=True).tensors[0]
    monkeypatch.setattr(words, "PART_WORDS", 300)
    save(state, path)
    parts = inspect(path, codecs=True).tensors[0]
    assert (parts.shape, parts.density) == (whole.shape, whole.density)
    assert parts.entropy_bits == whole.entropy_bits
    assert whole.stored_bytes < parts.stored_bytes  # every part has its own codebook
    assert parts.stored_bytes <= min(parts.others.values()) + 4 * 10
    assert " and " in parts.codec  # more than one kind


def test_every_part_is_counted_with_its_own_words(tmp_path, monkeypatch):
    monkeypatch.setattr(words, "PART_WORDS", 300)
    weight = torch.cat([torch.zeros(300), torch.arange(1, 601).float()])
    save({"w": weight}, tmp_path / "a.terse")
    others = inspect(tmp_path / "a.terse", codecs=True).tensors[0].others
    assert others["raw"] == 0 + 2400  # of zeros nothing is stored
    assert others["packed"] > 2400  # a codebook of so many words, and codes


def test_a_difference_is_told_as_one(state, tmp_path):
    path = tmp_path / "a.terse"
    base = {"w": state["w"].clone()}
    base["w"][3, 7:9] += 1
    save(state, path, base=base)
    weight, *_ = inspect(path).tensors
    assert weight.codec.startswith("difference to the base: ")
    assert weight.density == 2 / 3000  # of the words that differ
    found = inspect(path, codecs=True, base=base).tensors[0]
    assert found.entropy_bits is not None
    with pytest.raises(FormatError, match="none is given"):
        inspect(path, codecs=True)
