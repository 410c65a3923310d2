import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune import prune_
from tersor.prune.criteria import batch_norm_scale
from tersor.prune.scoring import ScoringData

IMAGES = ScoringData([(torch.ones(2, 3, 8, 8), torch.zeros(2))])


class Block(nn.Module):
    """A residual block with batch normalisation before its convolutions, and a shortcut."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)])
        self.convs = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(3, 4, 1)])
        self.shortcut = nn.Conv2d(3, 4, 1)

    def forward(self, inputs):
        # In another order than they are registered.
        hidden = self.norms[1](self.convs[1](self.norms[0](inputs)))
        return self.norms[2](self.convs[0](torch.relu(hidden)) + self.shortcut(inputs))


def test_the_norm_is_the_one_that_takes_the_layers_output():
    model = Block()
    model.norms[1].weight.detach().copy_(torch.tensor([-3.0, 1.0, 0.0, 2.0]))
    scores = batch_norm_scale(model, IMAGES)
    found = scores["convs.1.weight"]
    expected = torch.tensor([3.0, 1.0, 0.0, 2.0]).view(4, 1, 1, 1)
    assert torch.equal(found, expected.expand_as(found))
    for name in ("convs.0.weight", "shortcut.weight"):  # a sum comes between
        with pytest.raises(ConfigError, match=rf"'batch_norm_scale' cannot score '{name}': no"):
            scores[name]


def test_the_channels_with_the_smallest_scales_go():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    model[1].weight.detach().copy_(torch.tensor([0.1, -0.5, 0.01, 0.4]))
    masks, _ = prune_(
        *(model, 0.5), criterion="batch_norm_scale", pattern="row", data=IMAGES, ignore="3"
    )
    assert masks["0.weight"].flatten(1).all(1).tolist() == [False, True, False, True]
    with pytest.raises(ConfigError, match=r"ignore=\['3.weight'\]"):
        prune_(model, 0.5, criterion="batch_norm_scale", pattern="row", data=IMAGES)


@pytest.mark.parametrize("affine", [True, False])
def test_linear_and_transposed_layers_have_norms_too(affine):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=affine))
    scores = batch_norm_scale(model, ScoringData([(torch.ones(2, 3), torch.zeros(2))]))
    if affine:
        assert torch.equal(scores["0.weight"], torch.ones(4, 3))
    else:
        with pytest.raises(ConfigError, match="no batch normalisation with a scale takes"):
            scores["0.weight"]
    up = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6))
    up[1].weight.detach().copy_(torch.arange(6.0))
    found = batch_norm_scale(up, ScoringData([(torch.ones(1, 4, 2, 2), torch.zeros(1))]))
    assert found["0.weight"][2, :, 0, 0].tolist() == [3.0, 4.0, 5.0]


def test_without_data_nothing_shows_which_norm_it_is():
    with pytest.raises(ConfigError, match="criterion 'batch_norm_scale' looks at data"):
        batch_norm_scale(Block(), ScoringData())
