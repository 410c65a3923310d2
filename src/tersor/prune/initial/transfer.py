"""Masks found elsewhere: on another task, without labels, or with another draw of the weights."""

from __future__ import annotations

from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.report import Report, Value
from tersor.core.weights import Selectors, survey


def transfer_(
    model: nn.Module, masks: MaskSet, *, ignore: Selectors = None
) -> tuple[MaskSet, Report]:
    """Apply masks of another network to this one, in place, once all of them are found to fit.

    Args:
        model: freshly drawn, as a rule; what is not kept becomes 0.
        masks: by the names of this model's weights.
        ignore: weights that stay dense here whatever their masks: an output layer with another
            number of classes.

    Returns:
        The masks that are in force, on the model's device, and a report.

    Raises:
        ConfigError: a weight that is not ignored has no mask or one of another shape, or a mask
            has no weight. The model is as it was.

    Source: Lee, Ajanthan, Gould and Torr 2020, arXiv 1906.06307, transfer of sparsity.

    >>> import torch
    >>> digits, clothes = nn.Linear(4, 10), nn.Linear(4, 10)
    >>> masks = MaskSet({"weight": torch.arange(40).view(10, 4) % 4 == 0})
    >>> held, report = transfer_(clothes, masks)
    >>> held.density, int((clothes.weight != 0).sum())
    (0.25, 10)
    """
    weights, skipped = survey(model, ignore=ignore)
    known = {weight.name for weight in weights} | set(skipped)
    for name in masks:
        if name not in known:
            raise ConfigError(f"transfer_: there is a mask {name!r}, but no weight of this name")
    for weight in weights:
        if weight.name not in masks:
            raise ConfigError(
                f"transfer_: {weight.name!r} has no mask. The masks are of another network; "
                "or name it in ignore=, and it stays dense"
            )
        if masks[weight.name].shape != weight.shape:
            raise ConfigError(
                f"transfer_: {weight.name!r} has shape {tuple(weight.shape)}, but its mask "
                f"{tuple(masks[weight.name].shape)}. Name it in ignore=, and it stays dense"
            )
    held = MaskSet({w.name: masks[w.name].to(w.parameter.device) for w in weights})
    held.apply(model)
    rows: list[dict[str, Value]] = [
        {
            "name": name,
            "weights": mask.numel(),
            "kept": (kept := int(mask.sum())),
            "density": kept / max(mask.numel(), 1),
        }
        for name, mask in held.items()
    ]
    summary = {"density": held.density, "kept": held.kept}
    return held, Report("Transfer of sparsity", summary, rows, skipped)
