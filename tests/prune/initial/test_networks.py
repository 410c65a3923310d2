"""SNIP on convolutional, residual, recurrent and attention networks, through training."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.core.weights import prunable
from tersor.prune import CRITERIA, prune_
from tersor.prune.scoring import ScoringData


class Residual(nn.Module):
    """x + conv(relu(bn(conv(x)))), with a projection, as in a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(4)
        self.shortcut = nn.Conv2d(1, 4, 1, bias=False)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        y = self.norm2(self.second(F.relu(self.norm(self.first(x)))))
        return self.fc(F.relu(y + self.shortcut(x)).mean((2, 3)))


class Reader(nn.Module):
    """A recurrent network that reads an image row by row."""

    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.body = layer(6, 8, num_layers=2, batch_first=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.body(x.flatten(1, 2))[0][:, -1])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.body = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.body(self.embed(x.flatten(1, 2))).mean(1))


NETWORKS = {
    "conv": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 3)
    ),
    "resnet": Residual,
    "lstm": lambda: Reader(nn.LSTM),
    "gru": lambda: Reader(nn.GRU),
    "transformer": Attending,
}
KINDS = {
    "conv": {"conv", "linear"},
    "resnet": {"conv", "linear"},
    "lstm": {"recurrent", "linear"},
    "gru": {"recurrent", "linear"},
    "transformer": {"attention", "linear"},
}


def drawn(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]()


def batch(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 1, 6, 6, generator=generator, dtype=dtype), torch.arange(12) % 3


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("density", [0.5, 0.2])
def test_exactly_so_many_weights_stay_and_they_stay_zero_through_training(name, density):
    model = drawn(name)
    weights = prunable(model)
    assert {weight.kind for weight in weights} == KINDS[name]
    total = sum(weight.parameter.numel() for weight in weights)
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    masks, _ = prune_(model, density, criterion="snip", data=[batch()])
    assert masks.kept == round(density * total)
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())
    kept = {n: m.clone() for n, m in masks.items()}
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1)
    inputs, targets = batch()
    losses = []
    with masks.attach(model, optimizer):
        for _ in range(15):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            for weight in weights:
                assert not weight.parameter[~kept[weight.name]].count_nonzero()
    assert losses[-1] < losses[0]
    assert sum(int(w.parameter.count_nonzero()) for w in weights) == masks.kept


@pytest.mark.parametrize("name", NETWORKS)
def test_a_score_is_how_the_loss_changes_with_a_multiplier_of_the_weight(name):
    model = drawn(name).double().eval()
    inputs, targets = batch(torch.double)
    scores = CRITERIA["snip"](model, ScoringData([(inputs, targets)]))
    step = 1e-5
    for weight in prunable(model):
        flat = weight.parameter.detach().view(-1)
        index = int(scores[weight.name].argmax())
        values, old = [], flat[index].item()
        for sign in (1, -1):
            flat[index] = old * (1 + sign * step)
            with torch.no_grad():
                values.append(F.cross_entropy(model(inputs), targets).item())
        flat[index] = old
        expected = abs(values[0] - values[1]) / (2 * step)
        assert scores[weight.name].max().item() == pytest.approx(expected, rel=1e-5, abs=1e-10)


def test_scoring_in_train_mode_would_be_another_score_and_move_the_statistics():
    model = drawn("resnet").train()
    inputs, targets = batch()
    scores = CRITERIA["snip"](model, ScoringData([(inputs, targets)]))["first.weight"]
    assert model.training
    assert model.norm.num_batches_tracked == 0
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(inputs), targets), model.first.weight)
    assert model.norm.num_batches_tracked == 1
    assert not torch.allclose(scores, (gradient * model.first.weight.detach()).abs(), rtol=0.1)
