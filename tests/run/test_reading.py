"""Weights out of a file: entries of its parts, and names and shapes that do not fit."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tersor
from tersor.core.errors import ConfigError
from tersor.run.packing import entries_of
from tersor.run.reading import fill, stored_entries


@dataclass
class Part:
    begin: int
    count: int
    positions: Tensor | None = None
    codes: Tensor | None = None
    codebook: Tensor | None = None
    values: Tensor | None = None


class Parts:
    """A file that holds one tensor, "w", in parts."""

    def __init__(self, *parts):
        self.parts = parts

    def entries(self, name):
        if name != "w":
            raise KeyError(name)
        return iter(self.parts)


def read(*parts, shape=(2, 4), name="w"):
    return stored_entries(Parts(*parts), name, torch.Size(shape))


WANTED = torch.tensor([[0.0, 1.0, 2.0, 0.0], [0.0, 0.0, 1.0, -3.0]])


@pytest.mark.parametrize(
    "parts",
    [
        [Part(0, 8, values=WANTED.flatten())],
        [Part(0, 3, values=WANTED.flatten()[:3]), Part(3, 5, values=WANTED.flatten()[3:])],
        [Part(0, 8, torch.tensor([1, 2, 6, 7]), values=torch.tensor([1.0, 2, 1, -3]))],
        [
            Part(
                0,
                4,
                torch.tensor([1, 2]),
                torch.tensor([1, 0], dtype=torch.uint8),
                torch.tensor([2.0, 1.0]),
            ),
            Part(4, 4, torch.tensor([2, 3]), values=torch.tensor([1.0, -3.0])),
        ],
        [
            Part(
                0,
                8,
                None,
                torch.tensor([0, 1, 2, 0, 0, 0, 1, 3], dtype=torch.uint16),
                torch.tensor([0.0, 1.0, 2.0, -3.0]),
            )
        ],
        [
            Part(
                0,
                8,
                torch.tensor([0, 1, 2, 6, 7]),
                values=torch.tensor([-0.0, 1, 2, 1, -3]),
            )
        ],
    ],
)
def test_parts_of_every_kind_are_the_entries_of_the_matrix(parts):
    got, want = read(*parts), entries_of(WANTED)
    assert torch.equal(got.dense(), WANTED)
    assert np.array_equal(got.positions, want.positions)
    assert np.array_equal(got.codes, want.codes)
    assert np.array_equal(got.book, want.book)


def test_a_tensor_of_more_dimensions_is_rows_and_the_rest():
    got = read(Part(0, 8, values=WANTED.flatten()), shape=(2, 2, 2, 1))
    assert (got.rows, got.columns) == (2, 4)


def test_what_does_not_fit_is_refused_by_name():
    values = WANTED.flatten()
    with pytest.raises(ConfigError, match="the file has no tensor 'v'"):
        read(name="v")
    with pytest.raises(ConfigError, match="'w' has 6 values in the file, the model's has 8"):
        read(Part(0, 6, values=values[:6]))
    with pytest.raises(ConfigError, match=r"'w' is torch\.float64 in the file, not torch\.float32"):
        read(Part(0, 8, values=values.double()))
    with pytest.raises(ConfigError, match="'w' has neither values nor codes"):
        read(Part(0, 8, torch.tensor([1])))


def filled(tmp_path, saved, model, without=()):
    tersor.save(saved, tmp_path / "net.terse")
    with tersor.open_(tmp_path / "net.terse") as weights:
        fill(model, weights, set(without))
    return model


def net():
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(4, 5))


def test_parameters_and_buffers_are_read_into_memory_of_their_own(tmp_path):
    saved = net()
    with torch.device("meta"):
        model = net()
    got = filled(tmp_path, saved, model).state_dict()
    for name, tensor in saved.state_dict().items():
        assert torch.equal(got[name], tensor)
    assert not any(p.requires_grad for p in model.parameters())


def test_tensors_that_are_not_asked_for_are_left(tmp_path):
    with torch.device("meta"):
        model = net()
    model = filled(tmp_path, net(), model, ["0.weight"])
    assert model[0].weight.is_meta
    assert not model[0].bias.is_meta


def test_a_file_of_another_model_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"the file has no tensor '1\.weight'"):
        filled(tmp_path, nn.Sequential(nn.Conv2d(2, 3, 3)), net())
    with pytest.raises(ConfigError, match=r"'0\.weight' is \(3, 2, 1, 1\) in the file.*\(3, 2, 3"):
        filled(tmp_path, nn.Sequential(nn.Conv2d(2, 3, 1)), net())
