"""What it costs a network to quantize one of its weights so: from weights alone, or from a loss.

Each rule looks at one weight at a time; what two do together that they do not do alone, none sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersor.core.derivatives import Loss
from tersor.core.errors import ConfigError
from tersor.core.observing import observing
from tersor.core.weights import Weight
from tersor.quantize.curvature import (
    Batches,
    mean_curvatures,
    shares_of,
    spread_of,
    weight_eigenvalue,
)
from tersor.quantize.orientation import outputs_first
from tersor.quantize.quantizer import Quantizer, bits_of, label
from tersor.quantize.transform import quantized


@dataclass(frozen=True, eq=False)
class Trial:
    """A weight, its kept entries, and the quantizers that it may have."""

    weight: Weight
    kept: Tensor
    quantizers: Sequence[Quantizer]

    def widths(self) -> list[float]:
        """Bits of the code of an entry, of each of the quantizers."""
        shape = outputs_first(self.weight, self.weight.parameter.detach()).shape
        return [bits_of(quantizer, shape) for quantizer in self.quantizers]

    def results(self) -> Iterator[Tensor]:
        """The weight as each of the quantizers makes it, one after the other."""
        for quantizer in self.quantizers:
            try:
                yield quantized(quantizer, self.weight, self.kept)
            except ConfigError as error:
                raise ConfigError(f"{self.weight.name!r}, {label(quantizer)}: {error}") from error

    def squared_errors(self) -> list[float]:
        """|Q(w) - w|**2 over the kept entries, of each quantizer."""
        before = self.weight.parameter.detach()[self.kept].double()
        return [float((q[self.kept].double() - before).square().sum()) for q in self.results()]


@dataclass(frozen=True)
class Cost:
    """What each quantizer of a trial costs.

    Args:
        each: in the order of the quantizers.
        told: what it was made of, for a report: label to number.
    """

    each: list[float]
    told: Mapping[str, float]


Sensitivity = Callable[[nn.Module, Sequence[Trial], Batches, Loss, int], list[Cost]]
"""`(model, trials, batches, loss, seed)` to a cost for each trial; the model stays as it was."""


def sqnr(
    model: nn.Module, trials: Sequence[Trial], batches: Batches, loss: Loss, seed: int
) -> list[Cost]:
    """Noise to signal, |Q(w) - w|**2 / |w|**2; no data.

    Source: Lin, Talathi and Annapureddy 2016, arXiv 1511.06393, eq. 7, with the noise as it is and
    not kappa bits of decibels (`widths_of_equal_gain`).
    """
    costs = []
    for trial in trials:
        signal = float(trial.weight.parameter.detach()[trial.kept].double().square().sum())
        costs.append(Cost([noise / signal for noise in trial.squared_errors()], {}))
    return costs


def measured_loss(
    model: nn.Module, trials: Sequence[Trial], batches: Batches, loss: Loss, seed: int
) -> list[Cost]:
    """How much the mean loss rises when this weight alone is quantized.

    Source: none in particular; what Han et al. 2015, arXiv 1506.02626, figure 6, do for pruning.
    """
    dense = _mean_loss(model, batches, loss)
    costs = []
    for trial in trials:
        before = trial.weight.parameter.detach().clone()
        each = []
        try:
            for result in trial.results():
                _put(trial.weight, result)
                each.append(_mean_loss(model, batches, loss) - dense)
                _put(trial.weight, before)  # the next quantizer is to see it as it was
        finally:
            _put(trial.weight, before)
        costs.append(Cost(each, {}))
    return costs


def hawq(
    model: nn.Module, trials: Sequence[Trial], batches: Batches, loss: Loss, seed: int
) -> list[Cost]:
    """|lambda| / 2 |Q(w) - w|**2, lambda the top eigenvalue of the Hessian: the most it can bend.

    Source: Dong et al. 2019, HAWQ, arXiv 1905.03696: their Omega_i (there for the order of
    training) instead of their order of lambda_i / n_i, which says no widths.
    """
    values = [weight_eigenvalue(model, t.weight, t.kept, batches, loss, seed=seed) for t in trials]
    return _curved(trials, values, "top eigenvalue")


def hawq_v2(
    model: nn.Module, trials: Sequence[Trial], batches: Batches, loss: Loss, seed: int
) -> list[Cost]:
    """|trace / n| / 2 |Q(w) - w|**2: what an error of any direction costs on average.

    Source: Dong et al. 2020, HAWQ-V2, arXiv 1911.03852, section 3.
    """
    weights, kept = [t.weight for t in trials], [t.kept for t in trials]
    values = mean_curvatures(model, weights, kept, batches, loss, seed=seed)
    return _curved(trials, values, "mean curvature")


def q_bert(
    model: nn.Module, trials: Sequence[Trial], batches: Batches, loss: Loss, seed: int
) -> list[Cost]:
    """As `hawq`, with |mean| + standard deviation of the top eigenvalues of shares of the data.

    Source: Shen et al. 2020, Q-BERT, arXiv 1909.05840, eq. 2; their shares are a tenth of the data.
    """
    shares = shares_of(batches)
    values = [
        spread_of(weight_eigenvalue(model, t.weight, t.kept, s, loss, seed=seed) for s in shares)
        for t in trials
    ]
    return _curved(trials, values, "top eigenvalues, |mean| + std")


SENSITIVITIES: dict[str, Sensitivity] = {
    "loss": measured_loss,
    "sqnr": sqnr,
    "hawq": hawq,
    "hawq_v2": hawq_v2,
    "q_bert": q_bert,
}
"""Name of a sensitivity to what tells the costs."""

WITHOUT_DATA: frozenset[Sensitivity] = frozenset((sqnr,))


def _curved(trials: Sequence[Trial], values: Sequence[float], what: str) -> list[Cost]:
    """Half the curvature times the squared error; a curvature below 0 counts by its size."""
    costs = []
    for trial, value in zip(trials, values, strict=True):
        if not math.isfinite(value):
            raise ConfigError(f"{trial.weight.name!r}: the curvature of its loss is {value}")
        each = [abs(value) / 2 * error for error in trial.squared_errors()]
        costs.append(Cost(each, {what: value}))
    return costs


def _mean_loss(model: nn.Module, batches: Batches, loss: Loss) -> float:
    total, samples = 0.0, 0
    with observing(model):
        for inputs, targets in batches:
            total += float(loss(model(inputs), targets)) * len(inputs)
            samples += len(inputs)
    if not math.isfinite(total):
        raise ConfigError(f"data: a loss is {total}; expected finite ones")
    return total / samples


def _put(weight: Weight, values: Tensor) -> None:
    with torch.no_grad():
        weight.parameter.copy_(values)
