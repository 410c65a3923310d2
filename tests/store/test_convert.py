import collections
import json
import pickle

import pytest
import safetensors
import safetensors.torch
import torch
from state_dicts import assert_same, sparse_codebook
from torch import nn

from tersor.core.errors import ConfigError, FormatError, StorageError
from tersor.store import convert, inspect, load, metadata, pack, read_tensors, save, unpack


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


@pytest.mark.parametrize("usual", [True, False])
def test_a_safetensors_file_comes_back_byte_for_byte(usual, tmp_path):
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    data = safetensors.torch.save(network(), {"format": "pt", "title": "ä\n"})
    if not usual:  # as other programs write it: other spaces, another order
        length = int.from_bytes(data[:8], "little")
        header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True).encode()
        data = len(header).to_bytes(8, "little") + header + data[8 + length :]
    source.write_bytes(data)
    pack(source, tmp_path / "x.terse")
    unpack(tmp_path / "x.terse", target)
    assert target.read_bytes() == data


@pytest.mark.parametrize("kind", ["mapping", "a.safetensors", "a.pt", "a.terse"])
def test_a_base_is_tensors_or_a_file_of_them(kind, tmp_path):
    torch.manual_seed(0)
    base = {"w": torch.randn(50, 40), "other": torch.ones(3)}
    state = {"w": base["w"] * 1.0001, "new": torch.randn(4)}
    safetensors.torch.save_file(base, tmp_path / "a.safetensors")
    torch.save(base, tmp_path / "a.pt")
    save(base, tmp_path / "a.terse")
    torch.save(state, tmp_path / "tuned.pt")
    under = base if kind == "mapping" else tmp_path / kind
    report = pack(tmp_path / "tuned.pt", tmp_path / "x.terse", base=under)
    assert "difference" in report.rows[0]["codec"]
    unpack(tmp_path / "x.terse", tmp_path / "back.pt", base=under)
    assert_same(torch.load(tmp_path / "back.pt", weights_only=True), state)
    with pytest.raises(FormatError, match=r"x\.terse.*base"):
        unpack(tmp_path / "x.terse", tmp_path / "back.pt")


@pytest.mark.parametrize("change", [{"w": torch.ones(2)}, {"more": torch.ones(1)}, {"w": None}])
def test_what_does_not_come_back_as_it_was_is_never_kept(change, tmp_path, monkeypatch):
    def wrong(state, path, **options):
        changed = {k: v for k, v in (dict(state) | change).items() if v is not None}
        return save(changed, path, **options)

    torch.save({"w": torch.tensor([1.0, -0.0])}, tmp_path / "a.pt")
    (tmp_path / "x.terse").write_bytes(b"old")
    monkeypatch.setattr(convert, "save", wrong)
    with pytest.raises(FormatError, match=r"a\.pt: .* not come back as"):
        pack(tmp_path / "a.pt", tmp_path / "x.terse")
    assert (tmp_path / "x.terse").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    assert not pack(tmp_path / "a.pt", tmp_path / "x.terse", verify=False).notes


def test_the_sign_of_zero_is_compared_too(tmp_path, monkeypatch):
    torch.save({"w": torch.tensor([1.0, -0.0])}, tmp_path / "a.pt")
    monkeypatch.setattr(
        convert, "save", lambda s, p, **o: save({"w": torch.tensor([1.0, 0.0])}, p, **o)
    )
    with pytest.raises(FormatError, match="'w' does not come back as it was"):
        pack(tmp_path / "a.pt", tmp_path / "x.terse")


def test_the_share_that_is_done_rises_to_the_end(tmp_path):
    torch.save({str(n): torch.randn(100, 100) for n in range(8)}, tmp_path / "a.pt")
    seen = []
    pack(tmp_path / "a.pt", tmp_path / "x.terse", watch=lambda *told: seen.append(told))
    assert [name for name, _ in seen] == [str(n) for n in range(8)] * 2
    assert [share for _, share in seen] == pytest.approx([n / 16 for n in range(16)], abs=0.01)
    seen.clear()
    unpack(tmp_path / "x.terse", tmp_path / "b.pt", watch=lambda *told: seen.append(told))
    assert seen == [(str(n), n / 8) for n in range(8)]


def test_a_key_is_refused_where_there_are_none(tmp_path):
    for name in ("a.safetensors", "."):
        with pytest.raises(ConfigError, match="key 'x', but only a torch checkpoint has keys"):
            pack(tmp_path / name, tmp_path / "x.terse", key="x")


def test_a_missing_base_is_a_missing_file(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    for name in ("no.pt", "no.terse", "no.safetensors"):
        with pytest.raises(FileNotFoundError, match=name):
            pack(tmp_path / "a.pt", tmp_path / "x.terse", base=tmp_path / name)


def test_a_terse_file_is_written_anew(tmp_path):
    weight = torch.randn(40)
    save({"a": weight, "b": weight, "c": weight.clone()}, tmp_path / "a.terse", metadata={"n": [1]})
    pack(tmp_path / "a.terse", tmp_path / "b.terse", base={"a": weight + 1e-6})
    state = load(tmp_path / "b.terse", base={"a": weight + 1e-6})
    assert_same(state, load(tmp_path / "a.terse"))
    assert state["a"] is state["b"]
    assert state["a"] is not state["c"]
    assert metadata(tmp_path / "b.terse") == {"n": [1]}


def test_a_dtype_that_torch_cannot_save_is_refused(tmp_path):
    save({"a": torch.ones(2).byte().view(torch.uint4)}, tmp_path / "a.terse")
    with pytest.raises(ConfigError, match=r"torch\.save cannot hold these .*uint4"):
        unpack(tmp_path / "a.terse", tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()
