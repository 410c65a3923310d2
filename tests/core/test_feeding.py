import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.feeding import feed


class Seeing(nn.Module):
    """Keeps what it is called with."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, inputs, mask=None):
        self.seen.append((inputs, mask, self.training, torch.is_grad_enabled(), torch.rand(1)))


def test_batches_of_all_kinds_are_given_as_the_model_is_called():
    model, inputs, mask = Seeing(), torch.ones(2), torch.zeros(2)
    data = [inputs, (inputs, "targets"), [inputs, 1, 2], {"inputs": inputs, "mask": mask}]
    assert feed(model, data) == 4
    assert all(seen[0] is inputs for seen in model.seen)
    assert [seen[1] for seen in model.seen] == [None, None, None, mask]


def test_the_model_is_in_eval_mode_and_all_is_as_before():
    model = Seeing()
    state = torch.get_rng_state()
    feed(model, iter([torch.ones(1)] * 5), batches=3)
    assert [seen[2:4] for seen in model.seen] == [(False, False)] * 3
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_to_run_is_refused():
    with pytest.raises(ConfigError, match="no batches"):
        feed(Seeing(), [])
    with pytest.raises(ConfigError, match="batches: 0; expected 1 or more"):
        feed(Seeing(), [torch.ones(1)], batches=0)
