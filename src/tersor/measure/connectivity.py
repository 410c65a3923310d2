"""Is there a path without a hill between two networks: the error along the straight line.

E(alpha) = error(alpha * W1 + (1 - alpha) * W2)
barrier  = max over alpha of E(alpha) - (E(1) + E(0)) / 2,   alpha from 0 to 1, the ends included
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from tersor.core.errors import ConfigError
from tersor.core.seeding import rng_state, set_rng_state
from tersor.tasks import Batches

State = Mapping[str, Tensor]
"""The `state_dict()` of a model."""


@dataclass(frozen=True)
class Path:
    """The error along the line between two networks.

    Args:
        alphas: from 0, the second network, to 1, the first.
        errors: at each of them, in what unit the error function has.

    >>> Path((0.0, 0.5, 1.0), (1.0, 7.0, 2.0)).barrier
    5.5
    """

    alphas: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def barrier(self) -> float:
        """How far the error rises above the mean of the ends; at least half their difference."""
        return max(self.errors) - (self.errors[0] + self.errors[-1]) / 2


def interpolated(one: State, other: State, alpha: float) -> dict[str, Tensor]:
    """alpha * one + (1 - alpha) * other; exactly one of them at the ends, and where they agree.

    Running means and variances are interpolated like weights; counts (integers) are those of `one`.

    Raises:
        ConfigError: the states have other names or shapes.

    >>> interpolated({"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}, 0.25)["w"]
    tensor([2.5000])
    """
    if one.keys() != other.keys():
        odd = sorted(one.keys() ^ other.keys())[0]
        raise ConfigError(f"interpolated: only one of the two networks has {odd!r}")
    between = {}
    for name, tensor in one.items():
        if tensor.shape != other[name].shape:
            raise ConfigError(
                f"interpolated: {name!r} has shape {tuple(tensor.shape)} in one network, "
                f"{tuple(other[name].shape)} in the other"
            )
        if tensor.is_floating_point() or tensor.is_complex():
            between[name] = torch.lerp(other[name].detach(), tensor.detach(), alpha)
        else:
            between[name] = tensor.detach().clone()
    return between


def path_between(
    model: nn.Module,
    one: State,
    other: State,
    error: Callable[[nn.Module], float],
    *,
    points: int = 30,
    statistics: Batches | None = None,
) -> Path:
    """The error at the ends and at `points` equally spaced places between them.

    Args:
        model: of the networks' kind; used, and afterwards as it was.
        one, other: states of the two networks.
        error: a model to its error, for instance in per cent, or its loss.
        points: places strictly between the ends.
        statistics: training batches, from which the statistics of batch normalisation are taken
            anew at every place, the ends included; without them they are interpolated.

    Raises:
        ConfigError: the states do not fit each other, or `points` is below 1.

    Source: Frankle, Dziugaite, Roy and Carbin 2020, arXiv 1912.05671, section 2, with 30 points.
    Difference: the ends belong to the maximum, so no barrier is below half their difference.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> states = [{"weight": torch.tensor([[value]])} for value in (1.0, -1.0)]
    >>> path = path_between(model, *states, lambda m: 1 - abs(m.weight.item()), points=3)
    >>> path.errors, path.barrier
    ((0.0, 0.5, 1.0, 0.5, 0.0), 1.0)
    """
    if points < 1:
        raise ConfigError(f"path_between: points {points}; expected 1 or more")
    alphas = [place / (points + 1) for place in range(points + 2)]
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    errors = []
    try:
        for alpha in alphas:
            model.load_state_dict(interpolated(one, other, alpha))
            if statistics is not None:
                reestimate_(model, statistics)
            errors.append(float(error(model)))
    finally:
        model.load_state_dict(before)
    return Path(tuple(alphas), tuple(errors))


def reestimate_(model: nn.Module, batches: Batches) -> None:
    """Take the statistics of batch normalisation anew, as the means over these batches.

    Training flags and random generators are afterwards as they were. A model without batch
    normalisation is left alone.

    Source: `torch.optim.swa_utils.update_bn`, as for averaged weights: Izmailov et al. 2018,
    arXiv 1803.05407, section 3.2.
    """
    device = next((p.device for p in model.parameters()), None)
    flags = [(module, module.training) for module in model.modules()]
    state = rng_state()
    try:
        update_bn(batches, model, device=device)
    finally:
        for module, training in flags:
            module.training = training
        set_rng_state(state)


def instability(
    train: Callable[[int], State],
    model: nn.Module,
    error: Callable[[nn.Module], float],
    *,
    copies: int = 2,
    points: int = 30,
    statistics: Batches | None = None,
) -> list[Path]:
    """Train copies of one network with different noise, and look between every two of them.

    A network is stable to the noise of SGD if the barriers are small (below 2 points of error).

    Args:
        train: copy number i to the state at the end of its training: from W_k, the same for
            all, with an order of the data that i decides.
        model, error, points, statistics: as in `path_between`.
        copies: how many, 2 or more.

    Returns:
        The path of each pair, in the order (0, 1), (0, 2), (1, 2), ...

    Raises:
        ConfigError: there are fewer than two copies.

    Source: Frankle, Dziugaite, Roy and Carbin 2020, arXiv 1912.05671, algorithm 1; with three
    copies the paper takes the mean over the pairs.
    """
    if copies < 2:
        raise ConfigError(f"instability: copies {copies}; expected 2 or more")
    ends: Sequence[State] = [
        {name: tensor.detach().clone() for name, tensor in train(copy).items()}
        for copy in range(copies)
    ]
    pairs = [(i, j) for j in range(copies) for i in range(j)]
    return [
        path_between(model, ends[i], ends[j], error, points=points, statistics=statistics)
        for i, j in pairs
    ]
