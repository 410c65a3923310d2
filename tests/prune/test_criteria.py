"""What holds for the whole table; what each criterion computes is tested in `criteria/`."""

import inspect
import re

import pytest
import torch
from torch import nn

from tersor.core import prunable
from tersor.core.errors import ConfigError
from tersor.prune import CRITERIA, prune_
from tersor.prune.scoring import ScoringData


class Everything(nn.Module):
    """A weight of each kind."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
        self.words = nn.Embedding(5, 6)
        self.pair = nn.Bilinear(6, 6, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, images):
        hidden = self.up(torch.relu(self.norm(self.conv(images)))).mean(1)  # (N, 8, 8)
        hidden, _ = self.lstm(hidden)
        hidden = self.encoder(hidden).mean(1)
        words = self.words(torch.arange(len(images), device=images.device) % 5)
        return self.out(self.pair(hidden, words))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Everything()


DATA = ScoringData(
    [(torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3)]
)


LAYERS = {"conv.weight", "up.weight", "out.weight"} | {f"encoder.linear{i}.weight" for i in (1, 2)}
GATED = LAYERS | {"pair.weight"}
SCORED = {
    "batch_norm_scale": {"conv.weight"},
    **dict.fromkeys(("wanda", "layerwise_obs", "lookahead", "nisp"), LAYERS),
    **dict.fromkeys(("taylor_gate", "fisher_gate", "skeletonization"), GATED),
}


@pytest.mark.parametrize("name", CRITERIA)
def test_weights_of_every_kind_are_scored_or_named(name, model):
    scores = CRITERIA[name](model, DATA)
    scored = SCORED.get(name, {w.name for w in prunable(model)})
    for weight in prunable(model):
        if weight.name in scored:
            score = scores[weight.name]
            assert score.shape == weight.shape
            assert torch.isfinite(score).all()
        else:
            named = re.escape(f"criterion '{name}' cannot score '{weight.name}': ")
            with pytest.raises(ConfigError, match=rf"{named}.*ignore=\['{weight.name}'\]"):
                scores[weight.name]
    masks, _ = prune_(
        *(model, 0.5), criterion=name, allocation="uniform", data=DATA, select=sorted(scored)
    )
    assert masks.density == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name", CRITERIA)
def test_sixteen_bit_weights_have_scores_of_32_bits_that_do_not_vanish(name):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3), nn.BatchNorm1d(3)]
    model = nn.Sequential(*layers).bfloat16()
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    scores = CRITERIA[name](model, ScoringData([(inputs, torch.arange(8) % 3)]))
    for weight in prunable(model):
        found = scores[weight.name]
        assert found.dtype in (torch.float32, torch.float64) or name == "magnitude"
        assert torch.isfinite(found).all()
        assert found.any()


@pytest.mark.parametrize("name", CRITERIA)
def test_each_criterion_says_in_a_line_what_it_is_and_where_it_is_from(name):
    text = inspect.getdoc(CRITERIA[name])
    assert text.splitlines()[0].endswith((".", "w|."))
    assert "Source: " in text
    assert CRITERIA[name].__name__ == name
