import pytest
import torch

from tersor.core.threads import threads


def test_the_number_of_threads_is_put_back():
    before = torch.get_num_threads()
    with threads(before + 1) as used:
        assert used == before + 1 == torch.get_num_threads()
    with threads(None) as used:
        assert used == before
    with pytest.raises(KeyError), threads(before + 2):
        raise KeyError
    assert torch.get_num_threads() == before
