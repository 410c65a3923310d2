"""How a network stretches small changes of its input: singular values of its Jacobian.

All of them near 1 is dynamical isometry: signals and gradients keep their size on the way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.observing import observing
from tersor.core.weights import prunable


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of one Jacobian an example.

    Args:
        values: (N, min(outputs, inputs)), in each row from the largest to the smallest.

    >>> spectrum = Spectrum(torch.tensor([[3.0, 1.0], [2.0, 2.0]]))
    >>> spectrum.mean, spectrum.min, spectrum.max, spectrum.distance_to_isometry
    (2.0, 1.0, 3.0, 2.0)
    """

    values: Tensor

    @property
    def mean(self) -> float:
        """Mean over all values of all examples."""
        return self.values.mean().item()

    @property
    def std(self) -> float:
        """Standard deviation over all values of all examples, divided by their number."""
        return self.values.std(correction=0).item()

    @property
    def min(self) -> float:
        return self.values.min().item()

    @property
    def max(self) -> float:
        return self.values.max().item()

    @property
    def distance_to_isometry(self) -> float:
        """The least epsilon with |1 - value| <= epsilon for every value of every example."""
        return (self.values - 1).abs().max().item()


def jacobian_spectrum(model: nn.Module, inputs: Tensor, *, chunk_size: int = 100) -> Spectrum:
    """Singular values of d outputs / d inputs for each example, in eval mode.

    As many backward passes a chunk as a sample has outputs: a row of all its Jacobians at once,
    since in eval mode an example's outputs depend on that example alone. The model, its
    gradients, its training flags and the random generators are afterwards as they were.

    Args:
        model: floating-point inputs (N, *) to outputs (N, *).
        inputs: a sample of the data; a hundred examples tell much.
        chunk_size: examples at once. A chunk holds chunk_size * outputs * inputs numbers.

    Raises:
        ConfigError: there are no inputs, or they are not floating point; or `chunk_size` is
            below 1.

    Source: Lee, Ajanthan, Gould and Torr 2020, arXiv 1906.06307, whose code measures the logits
    against the input, as here; Saxe, McClelland and Ganguli 2014, arXiv 1312.6120.

    >>> model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    >>> for layer in model:
    ...     _ = nn.init.orthogonal_(layer.weight)
    >>> round(jacobian_spectrum(model, torch.randn(5, 3)).distance_to_isometry, 5)
    0.0
    """
    found = []
    with observing(model) as device, torch.enable_grad(), _plain_recurrence():
        for chunk in _chunks(inputs, chunk_size):
            leaf = chunk.to(device, copy=True).requires_grad_()
            found.append(torch.linalg.svdvals(_jacobians(model(leaf), leaf)).cpu())
    return Spectrum(torch.cat(found))


def layer_spectra(
    model: nn.Module, inputs: Tensor, *, chunk_size: int = 100
) -> dict[str, Spectrum]:
    """Singular values of each layer's own Jacobian: from its input to that of the next layer.

    J(l) = d x(l) / d x(l-1),   x(l-1) the input of layer l, x(l) that of layer l + 1

    So what stands between two layers (an activation, pooling, normalisation) counts with the
    first. The last one goes to the outputs. If every distance to isometry is at most epsilon, the
    network has layerwise dynamical isometry, and a chain of K square layers stretches nothing by
    more than (1 + epsilon)**K.

    Args:
        model: a chain of layers that own prunable weights; a layer used twice counts twice.
        inputs, chunk_size: as for `jacobian_spectrum`. The Jacobian of a convolution has the
            sides of whole feature maps.

    Returns:
        Name of a module to its spectrum, in the order of the calls.

    Raises:
        ConfigError: as `jacobian_spectrum`, or one layer's input does not depend on that of the
            layer before: no chain.

    Source: Lee, Ajanthan, Gould and Torr 2020, arXiv 1906.06307, definition 1.

    >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    >>> _ = [nn.init.ones_(net[0].weight), nn.init.constant_(net[2].weight, 3.0)]
    >>> spectra = layer_spectra(net, torch.ones(1, 2))
    >>> [(name, round(s.max, 4)) for name, s in spectra.items()]
    [('0', 2.0), ('2', 4.2426)]
    """
    found: dict[str, list[Tensor]] = {}
    with observing(model) as device, torch.enable_grad(), _plain_recurrence():
        for chunk in _chunks(inputs, chunk_size):
            leaf = chunk.to(device, copy=True).requires_grad_()
            with _recording(model) as calls:
                outputs = model(leaf)
            ends = [*(tensor for _, tensor in calls[1:]), outputs]
            for (name, start), end in zip(calls, ends, strict=True):
                values = torch.linalg.svdvals(_jacobians(end, start, name)).cpu()
                found.setdefault(name, []).append(values)
    return {name: Spectrum(torch.cat(parts)) for name, parts in found.items()}


def _chunks(inputs: Tensor, chunk_size: int) -> tuple[Tensor, ...]:
    if inputs.dim() < 2 or len(inputs) == 0 or not inputs.is_floating_point():
        raise ConfigError(
            f"jacobian: inputs {tuple(inputs.shape)} of {inputs.dtype}; expected examples (N, *) "
            "of floating point. For token numbers, give the layers after the embedding"
        )
    if chunk_size < 1:
        raise ConfigError(f"jacobian: chunk_size {chunk_size}; expected 1 or more")
    chunks: tuple[Tensor, ...] = inputs.detach().split(chunk_size)
    return chunks


def _jacobians(outputs: Tensor, inputs: Tensor, layer: str | None = None) -> Tensor:
    """(N, outputs, inputs) in float32 or wider"""
    flat = outputs.flatten(1)  # (N, outputs)
    rows = []
    for column in flat.unbind(1):
        row = None
        if column.requires_grad:
            (row,) = torch.autograd.grad(column.sum(), inputs, retain_graph=True, allow_unused=True)
        if row is None:
            where = f"what follows layer {layer!r}" if layer else "the outputs"
            raise ConfigError(f"jacobian: {where} does not depend on its input; expected a chain")
        rows.append(row.flatten(1))  # (N, inputs)
    jacobians = torch.stack(rows, 1)
    return jacobians.to(torch.promote_types(jacobians.dtype, torch.float32))


@contextlib.contextmanager
def _recording(model: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Name and input of each call of a module that owns weights, in their order."""
    calls: list[tuple[str, Tensor]] = []
    names = {module: name for name, module in model.named_modules()}
    handles = []
    for module in dict.fromkeys(weight.module for weight in prunable(model)):

        def record(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            taken = {name for name, _ in calls}
            label, number = names[module], 1
            while label in taken:
                number += 1
                label = f"{names[module]} ({number})"
            calls.append((label, args[0]))

        handles.append(module.register_forward_pre_hook(record))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _plain_recurrence() -> contextlib.AbstractContextManager[None]:
    """cuDNN's recurrent layers have no backward pass in eval mode; torch's own have."""
    flags: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=False)
    return flags
