"""Bayesian compression: a scale for each input unit or filter, with its own noise.

q(z) = N(mu_z, sigma_z**2),  q(w | z) = N(z mu, z**2 sigma**2);
p(z) ~ 1 / |z|,  p(w | z) = N(0, z**2)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.report import Report
from tersor.core.weights import Selectors
from tersor.prune.learned.layers import affine, become, noise_of_samples, prepared, replaceable
from tersor.prune.learned.variational_dropout import divergence, noisy


def normal_jeffreys_(
    model: nn.Module,
    *,
    log_variance: float = -9.0,
    threshold: float = 0.0,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Report:
    """Give each input unit of a linear layer, each filter of a convolution a noisy scale, in place.

    In training mode scales and outputs are drawn, for each sample, from torch's global generator.
    In eval mode the weights are mu_z mu where log alpha = log(sigma_z**2 / mu_z**2) is below the
    threshold, else the whole group is 0. Train on the mean loss plus
    `normal_jeffreys_divergence(model) / N`, N training samples; look at `log_alpha()` of the
    layers, whose histogram has two humps, and set `layer.threshold` between them; then
    `finalize_(model)`.

    Args:
        log_variance: log sigma**2 of every weight, and log sigma_z**2 of every scale, at the start.
        threshold: a group whose log alpha is at least this is zero.
        select, ignore: which weights take part; of them those of Linear and Conv2d.

    Returns:
        A report: how many scales each weight has, and what was skipped.

    Raises:
        ConfigError: no weight can take part.

    Source: Louizos, Ullrich and Welling 2017, arXiv 1705.08665, section 4.1 and eq. 5 to 9.
        Differences: scales start at 1 and variances at one value, without their jitter; biases
        stay as they are, and in a convolution the scale is before the bias.

    >>> layer = nn.Linear(3, 1, bias=False)
    >>> _ = nn.init.ones_(layer.weight)
    >>> _ = normal_jeffreys_(layer)
    >>> _ = layer.scale_mean.data.copy_(torch.tensor([2.0, 1.0, 0.001]))
    >>> layer.eval()(torch.ones(1, 3)).item()  # the third input is mostly noise
    3.0
    """
    weights, skipped = replaceable(model, _BECOMES, select=select, ignore=ignore)
    rows = []
    for weight in weights:
        layer = become(weight.module, _BECOMES[type(weight.module)])
        scales = weight.shape[layer.scaled]
        start = weight.parameter.detach()
        layer.log_variance = nn.Parameter(torch.full_like(start, log_variance))
        layer.scale_mean = nn.Parameter(start.new_ones(scales))
        layer.scale_log_variance = nn.Parameter(start.new_full((scales,), log_variance))
        layer.threshold = threshold
        rows.append((weight, scales))
    return prepared("Normal-Jeffreys scales", rows, skipped, column="scales")


def normal_jeffreys_divergence(model: nn.Module) -> Tensor:
    """KL(q(w, z) || p(w, z)) over all prepared layers; in nats.

    sum(sigma**2 + mu**2 - log sigma**2 - 1) / 2 + sum over scales of `divergence(log_alpha)`

    The first part is free of z, as z cancels between q(w | z) and p(w | z).

    Raises:
        ConfigError: no layer has scales.

    Source: as `normal_jeffreys_`, eq. 7 and 8 (softplus(-log alpha) = log(1 + 1 / alpha)).
    """
    layers = [module for module in model.modules() if isinstance(module, _Scaled)]
    if not layers:
        raise ConfigError(f"{type(model).__name__} has no scales; call normal_jeffreys_ first")
    return torch.stack([layer.divergence() for layer in layers]).sum()


class _Scaled(nn.Module):
    """What `JeffreysLinear` and `JeffreysConv2d` have in common."""

    scaled: int  # the dimension of the weight that the scales stand along
    weight: Tensor
    bias: Any  # a parameter or None, which each of torch's layers declares in another way
    log_variance: nn.Parameter
    scale_mean: nn.Parameter
    scale_log_variance: nn.Parameter
    threshold: float

    def log_alpha(self) -> Tensor:
        """log(sigma_z**2 / mu_z**2) of each scale, cut to [-8, 8]."""
        return (self.scale_log_variance - (self.scale_mean.square() + 1e-8).log()).clamp(-8, 8)

    def divergence(self) -> Tensor:
        """From the priors of weights and scales."""
        of_weights = (
            self.log_variance.exp() + self.weight.square() - self.log_variance - 1
        ).sum() / 2
        return of_weights + divergence(self.log_alpha()).sum()

    def to_plain_(self) -> Iterator[tuple[str, Tensor]]:
        weight = self.weight
        with torch.no_grad():
            kept = self._along(self.log_alpha() < self.threshold).expand(weight.shape).clone()
            weight.copy_(self._effective())
        del self.log_variance, self.scale_mean, self.scale_log_variance, self.threshold
        become(self, _WAS[type(self)])
        yield "weight", kept

    def _effective(self) -> Tensor:
        """The weights of eval mode."""
        scales = torch.where(self.log_alpha() < self.threshold, self.scale_mean, 0.0)
        return self.weight * self._along(scales)

    def _along(self, scales: Tensor) -> Tensor:
        return scales.view([-1 if d == self.scaled else 1 for d in range(self.weight.dim())])


class JeffreysLinear(_Scaled, nn.Linear):
    """A linear layer with a scale for each input."""

    scaled = 1

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return affine(self, inputs, self._effective(), self.bias)
        noise = (self.scale_log_variance / 2).exp() * noise_of_samples(inputs, -1)
        inputs = inputs * (self.scale_mean + noise)
        mean = affine(self, inputs, self.weight, self.bias)
        return noisy(mean, affine(self, inputs.square(), self.log_variance.exp(), None))


class JeffreysConv2d(_Scaled, nn.Conv2d):
    """A convolution with a scale for each filter."""

    scaled = 0

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return affine(self, inputs, self._effective(), self.bias)
        mean = affine(self, inputs, self.weight, None)
        drawn = noisy(mean, affine(self, inputs.square(), self.log_variance.exp(), None))
        column = (-1, 1, 1)  # (F, 1, 1)
        noise = (self.scale_log_variance / 2).exp().view(column) * noise_of_samples(drawn, -3)
        drawn = drawn * (self.scale_mean.view(column) + noise)
        return drawn if self.bias is None else drawn + self.bias.view(column)


_BECOMES: dict[type[nn.Module], type[_Scaled]] = {
    nn.Linear: JeffreysLinear,
    nn.Conv2d: JeffreysConv2d,
}
_WAS = {new: old for old, new in _BECOMES.items()}
