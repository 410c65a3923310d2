import torch
from torch import nn

from tersor.core.hooks import Attachment, unwrap


def test_before_sees_the_old_weights_and_after_the_new_ones():
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    model.weight.grad = torch.ones(1, 1)
    old, seen = model.weight.item(), []
    with Attachment(
        optimizer,
        before=lambda: seen.append(model.weight.item()),
        after=lambda: seen.append(model.weight.item()),
    ):
        optimizer.step()
    optimizer.step()
    assert seen == [old, old - 1.0]


def test_unwrap_finds_the_inner_optimizer_and_leaves_a_plain_one():
    inner = torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)

    class Wrapper(torch.optim.Optimizer):
        def __init__(self) -> None:
            self.optimizer = inner

    assert unwrap(inner) is inner
    assert unwrap(Wrapper()) is inner
