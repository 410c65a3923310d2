"""The table of docs/support.md is what the code does: each criterion and pattern on each module."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.weights import prunable
from tersor.prune import CRITERIA, PATTERNS, ScoringData
from tersor.prune.patterns import pattern_of

PAGE = Path(__file__).parents[2] / "docs" / "support.md"


class _Outputs(nn.Module):
    """The outputs of a module that also gives its state, one row a sample."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        return self.inner(inputs)[0].flatten(1)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, inputs):
        return self.attention(inputs, inputs, inputs, need_weights=False)[0].flatten(1)


class _Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Bilinear(8, 8, 4)

    def forward(self, inputs):
        return self.inner(inputs, inputs)


def _convolution(kind, norm, sides):
    return nn.Sequential(kind(4, 8, 2), norm(8), nn.ReLU(), nn.Flatten()), (6, 4, *[3] * sides)


NETWORKS = {
    "Linear": lambda: (nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), (6, 8)),
    "Conv1d": lambda: _convolution(nn.Conv1d, nn.BatchNorm1d, 1),
    "Conv2d": lambda: _convolution(nn.Conv2d, nn.BatchNorm2d, 2),
    "Conv3d": lambda: _convolution(nn.Conv3d, nn.BatchNorm3d, 3),
    "ConvTranspose2d": lambda: (
        nn.Sequential(nn.ConvTranspose2d(4, 8, 2), nn.ReLU(), nn.Flatten()),
        (6, 4, 3, 3),
    ),
    "Embedding": lambda: (nn.Sequential(nn.Embedding(16, 8), nn.Flatten()), None),
    "LSTM": lambda: (_Outputs(nn.LSTM(8, 4, batch_first=True)), (6, 3, 8)),
    "GRU": lambda: (_Outputs(nn.GRU(8, 4, batch_first=True)), (6, 3, 8)),
    "MultiheadAttention": lambda: (_Attention(), (6, 3, 8)),
    "Bilinear": lambda: (_Bilinear(), (6, 8)),
}


def network(kind: str) -> tuple[nn.Module, ScoringData]:
    torch.manual_seed(0)
    model, shape = NETWORKS[kind]()
    inputs = torch.arange(12).view(6, 2) if shape is None else torch.randn(shape)
    return model, ScoringData([(inputs, torch.arange(6) % 4)])


def page() -> dict[str, dict[str, str]]:
    """Method to module to what the page says."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]
    found: dict[str, dict[str, str]] = {}
    modules: list[str] = []
    for row in rows:
        if row[0] in ("criterion", "pattern", "method"):
            modules = [] if row[0] == "method" else row[1:]
        elif modules and not row[0].startswith("---"):
            found[row[0]] = dict(zip(modules, row[1:], strict=True))
    return found


def test_the_page_names_every_criterion_and_every_pattern():
    assert set(page()) == {*CRITERIA, *PATTERNS, "2:4", "4x4"}
    assert all(set(row) == set(NETWORKS) for row in page().values())


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_scores_a_module_or_names_the_weight(name, kind):
    model, data = network(kind)
    if page()[name][kind] == "yes":
        scores = CRITERIA[name](model, data)
        for weight in prunable(model):
            assert scores[weight.name].shape == weight.shape
            assert torch.isfinite(scores[weight.name]).all()
    else:
        assert page()[name][kind] == "-"
        with pytest.raises(ConfigError, match=name):
            [s for s in CRITERIA[name](model, data).values()]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", [*PATTERNS, "2:4", "4x4"])
def test_a_pattern_fits_a_module_or_says_why_not(name, kind):
    units, skipped = pattern_of(name)(prunable(network(kind)[0]))
    assert bool(units) == (page()[name][kind] == "yes")
    assert bool(skipped) == (page()[name][kind] == "-")
