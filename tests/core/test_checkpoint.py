import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from tersor.core.checkpoint import load_checkpoint, save_checkpoint
from tersor.core.errors import FormatError, StorageError


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "state"
    state = {
        "weight": torch.tensor([1.0, -0.0, float("nan")]),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "counters": (3, 0.25, None, True, "name"),
        "nested": OrderedDict(rows=[{"epoch": 1}], empty=torch.zeros(0, 2)),
    }
    save_checkpoint(path, state)
    return path


def test_a_state_comes_back_as_it_was(saved):
    state = load_checkpoint(saved)
    assert (
        state["weight"].view(torch.int32).tolist()
        == torch.tensor([1.0, -0.0, float("nan")]).view(torch.int32).tolist()
    )
    assert state["half"].dtype == torch.bfloat16
    assert state["counters"] == (3, 0.25, None, True, "name")
    assert state["nested"]["rows"] == [{"epoch": 1}]
    assert state["nested"]["empty"].shape == (0, 2)


def test_every_truncation_is_a_format_error(saved):
    whole = saved.read_bytes()
    for size in [*range(0, len(whole), 11), len(whole) - 1]:
        saved.write_bytes(whole[:size])
        with pytest.raises(FormatError, match="state: no checkpoint, or a damaged one"):
            load_checkpoint(saved)


def test_no_flipped_bit_changes_a_value_unnoticed(saved):
    whole, refused = saved.read_bytes(), 0
    expected = load_checkpoint(saved)
    for byte in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[byte] ^= 1 << (byte % 8)
        saved.write_bytes(damaged)
        try:
            state = load_checkpoint(saved)
        except FormatError as error:
            assert str(saved) in str(error)  # noqa: PT017 - those that load are looked at below
            refused += 1
        else:  # a bit of the padding
            assert str(state) == str(expected)
    assert refused > len(whole) // 30


def test_a_file_that_is_not_there_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere")


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_code_is_refused_and_not_run(tmp_path):
    for number, save in enumerate([torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))]):
        path = tmp_path / f"hostile{number}"
        save({"weight": Harm(tmp_path / "harm")}, path)
        with pytest.raises(FormatError, match=f"hostile{number}") as caught:
            load_checkpoint(path)
        assert "weights_only" not in str(caught.value)  # torch's advice to run it after all
    assert not (tmp_path / "harm").exists()


def test_a_file_of_something_else_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(FormatError, match=r"list: holds a list, expected a checkpoint"):
        load_checkpoint(tmp_path / "list")


def test_what_cannot_be_saved_leaves_the_old_file(saved, tmp_path):
    whole = saved.read_bytes()
    with pytest.raises(AttributeError, match="lambda"):
        save_checkpoint(saved, {"function": lambda: 0})
    assert saved.read_bytes() == whole
    with pytest.raises(StorageError, match="nowhere"):
        save_checkpoint(tmp_path / "nowhere" / "state", {})
