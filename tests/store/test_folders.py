"""Folders there and back: what `pack` takes of them and `unpack` makes of it."""

import copy
import json
import os
import pickle
from collections import OrderedDict

import hypothesis.strategies as st
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from state_dicts import assert_same, sparse_codebook, state_dicts
from torch import nn

from tersor.core.errors import ConfigError, FormatError, StorageError
from tersor.store import (
    inspect,
    layout,
    load,
    metadata,
    open_,
    pack,
    read_tensors,
    save,
    unpack,
)
from tersor.store.layout import FOLDER, layout_of, squeeze

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")


def files_of(folder):
    """Paths within a folder to their bytes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def write(folder, files):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def there_and_back(folder, tmp_path, **options):
    report = pack(folder, tmp_path / "x.terse", **options)
    base = {k: v for k, v in options.items() if k == "base"}
    unpack(tmp_path / "x.terse", tmp_path / "back", **base)
    return report, tmp_path / "back"


@pytest.fixture
def sharded(tmp_path):
    """A folder as Hugging Face has it: two shards, an index, and what belongs to them."""
    torch.manual_seed(0)
    folder = tmp_path / "model"
    shards = {
        "model-00001-of-00002.safetensors": {
            "embed.weight": torch.randn(40, 8).bfloat16(),
            "layer.0.weight": sparse_codebook((30, 20), density=0.2, size=7),
        },
        "model-00002-of-00002.safetensors": {
            "layer.1.weight": torch.randn(12, 5),
            "head.scale": torch.tensor(2.5),
            "empty": torch.zeros(0, 3),
        },
    }
    names = {name: shard for shard, state in shards.items() for name in state}
    index = {"metadata": {"total_size": 3}, "weight_map": names}
    write(
        folder,
        {shard: safetensors.torch.save(s, {"format": "pt"}) for shard, s in shards.items()}
        | {
            "model.safetensors.index.json": json.dumps(index, indent=2).encode(),
            "config.json": b'{"hidden_size": 8}\n' * 30,
            "tokenizer.json": json.dumps({str(n): n for n in range(3000)}).encode(),
            "spiece.model": os.urandom(900),
            "merges.txt": b"",
        },
    )
    return folder


def test_a_sharded_folder_comes_back_byte_for_byte(sharded, tmp_path):
    report, back = there_and_back(sharded, tmp_path)
    assert files_of(back) == files_of(sharded)
    assert not report.skipped
    assert report.notes == ["Lossless: every tensor has been read back and compared, bit for bit."]
    assert report.summary["source bytes"] == sum(map(len, files_of(sharded).values()))
    assert report.summary["file bytes"] == (tmp_path / "x.terse").stat().st_size


def test_the_weights_of_a_folder_are_a_state_dict(sharded, tmp_path):
    pack(sharded, tmp_path / "x.terse")
    state = read_tensors(tmp_path / "x.terse")
    assert_same(state, read_tensors(sharded))
    assert set(state) == {
        *("embed.weight", "layer.0.weight", "layer.1.weight", "head.scale", "empty"),
    }
    with open_(tmp_path / "x.terse") as reader:
        assert list(reader)[5:] == [
            *("file:config.json", "file:merges.txt", "file:model.safetensors.index.json"),
            *("file:spiece.model", "file:tokenizer.json"),
        ]


def test_text_is_deflated_and_noise_is_not(sharded, tmp_path):
    pack(sharded, tmp_path / "x.terse")
    kept = {file.path: file for file in layout_of(metadata(tmp_path / "x.terse")).files}
    assert kept["tokenizer.json"].deflated
    assert not kept["spiece.model"].deflated
    sizes = {name: t.numel() for name, t in load(tmp_path / "x.terse").items()}
    assert sizes["file:tokenizer.json"] < 0.5 * (sharded / "tokenizer.json").stat().st_size


def test_names_that_two_files_have_are_kept_apart(tmp_path):
    folder, a, b = tmp_path / "pipeline", torch.randn(3), torch.randn(4)
    write(
        folder,
        {
            "unet/model.safetensors": safetensors.torch.save({"w": a, "file:x.json": -a}),
            "vae/model.safetensors": safetensors.torch.save(
                {"w": b, "vae/model.safetensors:w": -b}
            ),
            "x.json": b"{}",
        },
    )
    _, back = there_and_back(folder, tmp_path)
    assert files_of(back) == files_of(folder)
    assert len(read_tensors(folder)) == 4
    assert {"w", "vae/model.safetensors:w"} < set(read_tensors(tmp_path / "x.terse"))


def test_a_torch_folder_comes_back_with_ties_versions_and_order(tmp_path):
    folder = tmp_path / "model"
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    other = {"z": torch.zeros(2), "a": torch.randn(3).half()}
    folder.mkdir()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    torch.save(other, folder / "adapter.pt", _use_new_zipfile_serialization=False)
    _, back = there_and_back(folder, tmp_path)
    state = torch.load(back / "pytorch_model.bin", weights_only=True)
    assert_same(state, model.state_dict())
    assert state["2.weight"].data_ptr() == state["0.weight"].data_ptr()
    assert state["2.bias"].data_ptr() != state["0.bias"].data_ptr()
    assert state._metadata == model.state_dict()._metadata
    assert isinstance(state, OrderedDict)
    assert_same(torch.load(back / "adapter.pt", weights_only=True), other)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("exploded",))


def test_checkpoints_that_are_more_than_tensors_are_kept_by_their_bytes(tmp_path):
    folder, model = tmp_path / "run", nn.Linear(4, 4)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(4)).sum().backward()
    optimizer.step()
    folder.mkdir()
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save({"model": model.state_dict()}, folder / "nested.pt")
    torch.save({"a": torch.ones(2), "n": 3}, folder / "mixed.pt")
    torch.save({"a": torch.ones(2).to_sparse()}, folder / "sparse.pt")
    torch.save({}, folder / "empty.pt")
    torch.save(Bomb(), folder / "training_args.bin")
    (folder / "scheduler.pt").write_bytes(pickle.dumps(Bomb()))
    (folder / "junk.bin").write_bytes(b"no checkpoint at all")
    header = b'{"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}'
    data = len(header).to_bytes(8, "little") + header + bytes(3)
    (folder / "six.safetensors").write_bytes(data)
    _, back = there_and_back(folder, tmp_path)
    assert files_of(back) == files_of(folder)
    assert not read_tensors(tmp_path / "x.terse")


@settings(max_examples=25)
@given(a=state_dicts(), b=state_dicts())
def test_any_tensors_come_back(a, b, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("any")
    folder = tmp_path / "model"
    folder.mkdir()
    takes = (torch.float32, torch.bfloat16, torch.complex64, torch.int64, torch.bool)
    a = {name: t for name, t in a.items() if t.dtype in takes}
    a |= {"number": torch.ones(2)}  # a checkpoint without tensors is kept by its bytes
    torch.save(a, folder / "a.pt")
    b = {n: t.resolve_conj().contiguous().clone() for n, t in b.items() if t.dtype in takes}
    safetensors.torch.save_file(b, folder / "b.safetensors")
    _, back = there_and_back(folder, tmp_path)
    found = torch.load(back / "a.pt", weights_only=True)
    assert_same(found, a)
    for one in a:
        for other in a:
            if a[one] is a[other] and a[one].numel():
                assert found[one].data_ptr() == found[other].data_ptr()
    assert (back / "b.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()


def test_what_is_left_out_is_listed(sharded, tmp_path):
    write(sharded, {".git/HEAD": b"x", ".cache/y": b"y", "deep/.git/z": b"z"})
    (sharded / "nothing" / "in it").mkdir(parents=True)
    target = sharded / "x.terse"
    for _ in range(2):  # also where it is there already
        report = pack(sharded, target)
        assert report.skipped == {
            ".git": "of version control",
            ".cache": "of a download",
            "nothing/in it": "an empty folder",
        } | ({"x.terse": "the target itself"} if _ else {})
    unpack(target, tmp_path / "back")
    assert (tmp_path / "back" / "deep" / ".git" / "z").read_bytes() == b"z"


def test_links_out_of_a_folder_are_refused(sharded, tmp_path):
    (tmp_path / "secret").write_bytes(b"key")
    (sharded / "key.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigError, match=r"key\.json: a link out of the folder, to .*secret"):
        pack(sharded, tmp_path / "x.terse")
    (sharded / "key.json").unlink()
    (sharded / "sub").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="sub: a link out of the folder"):
        pack(sharded, tmp_path / "x.terse")
    (sharded / "sub").unlink()
    (sharded / "real").mkdir()
    (sharded / "sub").symlink_to(sharded / "real")
    with pytest.raises(ConfigError, match="sub: no regular file"):
        pack(sharded, tmp_path / "x.terse")
    assert not (tmp_path / "x.terse").exists()


def test_pipes_are_refused_without_waiting_for_them(sharded, tmp_path):
    os.mkfifo(sharded / "pipe.json")
    with pytest.raises(ConfigError, match=r"pipe\.json: no regular file"):
        pack(sharded, tmp_path / "x.terse")


def test_links_within_a_folder_and_into_a_cache_are_followed(sharded, tmp_path):
    snapshot, blobs = tmp_path / "cache" / "snapshots" / "abc", tmp_path / "cache" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(sharded.iterdir())):
        (blobs / str(number)).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    (snapshot / "again.json").symlink_to("config.json")
    _, back = there_and_back(snapshot, tmp_path)
    assert files_of(back) == files_of(sharded) | {
        "again.json": (sharded / "config.json").read_bytes()
    }
    assert not any(path.is_symlink() for path in back.iterdir())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("missing", r"index\.json: names 'model-00002-of-00002\.safetensors', which is not there"),
        ("other", r"index\.json: 'nowhere' is not in 'model-00001-of-00002\.safetensors'"),
        ("cut", r"model-00001-of-00002\.safetensors: not a safetensors file, or damaged"),
        ("pointer", r"model-00001-of-00002\.safetensors: a pointer of Git LFS"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(change, match, sharded, tmp_path):
    first = sharded / "model-00001-of-00002.safetensors"
    if change == "missing":
        (sharded / "model-00002-of-00002.safetensors").unlink()
    elif change == "other":
        index = {"weight_map": {"nowhere": first.name}}
        (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    elif change == "cut":
        first.write_bytes(first.read_bytes()[:-1])
    else:
        first.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(FormatError, match=match):
        pack(sharded, tmp_path / "x.terse")
    assert not (tmp_path / "x.terse").exists()


@pytest.mark.parametrize("index", [b"[]", b"{", b'{"weight_map": 3}', b'{"other": {}}'])
def test_an_index_of_something_else_is_a_file_like_others(index, tmp_path):
    write(tmp_path / "m", {"a.index.json": index, "b.safetensors": safetensors.torch.save({})})
    _, back = there_and_back(tmp_path / "m", tmp_path)
    assert files_of(back) == files_of(tmp_path / "m")


def test_a_folder_without_files_is_refused(tmp_path):
    (tmp_path / "m").mkdir()
    with pytest.raises(ConfigError, match="m: a folder without files"):
        pack(tmp_path / "m", tmp_path / "x.terse")


def test_a_folder_is_never_written_over_another(sharded, tmp_path):
    pack(sharded, tmp_path / "x.terse")
    write(tmp_path / "there", {"mine.txt": b"mine"})
    with pytest.raises(StorageError, match="there: is a folder, expected a new or an empty one"):
        unpack(tmp_path / "x.terse", tmp_path / "there")
    assert files_of(tmp_path / "there") == {"mine.txt": b"mine"}
    (tmp_path / "empty").mkdir()
    unpack(tmp_path / "x.terse", tmp_path / "empty")
    assert files_of(tmp_path / "empty") == files_of(sharded)


def test_a_folder_is_unpacked_into_one_file_too(sharded, tmp_path):
    pack(sharded, tmp_path / "x.terse")
    for name in ("all.safetensors", "all.pt"):
        report = unpack(tmp_path / "x.terse", tmp_path / name)
        assert_same(
            dict(sorted(read_tensors(tmp_path / name).items())),
            dict(sorted(read_tensors(sharded).items())),
        )
        assert report.skipped.keys() == {
            *("config.json", "merges.txt", "model.safetensors.index.json"),
            *("spiece.model", "tokenizer.json"),
        }


def test_a_base_may_be_a_folder(sharded, tmp_path):
    tuned = tmp_path / "tuned"
    write(tuned, files_of(sharded))
    shard = tuned / "model-00002-of-00002.safetensors"
    state = safetensors.torch.load_file(shard)
    state["layer.1.weight"][0] *= 1.001
    safetensors.torch.save_file(state, shard, {"format": "pt"})
    alone = pack(tuned, tmp_path / "alone.terse").summary["file bytes"]
    report, back = there_and_back(tuned, tmp_path, base=sharded)
    assert files_of(back) == files_of(tuned)
    assert report.summary["file bytes"] < 0.8 * alone
    pack(sharded, tmp_path / "base.terse")
    unpack(tmp_path / "x.terse", tmp_path / "again", base=tmp_path / "base.terse")
    assert files_of(tmp_path / "again") == files_of(tuned)
    with pytest.raises(FormatError, match=r"x\.terse.*base"):
        unpack(tmp_path / "x.terse", tmp_path / "without")
    assert not (tmp_path / "without").exists()


def hostile(tmp_path, files, state):
    """A `.terse` file with this layout and these tensors."""
    save(state, tmp_path / "evil.terse", metadata={FOLDER: {"files": files}})
    return tmp_path / "evil.terse"


@pytest.mark.parametrize("path", ["../out", "/tmp/out", "a/../../out", "..\\out", "C:\\out", "a\0"])
def test_no_file_is_written_outside_of_the_target(path, tmp_path):
    files = [{"path": path, "bytes": 3}]
    evil = hostile(tmp_path, files, {"file": torch.ones(3, dtype=torch.uint8)})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FormatError, match=r"evil\.terse: .*is none within a folder.*Nothing was"):
        unpack(evil, tmp_path / "target")
    assert sorted(tmp_path.rglob("*")) == before


NOISE = torch.arange(9, dtype=torch.uint8)
DEFLATED = torch.tensor(list(b"\x4b\x4c\x04\x00"), dtype=torch.uint8)  # "aa", then an end
HEADER = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


@pytest.mark.parametrize(
    ("file", "tensor", "match"),
    [
        ({"path": "a", "bytes": 8}, NOISE, "'t' is no tensor of the 8 bytes of a file"),
        ({"path": "a", "bytes": 9}, NOISE.char(), "'t' is no tensor of the 9 bytes"),
        ({"path": "a", "bytes": 9}, NOISE.reshape(3, 3), "'t' is no tensor of the 9 bytes"),
        ({"path": "a", "bytes": 9, "deflated": True}, NOISE, "'t' (cannot be inflated|is cut)"),
        ({"path": "a", "bytes": 1, "deflated": True}, DEFLATED, "does not inflate to 1 bytes"),
        ({"path": "a", "bytes": 3, "deflated": True}, DEFLATED, "does not inflate to 3 bytes"),
        ({"path": "a", "bytes": 2, "deflated": True}, DEFLATED[:3], "'t' is cut short"),
        ({"path": "a.txt", "tensors": 1}, NOISE, r"'a\.txt' is no name of a file of tensors"),
        ({"path": "a.pt", "tensors": 2}, NOISE, "have 2 tensors, but there are 1"),
        ({"path": "a.pt", "tensors": 1, "prefix": "x"}, NOISE, "'t' of 'a.pt' lacks 'x'"),
        ({"path": "a.pt", "tensors": 1, "ties": [[0, 0]]}, NOISE, "'t' is tied to number 0"),
        ({"path": "a.pt", "tensors": 1, "ties": [[0, -1]]}, NOISE, "'t' is tied to number -1"),
        ({"path": "a.safetensors", "tensors": 1, "header": "x"}, NOISE, "header cannot be read"),
    ],
)
def test_a_layout_that_lies_is_refused(file, tensor, match, tmp_path):
    evil = hostile(tmp_path, [file], {"t": tensor})
    with pytest.raises(FormatError, match=match):
        unpack(evil, tmp_path / "target")
    assert list(tmp_path.iterdir()) == [evil]


def test_a_header_of_other_tensors_is_refused(tmp_path):
    file = {"path": "a.safetensors", "tensors": 1, "header": squeeze(HEADER)}
    for state in ({"a": torch.ones(3)}, {"b": torch.ones(2)}, {"a": torch.ones(2).int()}):
        evil = hostile(tmp_path, [file], state)
        with pytest.raises(FormatError, match="is not that of the tensors that are there"):
            unpack(evil, tmp_path / "target")
    unpack(hostile(tmp_path, [file], {"a": torch.ones(2)}), tmp_path / "target")
    assert read_tensors(tmp_path / "target")["a"].tolist() == [1, 1]


LAYOUT = [
    {"path": "a.safetensors", "tensors": 2, "metadata": {"format": "pt"}},
    {"path": "b/c.bin", "tensors": 2, "prefix": "p:", "ties": [[1, 0]], "versions": {"": {"v": 1}}},
    {"path": "d.txt", "bytes": 2, "deflated": True},
    {"path": "e.bin", "bytes": 9},
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
PATHS = st.sampled_from(["", "..", "../x", "/x", "a", "A.SAFETENSORS", "b", "b/c.bin", "e.bin/x"])


@settings(max_examples=150)
@given(data=st.data())
def test_whatever_a_layout_says_nothing_is_written_outside(data, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("evil")
    files = copy.deepcopy(LAYOUT)
    file = data.draw(st.sampled_from(files))
    file[data.draw(st.sampled_from(sorted(file)))] = data.draw(JSON | PATHS)
    state = {"x": torch.ones(2), "y": torch.ones(3).half(), "p:x": torch.ones(4)}
    state |= {"p:y": state["p:x"].clone(), "t": DEFLATED, "u": NOISE}
    evil = hostile(tmp_path, files, state)
    target = tmp_path / "room" / "target"
    target.parent.mkdir()
    try:
        unpack(evil, target)
    except (FormatError, ConfigError, StorageError):
        assert not list(target.parent.iterdir())
    assert sorted(tmp_path.iterdir()) == [evil, target.parent]
    assert set(target.parent.iterdir()) <= {target}


def test_names_that_a_file_system_takes_for_one_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "check_paths", lambda paths: None)  # as if they differed in case
    files = [{"path": "a", "bytes": 9}, {"path": "a", "bytes": 9}]
    evil = hostile(tmp_path, files, {"t": NOISE, "u": NOISE + 1})
    with pytest.raises(StorageError, match="a: another file of that name"):
        unpack(evil, tmp_path / "target")
    assert list(tmp_path.iterdir()) == [evil]


def test_an_interrupt_leaves_nothing_behind(sharded, tmp_path):
    def stop(name, share):
        if share > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(sharded, tmp_path / "x.terse", watch=stop)
    assert list(tmp_path.iterdir()) == [sharded]
    pack(sharded, tmp_path / "x.terse")
    with pytest.raises(KeyboardInterrupt):
        unpack(tmp_path / "x.terse", tmp_path / "back", watch=stop)
    assert set(tmp_path.iterdir()) == {sharded, tmp_path / "x.terse"}


def test_a_packed_folder_fills_a_model_and_is_inspected_without_its_layout(tmp_path):
    folder = tmp_path / "net"
    folder.mkdir()
    source = torch.nn.Linear(4, 3)
    safetensors.torch.save_file(source.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "none"}')
    pack(folder, tmp_path / "net.terse")
    model = load(tmp_path / "net.terse", into=torch.nn.Linear(4, 3))
    assert torch.equal(model.weight, source.weight)
    summary = inspect(tmp_path / "net.terse").report().summary
    assert summary["files of the folder"] == 2
    assert not any(key.startswith("metadata tersor.") for key in summary)
