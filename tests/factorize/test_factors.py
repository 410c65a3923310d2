from __future__ import annotations

import torch
from torch import nn

from tersor.factorize import factorize_


def test_some_of_the_layers_are_a_plain_sequence():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64))
    factorize_(model, 4)
    x = torch.randn(2, 64)
    first, last = model[0][:1], model[0][1]
    assert type(first) is nn.Sequential
    assert torch.equal(last(first(x)), model(x))
