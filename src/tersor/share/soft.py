"""Soft weight sharing: a mixture of Gaussians, learned with the weights, draws them together.

-log p(w) = -sum_i log sum_j pi_j N(w_i; mu_j, sigma_j^2). Component 0 stands at zero: what it takes
is pruned in the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tersor.core.errors import ConfigError

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_LEAST_SIGMA = 1e-5
_CHUNK = 1 << 14  # weights that are looked at together


class MixturePrior(nn.Module):
    """Negative log probability of weights under a mixture that trains.

    Component 0 has the mean 0 and the share `zero` for good; the other means begin evenly spaced
    from the least to the greatest weight, all deviations as wide as a quarter of the spacing. The
    precisions 1 / sigma^2 have Gamma priors, which keep components from collapsing.

    Args:
        weights: whose range decides the first means.
        components: J, free ones beside the one at zero.
        zero: pi_0, 0 < zero < 1; None: no component is fixed, as of Nowlan and Hinton.
        precision: shape and rate of the Gamma prior of each free component's precision; None: none.
        zero_precision: the same of component 0.

    Raises:
        ConfigError: a setting is out of range, or there are no weights.

    Source: Nowlan and Hinton 1992, Neural Computation 4(4); Ullrich, Meeds and Welling 2017, arXiv
    1702.04008, section 3 and appendix (Gamma(250, 0.1) and Gamma(5000, 2)). Weights, means, shares
    and deviations follow one gradient; there is no EM.

    >>> prior = MixturePrior([torch.tensor([-1.0, 0.0, 1.0])], 2, precision=None)
    >>> prior.means.tolist()
    [-1.0, 1.0]
    """

    def __init__(
        self,
        weights: Iterable[Tensor],
        components: int = 16,
        *,
        zero: float | None = 0.99,
        precision: tuple[float, float] | None = (250.0, 0.1),
        zero_precision: tuple[float, float] | None = (5000.0, 2.0),
    ) -> None:
        super().__init__()
        if isinstance(components, bool) or not isinstance(components, int) or components < 1:
            raise ConfigError(f"components: {components!r}; expected a whole number, 1 or more")
        if zero is not None and not 0 < zero < 1:
            raise ConfigError(f"zero: {zero}; expected 0 < zero < 1, or None")
        for prior in (precision, zero_precision):
            if prior is not None and (len(prior) != 2 or min(prior) <= 0):
                raise ConfigError(f"precision: {prior}; expected a shape and a rate above 0")
        ends = [torch.aminmax(w.detach()) for w in weights if w.numel()]
        if not ends:
            raise ConfigError("MixturePrior: no weights; expected those that it is for")
        low = min(float(end.min) for end in ends)
        high = max(float(end.max) for end in ends)
        if not low < high:
            raise ConfigError(f"MixturePrior: all weights are {low}; expected different ones")
        spacing = (high - low) / max(components - 1, 1)
        fixed = zero is not None
        self.zero = zero
        self.precision, self.zero_precision = precision, zero_precision if fixed else None
        middle = (low + high) / 2
        self.means = nn.Parameter(
            torch.linspace(low, high, components) if components > 1 else torch.tensor([middle])
        )
        count = components + fixed
        self.log_sigmas = nn.Parameter(torch.full((count,), math.log(spacing / 4)))
        self.logits = nn.Parameter(torch.zeros(components))  # of the free components' shares

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        """log pi, mu and sigma of all, that at zero first."""
        log_shares = F.log_softmax(self.logits, 0)
        means: Tensor = self.means
        if self.zero is not None:
            first = log_shares.new_tensor([math.log(self.zero)])
            log_shares = torch.cat([first, log_shares + math.log1p(-self.zero)])
            means = torch.cat([means.new_zeros(1), means])
        return log_shares, means, self.log_sigmas.exp().clamp(min=_LEAST_SIGMA)

    def log_terms(self, values: Tensor) -> Tensor:
        """log(pi_j N(w_i; mu_j, sigma_j^2)), (n, components)."""
        log_shares, means, sigmas = self.components()
        distance = (values.reshape(-1, 1) - means) / sigmas
        return log_shares - sigmas.log() - _LOG_SQRT_2PI - 0.5 * distance.square()

    def forward(self, weights: Iterable[Tensor]) -> Tensor:
        """-log p(weights), and of the precisions' priors; a scalar, a sum over all weights."""
        total = self.hyperprior()
        for weight in weights:
            surprise: Tensor = _Surprise.apply(weight.reshape(-1), *self.components())  # type: ignore[no-untyped-call]
            total = total + surprise
        return total

    def hyperprior(self) -> Tensor:
        """-log p of the precisions, but for constants."""
        precisions = (-2 * self.log_sigmas).exp()
        total = precisions.new_zeros(())
        free = precisions[1:] if self.zero is not None else precisions
        for some, prior in ((free, self.precision), (precisions[:1], self.zero_precision)):
            if prior is not None:
                shape, rate = prior
                total = total - ((shape - 1) * some.log() - rate * some).sum()
        return total

    @torch.no_grad()
    def nearest(self, values: Tensor) -> Tensor:
        """For each weight the mean of the component that most likely drew it."""
        means = self.components()[1]
        parts = [means[self.log_terms(p).argmax(1)] for p in values.reshape(-1).split(_CHUNK)]
        return torch.cat([*parts, values.new_zeros(0)]).view_as(values).to(values.dtype)


