import pytest
import torch
from state_dicts import sparse_codebook

from tersor.core.errors import FormatError
from tersor.store import inspect, save


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
    assert found.version == 1


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


def test_only_dense_tensors_are_read(state, tmp_path):
    path = tmp_path / "a.terse"
    save(state, path)
    header = inspect(path).header_bytes
    data = bytearray(path.read_bytes())
    data[header] ^= 1  # in the streams of w, which is sparse
    path.write_bytes(data)
    assert inspect(path).tensors[0].density is not None
    data[-1] ^= 1  # in those of bias, which is dense
    path.write_bytes(data)
    with pytest.raises(FormatError, match="tensor 'bias': checksum"):
        inspect(path)
