import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tersor.core.errors import ConfigError, DataError
from tersor.measure import file_bytes, size
from tersor.tasks import build_model


def one(tensor):
    return size({"w": tensor}).tensors[0]


def test_lenet_300_100_has_its_published_bytes():
    sizes = size(build_model("lenet-300-100"))
    assert sizes.parameters == 266_610
    assert sizes.dense_bytes == 1_066_440
    assert [t.values for t in sizes.tensors] == [235_200, 300, 30_000, 100, 1_000, 10]


@given(st.lists(st.sampled_from([0.0, -0.0, 1.5, -2.0, 1e-45, float("inf")]), max_size=20))
def test_counts_are_those_of_python(values):
    found = one(torch.tensor(values))
    assert found.nonzeros == sum(v != 0 for v in values)
    assert found.distinct == len(set(values))
    assert found.density == (found.nonzeros / len(values) if values else 1.0)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
        torch.int8, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
        torch.complex64,
    ],
)  # fmt: skip
def test_every_type_is_counted(dtype):
    found = one(torch.tensor([[0, 1], [2, 2], [1, 0]]).to(dtype))
    assert (found.shape, found.values, found.nonzeros, found.distinct) == ((3, 2), 6, 4, 3)
    assert found.num_bytes == 6 * dtype.itemsize
    assert one(torch.zeros(0, 3).to(dtype)).distinct == 0
    assert one(torch.tensor(1).to(dtype)).values == 1


def test_complex_values_differ_in_either_part():
    assert one(torch.tensor([1 + 1j, 1 - 1j, -1 + 1j, 1 + 1j])).distinct == 3


def test_smaller_floats_are_told_apart():
    halves = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16)
    finite = halves[halves.isfinite()]
    assert one(finite).distinct == len(np.unique(finite.numpy()))


def test_a_tied_tensor_counts_once_and_names_the_first():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    sizes = size(model)
    assert [t.tied_to for t in sizes.tensors] == [None, None, "0.weight", None]
    assert sizes.parameters == 9 + 3 + 3
    assert sizes.dense_bytes == 4 * (9 + 3 + 3)


def test_equal_copies_and_parts_of_one_storage_are_not_tied():
    whole = torch.ones(4)
    state = {"a": whole[:2], "b": whole[2:], "c": whole[:2].clone(), "e": whole[:0], "f": whole[:0]}
    sizes = size(state)
    assert [t.tied_to for t in sizes.tensors] == [None] * 5
    assert sizes.dense_bytes == 3 * 8


def test_buffers_take_bytes_but_are_no_parameters():
    sizes = size(nn.BatchNorm1d(5))  # weight, bias, two running statistics, one count
    assert sizes.parameters == 10
    assert sizes.density == 0.5
    assert sizes.dense_bytes == 4 * 20 + 8
    assert size(nn.BatchNorm1d(5).state_dict()).parameters == 21


def test_what_is_no_tensor_is_skipped_by_name():
    sizes = size({"w": torch.ones(2), "epoch": 3})
    assert sizes.skipped == {"epoch": "is a int, no tensor"}
    assert sizes.parameters == 2


def test_an_empty_state_dict_has_no_size():
    sizes = size({})
    assert (sizes.parameters, sizes.density, sizes.dense_bytes) == (0, 1.0, 0)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(2, device="meta"), "'w' is on the meta device"),
        (torch.eye(2).to_sparse(), "'w' is torch.sparse_coo"),
        (torch.ones(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "'w' is torch.float4"),
    ],
)
def test_a_tensor_without_plain_values_is_refused(tensor, message):
    with pytest.raises(ConfigError, match=message):
        one(tensor)


def test_file_bytes_are_those_written(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert file_bytes(tmp_path / "a") == 5
    for missing in (tmp_path / "b", tmp_path):
        with pytest.raises(DataError, match=f"{missing.name}: there is no such file"):
            file_bytes(missing)
