"""The variational information bottleneck: a noisy gate on each output channel of a layer.

h = z * f(x),  z = mu + sigma * epsilon, drawn for each sample; what carries little signal goes
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError, did_you_mean
from tersor.core.report import Report
from tersor.core.weights import Weight
from tersor.prune.learned.layers import become, noise_of_samples, prepared


def information_bottleneck_(
    model: nn.Module,
    layers: Sequence[str] | None = None,
    *,
    log_variance: float = -9.0,
    threshold: float = 0.0,
) -> Report:
    """Put a gate on each output channel of some layers, in place.

    In training mode the gates are drawn for each sample, from torch's global generator as a
    Dropout's masks are. In eval mode they are mu where log(sigma**2 / mu**2) is below the
    threshold, else 0. Train on the mean loss plus `strength * bottleneck(model)`; then
    `finalize_(model)`, which multiplies weights and biases by the gates.

    Args:
        layers: names of Linear, Conv2d or BatchNorm modules; without it all Linear and Conv2d but
            the last, as a gate must not be on the model's output. Where a batch normalisation
            follows, name it and not the convolution: it would divide the gate out again.
        log_variance: log sigma**2 of every gate at the start; mu is 1.
        threshold: a gate whose log(sigma**2 / mu**2) is at least this is zero.

    Returns:
        A report: how many gates each layer has, and which layers have none.

    Raises:
        ConfigError: a name is no layer of these types, or there is none.

    Source: Dai, Zhu, Guo and Wipf 2018, arXiv 1802.10399, eq. 8 to 11, section 3. Differences: the
        gate stands before the nonlinearity, so that it can be multiplied into the layer; mu starts
        at exactly 1. Their alpha = mu**2 / sigma**2 is one over this one.

    >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    >>> report = information_bottleneck_(net)
    >>> [row["name"] for row in report.rows], dict(report.skipped)
    (['0.weight'], {'2': 'the last layer: its outputs are those of the model'})
    >>> net[0].gate_mean.data[1] = 1e-3
    >>> net[0].kept()
    tensor([ True, False])
    """
    known = {
        name: module
        for name, module in model.named_modules()
        if type(module) in _BECOMES and getattr(module, "weight", None) is not None
    }
    skipped: dict[str, str] = {}
    if layers is None:
        *layers, last = [n for n, m in known.items() if isinstance(m, _WITH_INPUTS)] or [""]
        skipped[last] = "the last layer: its outputs are those of the model"
    unknown = [name for name in layers if name not in known]
    if unknown or not layers:
        raise ConfigError(
            f"layers: {unknown[0]!r} is no Linear, Conv2d or BatchNorm with weights; "
            f"{did_you_mean(unknown[0], known)}"
            if unknown
            else f"{type(model).__name__} has no layer to put gates on; name some in layers="
        )
    rows = []
    for name in layers:
        kind = type(known[name])
        layer = become(known[name], _BECOMES[kind])
        weight = Weight(f"{name}.weight" if name else "weight", _KINDS[kind], layer.weight, layer)
        start = layer.weight.detach()
        layer.gate_mean = nn.Parameter(start.new_ones(len(start)))
        layer.gate_log_variance = nn.Parameter(start.new_full((len(start),), log_variance))
        layer.register_buffer("positions", torch.ones((), dtype=torch.long, device=start.device))
        layer.threshold = threshold
        rows.append((weight, len(start)))
    return prepared("Information bottleneck gates", rows, skipped, column="gates")


def bottleneck(model: nn.Module) -> Tensor:
    """The information that passes the gates, an upper bound; in nats.

    sum over layers of positions * sum(log(1 + mu**2 / sigma**2)) / 2

    `positions` are the places of the channel's map as the layer last saw it: height times width of
    a convolution, 1 of a linear layer. It is 0 only where every mu is.

    Raises:
        ConfigError: no layer has gates.

    Source: as `information_bottleneck_`, eq. 11, with the half and the positions of the published
        code, and without the factor L on the data term: it belongs to the strength.
    """
    gated = [module for module in model.modules() if isinstance(module, _Gated)]
    if not gated:
        raise ConfigError(f"{type(model).__name__}: no gates; call information_bottleneck_ first")
    return torch.stack([layer.information() for layer in gated]).sum()


class _Gated(nn.Module):
    """What all layers with gates have in common."""

    channel: int  # the dimension of the outputs that the gates stand along
    weight: Any
    bias: Any  # parameters or None, which each of torch's layers declares in another way
    gate_mean: nn.Parameter
    gate_log_variance: nn.Parameter
    positions: Tensor
    threshold: float

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = super().forward(inputs)
        shape = [1] * outputs.dim()
        shape[self.channel] = -1
        if not self.training:
            return outputs * self._gates().view(shape)
        self.positions.fill_(outputs.shape[self.channel + 1 :].numel() if self.channel != -1 else 1)
        deviation = (self.gate_log_variance / 2).exp().view(shape)
        noise = deviation * noise_of_samples(outputs, self.channel)
        return outputs * (self.gate_mean.view(shape) + noise)

    def kept(self) -> Tensor:
        """True for each channel that passes in eval mode."""
        return self.log_alpha() < self.threshold

    def log_alpha(self) -> Tensor:
        """log(sigma**2 / mu**2) of each gate."""
        return self.gate_log_variance - self.gate_mean.square().log()

    def information(self) -> Tensor:
        """An upper bound of what passes, in nats."""
        ratio = self.gate_mean.square() / self.gate_log_variance.exp()
        return self.positions * ratio.log1p().sum() / 2

    @torch.no_grad()
    def to_plain_(self) -> Iterator[tuple[str, Tensor]]:
        kept, gates = self.kept(), self._gates()
        weight, bias = self.weight, self.bias
        along = [-1] + [1] * (weight.dim() - 1)
        weight.mul_(gates.view(along))
        if bias is not None:
            bias.mul_(gates).add_(0.0)
        del self.gate_mean, self.gate_log_variance, self.positions, self.threshold
        mask = kept.view(along).expand(weight.shape).clone()
        become(self, _WAS[type(self)])
        yield "weight", mask

    def _gates(self) -> Tensor:
        return torch.where(self.kept(), self.gate_mean, 0.0)


class GatedLinear(_Gated, nn.Linear):
    """A linear layer with a gate on each output."""

    channel = -1


class GatedConv2d(_Gated, nn.Conv2d):
    """A convolution with a gate on each filter."""

    channel = -3


class GatedBatchNorm1d(_Gated, nn.BatchNorm1d):
    """A batch normalisation with a gate on each channel."""

    channel = 1


class GatedBatchNorm2d(_Gated, nn.BatchNorm2d):
    """A batch normalisation with a gate on each channel."""

    channel = 1


_WITH_INPUTS = (nn.Linear, nn.Conv2d)
_BECOMES: dict[type[nn.Module], type[_Gated]] = {
    nn.Linear: GatedLinear,
    nn.Conv2d: GatedConv2d,
    nn.BatchNorm1d: GatedBatchNorm1d,
    nn.BatchNorm2d: GatedBatchNorm2d,
}
_WAS = {new: old for old, new in _BECOMES.items()}
_KINDS: dict[type[nn.Module], str] = {
    nn.Linear: "linear",
    nn.Conv2d: "conv",
    nn.BatchNorm1d: "normalisation",
    nn.BatchNorm2d: "normalisation",
}
