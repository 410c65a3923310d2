"""Sparse variational dropout: each weight learns its own noise, and what is mostly noise goes.

q(w) = N(theta, sigma**2),  alpha = sigma**2 / theta**2,  a log-uniform prior
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.report import Report
from tersor.core.weights import Selectors
from tersor.prune.learned.layers import affine, become, prepared, replaceable

K1, K2, K3 = 0.63576, 1.87320, 1.48695
"""Fitted constants of the divergence from the log-uniform prior."""


def variational_dropout_(
    model: nn.Module,
    *,
    log_variance: float = -10.0,
    threshold: float = 3.0,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Report:
    """Give every weight a variance that is learned, in place.

    In training mode the outputs are drawn, N(theta x, sigma**2 x**2) (local reparametrisation),
    from torch's global generator as a Dropout's masks are. In eval mode the weights are theta
    where log alpha is at most the threshold, else 0. Train on the mean loss plus
    `log_uniform_divergence(model) / N`, N training samples, its strength growing from 0 to 1 or
    from a trained start; then `finalize_(model)`.

    Args:
        log_variance: log sigma**2 of every weight at the start.
        threshold: a weight whose log alpha is above it is zero.
        select, ignore: which weights take part; of them those of Linear and Conv2d.

    Returns:
        A report: what was prepared and what was skipped.

    Raises:
        ConfigError: no weight can take part.

    Source: Molchanov, Ashukha and Vetrov 2017, arXiv 1701.05369, eq. 12 to 14 and 17. Biases stay
        as they are. The layer turns into a subclass of its own type, as torch's parametrizations
        do it, so hooks, names and whoever holds the layer stay.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 0.001]]))
    >>> _ = variational_dropout_(layer)
    >>> layer.log_alpha().detach()  # the small weight is nearly drowned in its noise
    tensor([[-8.0000,  3.8056]])
    >>> layer.eval()(torch.ones(1, 2)).item()
    1.0
    """
    weights, skipped = replaceable(model, _BECOMES, select=select, ignore=ignore)
    rows = []
    for weight in weights:
        layer = become(weight.module, _BECOMES[type(weight.module)])
        layer.log_variance = nn.Parameter(torch.full_like(weight.parameter, log_variance))
        layer.threshold = threshold
        rows.append((weight, weight.parameter.numel()))
    return prepared("Sparse variational dropout", rows, skipped, column="variances")


def log_uniform_divergence(model: nn.Module) -> Tensor:
    """KL(q(w) || log-uniform), summed over all weights that have a variance; in nats.

    K1 - K1 sigmoid(K2 + K3 log alpha) + log(1 + 1 / alpha) / 2,   within 0.01 of the integral

    Raises:
        ConfigError: no weight has a variance.

    Source: as `variational_dropout_`, eq. 14, without its constant: 0 as alpha grows.
    """
    layers = [module for module in model.modules() if isinstance(module, _Noisy)]
    if not layers:
        raise ConfigError(f"{type(model).__name__}: no variances; call variational_dropout_ first")
    return torch.stack([divergence(layer.log_alpha()).sum() for layer in layers]).sum()


def divergence(log_alpha: Tensor) -> Tensor:
    """The divergence of one weight from the log-uniform prior, by its log alpha.

    >>> divergence(torch.tensor([-8.0, 0.0, 8.0]))
    tensor([4.6359e+00, 4.3124e-01, 1.6836e-04])
    """
    return K1 - K1 * (K2 + K3 * log_alpha).sigmoid() + F.softplus(-log_alpha) / 2


class _Noisy(nn.Module):
    """What `VariationalLinear` and `VariationalConv2d` have in common."""

    weight: Tensor
    bias: Any  # a parameter or None, which each of torch's layers declares in another way
    log_variance: nn.Parameter
    threshold: float

    def log_alpha(self) -> Tensor:
        """log(sigma**2 / theta**2), cut to [-8, 8], of the weight's shape."""
        return (self.log_variance - (self.weight.square() + 1e-8).log()).clamp(-8, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            kept = self.log_alpha() <= self.threshold
            return affine(self, inputs, torch.where(kept, self.weight, 0.0), self.bias)
        mean = affine(self, inputs, self.weight, self.bias)
        return noisy(mean, affine(self, inputs.square(), self.log_variance.exp(), None))

    def to_plain_(self) -> Iterator[tuple[str, Tensor]]:
        kept = self.log_alpha().detach() <= self.threshold
        del self.log_variance, self.threshold
        become(self, _WAS[type(self)])
        yield "weight", kept


class VariationalLinear(_Noisy, nn.Linear):
    """A linear layer whose weights have a variance."""


class VariationalConv2d(_Noisy, nn.Conv2d):
    """A convolution whose weights have a variance."""


def noisy(mean: Tensor, variance: Tensor) -> Tensor:
    """A draw of N(mean, variance); where the variance is zero, the mean itself."""
    # The root of zero has an infinite gradient.
    tiny = torch.finfo(variance.dtype).tiny
    return mean + variance.clamp_min(tiny).sqrt() * torch.randn_like(mean)


_BECOMES: dict[type[nn.Module], type[_Noisy]] = {
    nn.Linear: VariationalLinear,
    nn.Conv2d: VariationalConv2d,
}
_WAS = {new: old for old, new in _BECOMES.items()}