class _Surprise(torch.autograd.Function):
    """-sum_i log sum_j pi_j N(w_i; mu_j, sigma_j^2), its gradient found in the same pass.

    With r_ij the share of component j in weight i and d_ij = (w_i - mu_j) / sigma_j, that is
    sum_j r d / sigma for w; for log pi, mu and sigma -sum_i of r, r d / sigma, r (d^2 - 1) / sigma.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, log_shares: Tensor, means: Tensor, sigmas: Tensor
    ) -> Tensor:
        heights = (log_shares - sigmas.log() - _LOG_SQRT_2PI)[:, None]
        slope = torch.empty_like(values)
        total, share, shift, width = (values.new_zeros(()) for _ in range(4))
        for part, of_part in zip(values.split(_CHUNK), slope.split(_CHUNK), strict=True):
            distance = (part - means[:, None]) / sigmas[:, None]  # (components, n)
            terms = torch.addcmul(heights, distance, distance, value=-0.5)
            highest = terms.amax(0)
            taken = terms.sub_(highest).exp_()
            whole = taken.sum(0)
            taken /= whole
            pulled = taken * distance
            of_part.copy_((1 / sigmas) @ pulled)
            total = total - (highest + whole.log()).sum()
            share = share - taken.sum(1)
            shift = shift - pulled.sum(1)
            width = width - (pulled * distance - taken).sum(1)
        ctx.save_for_backward(slope, share, shift / sigmas, width / sigmas)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(gradient * part for part in ctx.saved_tensors)


@torch.no_grad()
def merge_(prior: MixturePrior, *, below: float = 1e-10, moments: bool = False) -> int:
    """Make one of each two free components that are nearly the same, until there are none.

    The nearest two are merged first: pi = pi_i + pi_j, mu and sigma^2 the means weighted by pi.

    Args:
        prior: changed in place.
        below: symmetrised Kullback-Leibler divergence of those that count as the same.
        moments: add pi_i pi_j (mu_i - mu_j)^2 / (pi_i + pi_j)^2 to sigma^2, as the variance of the
            two together is.

    Returns:
        How many components are gone.

    Source: Adhikari and Hollmen 2012, as Ullrich et al. 2017, eq. 11 and 12, have it; their
    variance is without `moments`.
    """
    gone = 0
    first = int(prior.zero is not None)
    while len(prior.means) > 1:
        log_shares, means, sigmas = (part[first:].double() for part in prior.components())
        variances = sigmas.square()
        difference = (means[:, None] - means).square()
        ratio = variances[:, None] / variances
        divergence = 0.25 * (
            ratio + 1 / ratio - 2 + difference * (1 / variances[:, None] + 1 / variances)
        )
        divergence.fill_diagonal_(torch.inf)
        at = int(divergence.argmin())
        i, j = sorted((at // len(means), at % len(means)))
        if float(divergence[i, j]) >= below:
            break
        share = log_shares.exp()
        both = share[i] + share[j]
        mean = (share[i] * means[i] + share[j] * means[j]) / both
        variance = (share[i] * variances[i] + share[j] * variances[j]) / both
        if moments:
            variance += share[i] * share[j] * (means[i] - means[j]).square() / both.square()
        left = [k for k in range(len(means)) if k != j]
        means[i], sigmas[i], share[i] = mean, variance.sqrt(), both
        prior.means = nn.Parameter(means[left].to(prior.means.dtype))
        prior.logits = nn.Parameter(share[left].log().to(prior.logits.dtype))
        kept = torch.cat([prior.log_sigmas[:first].double(), sigmas[left].log()])
        prior.log_sigmas = nn.Parameter(kept.to(prior.log_sigmas.dtype))
        gone += 1
    return gone
