"""Makes the helpers beside these tests importable, and small networks with data, in float64."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from tersor.prune.scoring import ScoringData


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, every parameter from the normal distribution."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.double().parameters():
        parameter.detach().normal_(generator=draw)
    return model


@pytest.fixture
def net() -> nn.Module:
    return randomised(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))


@pytest.fixture
def data() -> ScoringData:
    """Two batches of different sizes, for classification into two classes."""
    draw = torch.Generator().manual_seed(1)
    return ScoringData(
        [(torch.randn(n, 3, generator=draw).double(), torch.arange(n) % 2) for n in (4, 2)]
    )


@pytest.fixture
def images() -> ScoringData:
    draw = torch.Generator().manual_seed(2)
    return ScoringData([(torch.randn(5, 2, 6, 6, generator=draw).double(), torch.arange(5) % 3)])
