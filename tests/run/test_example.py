"""What a model is called with while it is deployed, and how far apart two outputs are."""

import math

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.run.example import arguments, batch_of, call, checked_sizes, copy_of, difference


def test_one_tensor_is_one_argument():
    x = torch.zeros(2)
    assert arguments(x) == ((x,), {})
    assert arguments((x, 3)) == ((x, 3), {})
    assert arguments({"ids": x, "factor": 3}) == ((), {"ids": x, "factor": 3})


@pytest.mark.parametrize("example", [(), (3, None), {}, {"factor": 3}])
def test_an_example_without_a_tensor_is_refused(example):
    with pytest.raises(ConfigError, match="the example input has no tensor"):
        arguments(example)


def test_an_example_elsewhere_is_refused():
    with pytest.raises(ConfigError, match="the example input is on meta, expected the CPU"):
        arguments(torch.zeros(1, device="meta"))


def test_sizes_are_those_asked_for_each_once():
    x = torch.zeros(5, 2)
    assert checked_sizes(None, ((x,), {})) == (5,)
    assert checked_sizes(None, ((3, x), {})) == (5,)
    assert checked_sizes(None, ((torch.tensor(1.0),), {})) == (1,)
    assert checked_sizes([4, 1, 4], ((x,), {})) == (4, 1)
    assert checked_sizes(iter([2]), ((x,), {})) == (2,)


@pytest.mark.parametrize("sizes", [(), (0,), (4, -1)])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ConfigError, match=r"batch sizes \(.*\), expected numbers of 1 or more"):
        checked_sizes(sizes, ((torch.zeros(1),), {}))


@pytest.mark.parametrize("shape", [(), (0, 3)])
def test_an_empty_example_cannot_be_repeated(shape):
    with pytest.raises(ConfigError, match="the example input is empty"):
        checked_sizes((1,), ((), {"x": torch.zeros(shape)}))


def test_samples_are_cut_or_repeated_from_the_beginning():
    x, scalar = torch.arange(6).reshape(3, 2), torch.tensor(1.0)
    args, named = batch_of(((x, scalar, "text", None), {"x": x, "n": 3}), 2)
    assert torch.equal(args[0], x[:2])
    assert args[1:] == (scalar, "text", None)
    assert torch.equal(named["x"], x[:2])
    assert named["n"] == 3
    assert torch.equal(batch_of(((x,), {}), 7)[0][0], torch.cat([x, x, x[:1]]))
    assert batch_of(((x,), {}), 3)[0][0] is x


def test_a_model_that_does_not_take_the_example_says_which_shapes_it_had():
    model = nn.Sequential(nn.Linear(3, 2))
    message = r"the model does not take inputs of \(4, 5\)"
    with pytest.raises(ConfigError, match=message):
        call(model, ((torch.zeros(4, 5),), {}))
    with pytest.raises(ConfigError, match=r"does not take inputs of \(4, 3\), \(1,\)"):
        call(model, ((torch.zeros(4, 3),), {"mask": torch.zeros(1)}))


def test_a_copy_has_tensors_of_its_own_that_are_the_same_where_they_were():
    x = torch.ones(2)
    copied = copy_of(((x, x), {"mask": [x, 1]}))
    assert torch.equal(copied[0][0], x)
    assert copied[0][0] is copied[0][1] is copied[1]["mask"][0]
    assert copied[0][0].data_ptr() != x.data_ptr()
    assert copied[1]["mask"][1] == 1


def test_the_largest_difference_is_a_share_of_the_largest_value():
    want, got = torch.tensor([1.0, -4.0, 2.0]), torch.tensor([1.0, -4.0, 2.1])
    assert difference(want, got) == pytest.approx(0.025)
    assert difference((want, [want]), (want, [got])) == pytest.approx(0.025)
    assert difference({"a": want}, {"a": want}) == 0
    assert difference(torch.zeros(2), torch.zeros(2)) == 0
    assert difference(torch.zeros(0), torch.zeros(0)) == 0
    assert difference(torch.tensor([1]), torch.tensor([2])) == 0  # of whole numbers, none


def test_numbers_that_are_not_finite_must_stand_at_the_same_places():
    want = torch.tensor([1.0, torch.nan, torch.inf])
    assert difference(want, want.clone()) == 0
    assert difference(want, torch.tensor([1.0, torch.nan, 2.0])) == math.inf
    assert difference(torch.tensor([1.0]), torch.tensor([torch.nan])) == math.inf
    assert difference(torch.tensor([torch.nan]), torch.tensor([torch.nan])) == 0
