import pytest
import torch
from by_hand import one
from state_dicts import assert_same, sparse_codebook
from torch import nn

from tersor.core.errors import ConfigError, FormatError
from tersor.store import load, load_into, save
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


def test_a_damaged_tensor_leaves_the_model_as_it_was(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    path = tmp_path / "a.terse"
    save(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(FormatError, match=r"a\.terse, tensor '1\.bias': checksum .*Nothing was"):
        load(path, into=model)
    assert_same(model.state_dict(), before)


def test_a_model_that_differs_is_told_before_anything_is_decoded(tmp_path):
    path = tmp_path / "a.terse"
    save(nn.Linear(3, 3), path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
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


def test_a_tensor_larger_than_memory_is_not_begun(tmp_path):
    huge = one(bytes(4), shape=[2**20, 2**20, 2**18], codebook={"size": 1})
    (tmp_path / "a.terse").write_bytes(huge)
    with pytest.raises(FormatError, match=r"tensors of \d+ bytes cannot be allocated"):
        load(tmp_path / "a.terse")
