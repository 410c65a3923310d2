"""A small network for these tests, and the helpers beside them made importable."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 8))
    for layer in (model[0], model[2]):
        nn.init.normal_(layer.weight, std=0.3)
    return model
