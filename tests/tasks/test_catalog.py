import pytest
import torch

from tersor.core.errors import ConfigError
from tersor.tasks import load_task


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
