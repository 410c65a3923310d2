import json

import pytest
import safetensors.torch
import torch
from state_dicts import assert_same

from tersor.core.errors import ConfigError, FormatError
from tersor.store.layout import HEADER, unsqueeze
from tersor.store.sources import safetensors_source, torch_source


@pytest.fixture
def state():
    torch.manual_seed(0)
    return {"a": torch.randn(30, 4), "b": torch.arange(5), "c": torch.randn(7).bfloat16()}


def test_a_safetensors_file_is_read_tensor_by_tensor_in_the_order_of_its_data(state, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.torch.save(state, {"format": "pt"}))
    source = safetensors_source(path)
    assert_same(source, {name: state[name] for name in ("b", "a", "c")})
    assert source.on_demand
    assert source["a"] is not source["a"]
    assert source.metadata == {"format": "pt"}
    assert source.num_bytes == path.stat().st_size
    with pytest.raises(KeyError, match="nothing"):
        source["nothing"]


def test_a_header_that_the_library_would_not_write_is_metadata(state, tmp_path):
    path = tmp_path / "a.safetensors"
    data = safetensors.torch.save({"a": state["a"]}, {"format": "pt"})
    length = int.from_bytes(data[:8], "little")
    spaced = json.dumps(json.loads(data[8 : 8 + length]), indent=1).encode()
    path.write_bytes(len(spaced).to_bytes(8, "little") + spaced + data[8 + length :])
    source = safetensors_source(path)
    assert_same(source, {"a": state["a"]})
    assert source.metadata.keys() == {"format", HEADER}
    assert unsqueeze(source.metadata[HEADER]["deflated"]) == spaced


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_checkpoint_is_mapped_where_its_format_allows(zipped, state, tmp_path, monkeypatch):
    mapped, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: mapped.append(k["mmap"]) or load(*a, **k))
    path = tmp_path / "a.pt"
    state["tied"] = state["a"]
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    source = torch_source(path)
    assert_same(source, state)
    assert not source.on_demand
    assert source["tied"].data_ptr() == source["a"].data_ptr()
    assert source["a"] is source["a"]
    assert mapped == [zipped]


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_pointer_of_git_lfs_is_called_by_its_name(name, tmp_path):
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    read = safetensors_source if name.endswith("s") else torch_source
    with pytest.raises(FormatError, match=rf"{name}: a pointer of Git LFS"):
        read(path)


def test_a_dtype_that_torch_lacks_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    header = b'{"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(3))
    with pytest.raises(ConfigError, match=r"a\.safetensors: tensor 'a': dtype 'F6_E2M3'"):
        safetensors_source(path)


@pytest.mark.parametrize("cut", [1, 9, 200])
def test_a_file_that_is_cut_short_is_refused(cut, state, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.torch.save(state)[:-cut])
    with pytest.raises(FormatError, match=r"a\.safetensors: not a safetensors file, or damaged"):
        safetensors_source(path)
