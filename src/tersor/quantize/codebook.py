"""Weight sharing: the kept weights of a tensor take a few values, its codebook.

Zero is never a centroid, so what is pruned and what is kept stay apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.report import Report, Value
from tersor.core.seeding import generator
from tersor.core.weights import Selectors, Weight, assign, survey
from tersor.quantize.kmeans import kmeans_1d

MAX_BITS = 12


@dataclass(frozen=True, eq=False)
class Codebook:
    """Values that the kept weights of a tensor share.

    Args:
        centroids: (k,) of the weight's dtype, none of them zero.
        codes: the weight's shape, int16: the centroid of each kept weight, -1 where not kept.
    """

    centroids: Tensor
    codes: Tensor

    def decode(self) -> Tensor:
        """The weight: its centroid where kept, +0.0 elsewhere."""
        padded = torch.cat([self.centroids, self.centroids.new_zeros(1)])
        return padded[self.codes.long()]  # code -1 is the last entry, the zero


def quantize_(
    model: nn.Module,
    bits: int | Mapping[str, int],
    *,
    masks: Mapping[str, Tensor] | None = None,
    init: str = "linear",
    seed: int = 0,
    select: Selectors = None,
    ignore: Selectors = None,
) -> tuple[dict[str, Codebook], Report]:
    """Replace the kept weights of each tensor by at most 2**bits shared values, in place.

    Args:
        model: changed in place. Biases and normalisation parameters are left alone.
        bits: of a code, 1 to 12; or a number for each of some selectors ({"conv1": 8, "fc1": 5}),
            and then what none of them names is left alone.
        masks: which weights are kept, by name; a tensor without a mask keeps its non-zero ones.
        init: as in `kmeans_1d`: "linear", "density", "random" or "exact".
        seed: of "random".
        select, ignore: which weights take part, as in `tersor.core.prunable`.

    Returns:
        The codebooks, which a `CodebookTuner` takes, and a report.

    Raises:
        ConfigError: bits out of range, a weight is not finite, a mask has another shape.

    Source: Han, Mao and Dally 2016, arXiv 1510.00149, section 3.

    >>> model = nn.Linear(64, 64)
    >>> codebooks, report = quantize_(model, bits=2)
    >>> len(model.weight.unique()), len(codebooks["weight"].centroids)
    (4, 4)
    """
    weights, skipped = survey(model, select=select, ignore=ignore)
    widths = _widths(bits, model, weights)
    _check_masks(model, masks or {})
    codebooks: dict[str, Codebook] = {}
    rows: list[dict[str, Value]] = []
    for weight in weights:
        if weight.name not in widths:
            skipped[weight.name] = "no bits given"
            continue
        kept = _kept(weight, masks or {})
        if not bool(kept.any()):
            skipped[weight.name] = "all of its weights are zero"
            continue
        before = weight.parameter.detach()
        try:
            codebook = share(before, kept, 2 ** widths[weight.name], init=init, seed=seed)
        except ConfigError as error:
            raise ConfigError(f"quantize: {weight.name!r}: {error}") from error
        codebooks[weight.name] = codebook
        difference = (codebook.decode() - before)[kept].double()
        rows.append(
            {
                "name": weight.name,
                "kept": int(kept.sum()),
                "bits": widths[weight.name],
                "centroids": len(codebook.centroids),
                "largest centroid": float(codebook.centroids.abs().max()),
                "rms error": float(difference.square().mean().sqrt()),
                "wcss": float(difference.square().sum()),
            }
        )
    for weight in weights:  # all of them could be shared: now, and not before, any is changed
        if weight.name in codebooks:
            with torch.no_grad():
                weight.parameter.copy_(codebooks[weight.name].decode())
    summary: dict[str, Value] = {
        "init": init,
        "tensors": len(rows),
        "tensors skipped": len(skipped),
    }
    return codebooks, Report("Weight sharing", summary, rows, skipped)


def share(weight: Tensor, kept: Tensor, k: int, *, init: str = "linear", seed: int = 0) -> Codebook:
    """The codebook of at most k values for the kept entries of one tensor.

    Raises:
        ConfigError: as `kmeans_1d`.
    """
    values = weight[kept]
    found = kmeans_1d(values, k, init=init, generator=generator(seed, "k-means"))
    centroids = found.centroids.to(weight.dtype).to(weight.device)
    codes = torch.full(weight.shape, -1, dtype=torch.int16, device=weight.device)
    codes[kept] = found.codes.to(weight.device, torch.int16)
    if bool((centroids == 0).any()):
        centroids = _away_from_zero(centroids, values, found.codes.to(weight.device))
    return Codebook(centroids, codes)


def _away_from_zero(centroids: Tensor, values: Tensor, codes: Tensor) -> Tensor:
    """A centroid of zero becomes the member nearest to zero, or the smallest normal number."""
    centroids = centroids.clone()
    for code in (centroids == 0).nonzero().flatten().tolist():
        members = values[codes == code]
        members = members[members != 0]
        tiny = torch.finfo(centroids.dtype).tiny
        centroids[code] = members[members.abs().argmin()] if len(members) else tiny
    return centroids


def _widths(
    bits: int | Mapping[str, int], model: nn.Module, weights: list[Weight]
) -> dict[str, int]:
    for value in bits.values() if isinstance(bits, Mapping) else [bits]:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_BITS:
            raise ConfigError(
                f"bits: {value!r}; expected a whole number from 1 to {MAX_BITS}, "
                "the width of a code"
            )
    if isinstance(bits, Mapping):
        return assign(model, bits, weights, what="bits")
    return {weight.name: bits for weight in weights}


def _check_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        if name not in parameters:
            raise ConfigError(f"mask {name!r}: {type(model).__name__} has no such weight")
        shape = tuple(parameters[name].shape)
        if tuple(mask.shape) != shape:
            raise ConfigError(
                f"mask {name!r}: shape {tuple(mask.shape)}, but the weight has {shape}"
            )
        if mask.dtype != torch.bool:
            raise ConfigError(f"mask {name!r}: dtype {mask.dtype}, expected torch.bool")


def _kept(weight: Weight, masks: Mapping[str, Tensor]) -> Tensor:
    if weight.name not in masks:
        return weight.parameter.detach() != 0
    return masks[weight.name].to(weight.parameter.device)
