import random

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from tersor.core.errors import ConfigError
from tersor.tasks import Task, top1_mistakes

BATCHES = [(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0]))]


def test_mistakes_are_counted_per_sample():
    logits = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.2, 0.1], [0.0, 0.0, 1.0]])
    assert top1_mistakes(logits, torch.tensor([1, 1, 2])).tolist() == [0.0, 1.0, 0.0]


def test_mistakes_of_sequences_are_counted_per_token():
    logits = torch.tensor([[[3.0, 0.0], [1.0, 2.0]]])  # (N=1, C=2, length 2)
    assert top1_mistakes(logits, torch.tensor([[0, 0]])).tolist() == [[0.0, 1.0]]


def test_the_defaults_are_those_of_classification():
    task = Task("mine", BATCHES, BATCHES, BATCHES)
    assert task.loss is F.cross_entropy
    assert task.mistakes is top1_mistakes


def test_example_input_is_the_first_sample_of_validation():
    other = [(torch.zeros(3, 2), torch.zeros(3))]
    assert Task("mine", other, BATCHES, other).example_input.tolist() == [[0.0, 1.0]]


def test_example_input_moves_no_generator():
    own = torch.Generator().manual_seed(5)
    data = TensorDataset(torch.arange(50.0).reshape(50, 1), torch.zeros(50))
    shuffled = DataLoader(data, batch_size=4, shuffle=True)
    with_own = DataLoader(data, batch_size=4, shuffle=True, generator=own)
    for loader in (shuffled, with_own):
        task = Task("mine", loader, loader, loader)
        torch.manual_seed(0)
        random.seed(0)
        before = (torch.get_rng_state().tolist(), random.getstate(), own.get_state().tolist())
        assert task.example_input.shape == (1, 1)
        after = (torch.get_rng_state().tolist(), random.getstate(), own.get_state().tolist())
        assert after == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name is ''"),
        ({"train": iter(BATCHES)}, "'mine': train is a list_iterator, which is used up"),
        ({"test": 3}, "'mine': test is a int, expected a DataLoader"),
        ({"loss": "cross_entropy"}, "'mine': loss is 'cross_entropy', expected a function"),
        ({"mistakes": None}, "'mine': mistakes is None, expected a function"),
    ],
)
def test_a_wrong_argument_is_refused_when_the_task_is_made(change, message):
    arguments = {"name": "mine", "train": BATCHES, "validation": BATCHES, "test": BATCHES}
    with pytest.raises(ConfigError, match=message):
        Task(**(arguments | change))


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ([], "the validation set has no batches"),
        ([torch.zeros(2, 3)], "a batch of validation is a Tensor, expected a pair"),
        ([("text", 1)], "the inputs of validation are str"),
        ([(torch.zeros(0, 3), 1)], r"the inputs of validation are \(0, 3\)"),
    ],
)
def test_a_validation_set_without_a_sample_is_told(validation, message):
    with pytest.raises(ConfigError, match=message):
        _ = Task("mine", BATCHES, validation, BATCHES).example_input
