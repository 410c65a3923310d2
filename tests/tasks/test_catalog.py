import pytest
import torch

from tersor.core.errors import ConfigError
from tersor.tasks import load_task, network_for


def test_an_unknown_task_gets_a_near_miss():
    with pytest.raises(ConfigError, match="unknown task 'mnits'; did you mean 'mnist'"):
        load_task("mnits")


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_a_batch_size_that_is_none_is_refused(batch_size):
    with pytest.raises(ConfigError, match=f"batch_size {batch_size}, expected a whole number"):
        load_task("digits", batch_size=batch_size)


def test_batch_size_is_that_of_training_and_changes_no_split():
    small, large = load_task("digits", batch_size=10), load_task("digits")
    assert len(next(iter(small.train))[0]) == 10
    assert len(next(iter(large.train))[0]) == 64
    assert torch.equal(small.test.dataset.inputs, large.test.dataset.inputs)


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        ("digits", "transformer-lm", "'transformer-lm': is none for images, as digits has; one of"),
        ("ptb", "lenet-5", "'lenet-5': is none for texts, as ptb has; one of: transformer-lm"),
        ("ptb", "transfomer-lm", "unknown model 'transfomer-lm'; did you mean 'transformer-lm'"),
    ],
)
def test_a_network_that_cannot_take_the_samples_of_a_task_is_refused(task, model, message):
    with pytest.raises(ConfigError, match=message):
        network_for(task, model)


def test_a_network_for_a_task_has_its_samples_and_classes():
    with torch.device("meta"):
        network = network_for("ptb", "transformer-lm")
    assert network(torch.zeros(2, 32, dtype=torch.long, device="meta")).shape == (2, 10_000, 32)
