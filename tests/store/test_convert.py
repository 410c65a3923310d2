import collections
import pickle

import pytest
import safetensors
import safetensors.torch
import torch
from state_dicts import assert_same, sparse_codebook
from torch import nn

from tersor.core.errors import ConfigError, FormatError, StorageError
from tersor.store import inspect, load, metadata, pack, read_tensors, save, unpack


def network():
    return {
        "w": sparse_codebook((30, 20), density=0.2, size=7),
        "half": torch.randn(9).half(),
        "bf": torch.randn(3, 3).bfloat16(),
        "f8": torch.randn(8).to(torch.float8_e4m3fn),
        "steps": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
    }


def test_safetensors_there_and_back(tmp_path):
    source, middle, target = (tmp_path / n for n in ("a.safetensors", "b.terse", "c.safetensors"))
    said = {"format": "pt", "author": "me"}
    source.write_bytes(safetensors.torch.save(network(), said))
    report = pack(source, middle)
    assert not report.skipped
    assert report.summary["file bytes"] == middle.stat().st_size
    assert metadata(middle) == said
    unpack(middle, target)
    expected = {name: network_tensor for name, network_tensor in sorted(load(middle).items())}
    found = safetensors.torch.load_file(target)
    assert_same({n: found[n] for n in sorted(found)}, expected)
    assert set(expected) == set(network())
    with safetensors.safe_open(target, framework="pt") as file:
        assert file.metadata() == said


def test_metadata_that_is_no_text_becomes_json_in_safetensors(tmp_path):
    save({"a": torch.ones(1)}, tmp_path / "a.terse", metadata={"n": [1, 2], "s": "t"})
    unpack(tmp_path / "a.terse", tmp_path / "a.safetensors")
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"n": "[1, 2]", "s": "t"}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_torch_checkpoints_there_and_back(suffix, tmp_path):
    state = network()
    state["tied"] = state["w"]
    torch.save(state, tmp_path / f"a{suffix}")
    pack(tmp_path / f"a{suffix}", tmp_path / "b.terse")
    report = unpack(tmp_path / "b.terse", tmp_path / f"c{suffix}")
    back = torch.load(tmp_path / f"c{suffix}", weights_only=True)
    assert_same(back, state)
    assert back["tied"].data_ptr() == back["w"].data_ptr()
    assert not report.skipped
    assert [row["name"] for row in report.rows] == list(state)


def test_ties_become_separate_in_safetensors_and_are_named(tmp_path):
    weight = torch.randn(4)
    save({"a": weight, "b": weight}, tmp_path / "a.terse")
    report = unpack(tmp_path / "a.terse", tmp_path / "a.safetensors")
    assert "no ties: b." in report.notes[0]
    assert torch.equal(safetensors.torch.load_file(tmp_path / "a.safetensors")["b"], weight)


def test_metadata_has_no_place_in_a_torch_checkpoint(tmp_path):
    save({"a": torch.ones(1)}, tmp_path / "a.terse", metadata={"n": 1})
    report = unpack(tmp_path / "a.terse", tmp_path / "a.pt")
    assert report.skipped == {"metadata": "a torch checkpoint of tensors has no place for it"}


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_the_tensors_are_found_in_a_training_checkpoint(key, tmp_path):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    torch.save(
        {key: model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3},
        tmp_path / "a.pt",
    )
    report = pack(tmp_path / "a.pt", tmp_path / "a.terse")
    assert_same(load(tmp_path / "a.terse"), model.state_dict())
    assert report.skipped == {"optimizer": f"not in {key!r}", "epoch": f"not in {key!r}"}


def test_a_key_says_where_the_tensors_are(tmp_path):
    torch.save(
        {"ema": {"a": torch.ones(2), "n": 3}, "model": {"a": torch.zeros(2)}}, tmp_path / "a.pt"
    )
    report = pack(tmp_path / "a.pt", tmp_path / "a.terse", key="ema")
    assert load(tmp_path / "a.terse")["a"].tolist() == [1, 1]
    assert report.skipped == {"model": "not in 'ema'", "ema.n": "a int, not a tensor"}
    with pytest.raises(
        ConfigError, match=r"a\.pt: has no 'x'; it has: ema \(dict\), model \(dict\)"
    ):
        pack(tmp_path / "a.pt", tmp_path / "a.terse", key="x")


def test_what_is_no_tensor_is_listed(tmp_path):
    torch.save(
        {"a": torch.ones(2), "version": 3, "config": {"b": torch.ones(1)}}, tmp_path / "a.pt"
    )
    report = pack(tmp_path / "a.pt", tmp_path / "a.terse")
    assert report.skipped == {
        "version": "a int, not a tensor",
        "config": "a dict, not a tensor",
    }


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([torch.ones(1)], r"a\.pt: holds a list, expected a mapping"),
        (
            {"x": {"y": {"z": torch.ones(1)}}},
            r"a\.pt: no tensors; it has: x \(dict\)\. Say with key",
        ),
        ({"model": {"y": 3}}, r"a\.pt: no tensors in 'model'"),
        ({}, r"a\.pt: no tensors; it has: nothing"),
    ],
)
def test_a_checkpoint_without_tensors_is_refused(content, match, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=match):
        pack(tmp_path / "a.pt", tmp_path / "a.terse")
    assert not (tmp_path / "a.terse").exists()


class Bomb:
    def __reduce__(self):
        return (collections.OrderedDict.fromkeys, (["exploded"],))


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    torch.save({"a": torch.ones(1), "b": nn.Linear(2, 2)}, tmp_path / "a.pt")
    with pytest.raises(FormatError, match=r"a\.pt: more than tensors .* is never run"):
        pack(tmp_path / "a.pt", tmp_path / "a.terse")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(FormatError, match=r"b\.pt: "):
        pack(tmp_path / "b.pt", tmp_path / "a.terse")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_damaged_source_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x00garbage" * 9)
    with pytest.raises(FormatError, match=name):
        pack(tmp_path / name, tmp_path / "a.terse")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.terse"])
def test_a_missing_source_is_a_missing_file(name, tmp_path):
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / name)


def test_unknown_suffixes_are_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"a\.onnx: suffix '\.onnx', expected one of \.safetensors"
    ):
        pack(tmp_path / "a.onnx", tmp_path / "a.terse")
    save({}, tmp_path / "a.terse")
    with pytest.raises(ConfigError, match=r"a\.zip: suffix '\.zip'"):
        unpack(tmp_path / "a.terse", tmp_path / "a.zip")


def test_a_dtype_that_safetensors_lacks_is_refused(tmp_path):
    save({"a": torch.ones(2).view(torch.bits16)}, tmp_path / "a.terse")
    with pytest.raises(ConfigError, match=r"safetensors cannot hold .*bits16.* Unpack to \.pt"):
        unpack(tmp_path / "a.terse", tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def test_tensors_are_read_from_every_kind_of_file(tmp_path):
    state = {"a": torch.randn(3), "b": torch.ones(2, 2)}
    save(state, tmp_path / "a.terse")
    torch.save({"state_dict": state}, tmp_path / "a.pt")
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    for name in ("a.terse", "a.pt", "a.safetensors"):
        assert_same(read_tensors(tmp_path / name), state)


def test_a_missing_folder_of_the_target_is_named(tmp_path):
    save({"a": torch.ones(1)}, tmp_path / "a.terse")
    with pytest.raises(StorageError, match="nowhere"):
        unpack(tmp_path / "a.terse", tmp_path / "nowhere" / "a.pt")
    assert inspect(tmp_path / "a.terse").tensors[0].name == "a"
