"""Masks that are learned over weights that never change: by scores, by chance, by a threshold.

weight in use = weight * mask(scores),   gradients pass straight through the mask to the scores
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.report import Report
from tersor.core.seeding import generator
from tersor.core.weights import Selectors, Weight
from tersor.prune.allocation import kept_count
from tersor.prune.learned.layers import maskable, prepared
from tersor.prune.selection import highest
from tersor.prune.supermasks.straight_through import Frozen, mask_with, straight_through


def edge_popup_(
    model: nn.Module,
    density: float = 0.5,
    *,
    seed: int = 0,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Report:
    """Give every weight a score; of each layer the weights with the highest |score| are in use.

    Weights, and biases beside them, are frozen; the scores are trained like any parameter. Exactly
    `round(density * n)` weights of a layer are in use, ties by index. `signed_constant_` first
    gives the weights values that suit this. Then train, then `tersor.prune.learned.finalize_`.

    Args:
        density: the share of each layer's weights in use.
        seed: of the scores at the start, Kaiming uniform as a layer's weights in torch.
        select, ignore: which weights take part; of them those of Linear and Conv2d.

    Returns:
        A report: what has scores, and what was skipped.

    Raises:
        ConfigError: the density is out of range, or no weight can take part.

    Source: Ramanujan, Wortsman, Kembhavi, Farhadi and Rastegari 2020, arXiv 1911.13299, section
        3.2. The gradient goes to |score|, so a negative score gets it with its sign: so does the
        released code, while the paper's formula is that of positive scores. The count is rounded,
        as everywhere here, where the code rounds up.

    >>> layer = nn.Linear(3, 1, bias=False)
    >>> _ = nn.init.ones_(layer.weight)
    >>> _ = edge_popup_(layer, 1 / 3)
    >>> _ = layer.parametrizations.weight[0].scores.data.copy_(torch.tensor([[0.1, -0.3, 0.2]]))
    >>> layer(torch.tensor([[1.0, 10.0, 100.0]])).item()
    10.0
    """
    kept_count(0, density)
    weights, skipped = maskable(model, select=select, ignore=ignore)
    for weight in weights:
        scores = kaiming_scores(weight, seed, "edge popup")
        mask_with(weight, TopScores(scores, kept_count(scores.numel(), density), Frozen(weight)))
    return _report("Edge-popup", weights, skipped)


def stochastic_mask_(
    model: nn.Module,
    *,
    probability: float = 0.5,
    rescale: bool = False,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Report:
    """Give every weight a probability of being in use; a mask is drawn at each forward pass.

    In training mode a weight is in use with probability sigmoid(score), drawn from torch's global
    generator as a Dropout's masks are; in eval mode if that is above one half. Weights, and biases
    beside them, are frozen. Then train, then `tersor.prune.learned.finalize_`.

    Args:
        probability: of every weight at the start, between 0 and 1.
        rescale: multiply by weights / weights in use, so that a sparser mask is as strong.
        select, ignore: as in `edge_popup_`.

    Returns, Raises: as `edge_popup_`; also where the probability is not between 0 and 1.

    Source: Zhou, Lan, Liu and Yosinski 2019, arXiv 1905.01067, section 4.1 ("supermasks") and
        their dynamic weight rescaling. There a mask is drawn in the test, too, and results are
        means over draws; here eval mode and the final model are the likeliest mask.

    >>> layer = nn.Linear(1000, 1, bias=False)
    >>> _ = nn.init.ones_(layer.weight)
    >>> _ = stochastic_mask_(layer, probability=0.9)
    >>> torch.manual_seed(0) and layer(torch.ones(1, 1000)).item()
    888.0
    """
    if not 0 < probability < 1:
        raise ConfigError(f"probability: {probability}; expected between 0 and 1")
    weights, skipped = maskable(model, select=select, ignore=ignore)
    score = math.log(probability / (1 - probability))
    for weight in weights:
        scores = torch.full_like(weight.parameter, score)
        mask_with(weight, Bernoulli(scores, rescale, Frozen(weight)))
    return _report("Stochastic supermask", weights, skipped)


def piggyback_(
    model: nn.Module,
    *,
    initial: float = 1e-2,
    threshold: float = 5e-3,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Report:
    """Learn which weights of a trained network a further task uses; the network stays as it is.

    A weight is in use where its score is at least the threshold. Weights, and biases beside them,
    are frozen; ignore the new task's own last layer, which is then trained as usual. What the task
    costs is one bit a weight and that layer. Then train, then `tersor.prune.learned.finalize_`.

    Args:
        initial: of every score; above the threshold, so it begins with the network as it is.
        threshold: of a score, for its weight to be in use.
        select, ignore: as in `edge_popup_`.

    Returns, Raises: as `edge_popup_`; also where the scores begin below the threshold.

    Source: Mallya, Davis and Lazebnik 2018, arXiv 1801.06519, section 3 and its two constants.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> _ = piggyback_(net, ignore="2")
    >>> [name for name, p in net.named_parameters() if p.requires_grad]
    ['0.parametrizations.weight.0.scores', '2.weight', '2.bias']
    """
    if not initial >= threshold:
        raise ConfigError(
            f"initial {initial}: below the threshold {threshold}, no weight is in use"
        )
    weights, skipped = maskable(model, select=select, ignore=ignore)
    for weight in weights:
        scores = torch.full_like(weight.parameter, initial)
        mask_with(weight, Threshold(scores, threshold, Frozen(weight)))
    return _report("Piggyback", weights, skipped)


def kaiming_scores(weight: Weight, seed: int, *scope: str) -> Tensor:
    """Scores for one purpose, drawn as torch draws the weights of a layer."""
    drawn = torch.empty(weight.shape, dtype=weight.parameter.dtype)
    nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator(seed, *scope, weight.name))
    return drawn.to(weight.parameter.device)


class TopScores(nn.Module):
    """The mask of `edge_popup_`."""

    def __init__(self, scores: Tensor, count: int, frozen: Frozen) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.count, self.frozen = count, frozen

    def forward(self, weight: Tensor) -> Tensor:
        return weight * straight_through(self.kept(), self.scores.abs())

    def kept(self) -> Tensor:
        """True at the `count` highest |score|."""
        return highest(self.scores.detach().abs(), self.count)

    def thaw(self, layer: nn.Module, name: str) -> None:
        self.frozen.thaw(layer)


class Bernoulli(nn.Module):
    """The mask of `stochastic_mask_`."""

    def __init__(self, scores: Tensor, rescale: bool, frozen: Frozen) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.rescale, self.frozen = rescale, frozen

    def forward(self, weight: Tensor) -> Tensor:
        probabilities = self.scores.sigmoid()
        mask = torch.bernoulli(probabilities.detach()) if self.training else self.kept()
        used = weight * straight_through(mask, probabilities)
        return used * (mask.numel() / mask.sum().clamp_min(1)) if self.rescale else used

    def kept(self) -> Tensor:
        """True where a weight is in use with a probability above one half."""
        return self.scores.detach() > 0

    def thaw(self, layer: nn.Module, name: str) -> None:
        self.frozen.thaw(layer)


class Threshold(nn.Module):
    """The mask of `piggyback_`."""

    def __init__(self, scores: Tensor, threshold: float, frozen: Frozen) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.threshold, self.frozen = threshold, frozen

    def forward(self, weight: Tensor) -> Tensor:
        return weight * straight_through(self.kept(), self.scores)

    def kept(self) -> Tensor:
        """True where the score is at least the threshold."""
        return self.scores.detach() >= self.threshold

    def thaw(self, layer: nn.Module, name: str) -> None:
        self.frozen.thaw(layer)


def _report(title: str, weights: list[Weight], skipped: dict[str, str]) -> Report:
    rows = [(weight, weight.parameter.numel()) for weight in weights]
    return prepared(title, rows, skipped, column="scores")
