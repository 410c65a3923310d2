"""The end of learning what is zero: a plain model again, with exact zeros and their masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.report import Report, Value
from tersor.core.weights import Weight, prunable


@runtime_checkable
class LearnedMask(Protocol):
    """A parametrization of a weight that knows which weights it keeps."""

    def kept(self) -> Tensor:
        """True where a weight is kept, in eval mode; as many entries in the weight's order."""
        ...

    def thaw(self, layer: nn.Module, name: str) -> None:
        """Let those parameters of the layer train again that were frozen for it."""
        ...


@runtime_checkable
class LearnedLayer(Protocol):
    """A layer that has become another one while it learns which of its weights are zero."""

    def to_plain_(self) -> Iterator[tuple[str, Tensor]]:
        """Become the plain layer again; give name and mask of each weight that was learned."""
        ...


def finalize_(model: nn.Module) -> tuple[MaskSet, Report]:
    """Turn all that was prepared in a model into plain weights, in place.

    Gates, noise, scores and learned masks are gone; the weights have what they were in eval mode,
    with exact zeros, and the layers are those of torch again. The outputs are those of eval mode.
    Parameters that were frozen for a mask can be trained again; hold the masks then.

    Returns:
        The masks and a report.

    Raises:
        ConfigError: nothing in the model was prepared, or a weight has a foreign parametrization
            besides ours.

    >>> from tersor.prune.learned import hard_concrete_
    >>> layer = nn.Linear(3, 2)
    >>> _ = hard_concrete_(layer)
    >>> layer.parametrizations.weight[0].log_alpha.data[:, 2] = -9.0  # closes two gates
    >>> masks, report = finalize_(layer)
    >>> type(layer) is nn.Linear, masks.kept, (layer.weight != 0).sum().item()
    (True, 4, 4)
    """
    masks: dict[str, Tensor] = {}
    for path, module in list(model.named_modules()):
        found = [*_from_parametrizations(module, path), *_from_layer(module)]
        masks |= {f"{path}.{name}" if path else name: mask for name, mask in found}
    if not masks:
        raise ConfigError(
            f"finalize_: nothing in {type(model).__name__} is prepared. Call it once, after "
            "hard_concrete_, variational_dropout_, edge_popup_ or another of their kind"
        )
    kept = MaskSet(masks)
    kept.apply(model)  # also turns -0.0 into +0.0
    weights = [weight for weight in prunable(model) if weight.name in masks]
    return kept, describe("Finalized", weights, kept, {})


def describe(
    title: str, weights: Iterable[Weight], masks: MaskSet, skipped: Mapping[str, str]
) -> Report:
    """A report on masks that were learned."""
    summary: dict[str, Value] = {"density reached": masks.density, "kept": masks.kept}
    return Report(title, summary, masks.rows(weights), skipped)


def _from_parametrizations(module: nn.Module, path: str) -> Iterator[tuple[str, Tensor]]:
    if not parametrize.is_parametrized(module):
        return
    lists = module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    for name, found in list(lists.items()):
        parts = list(found.children())
        ours = [part for part in parts if isinstance(part, LearnedMask)]
        if not ours:
            continue
        if len(parts) > 1:
            kinds = ", ".join(type(part).__name__ for part in parts)
            raise ConfigError(
                f"finalize_: {path}.{name} has the parametrizations {kinds}; expected ours alone. "
                "Remove the others first"
            )
        (part,) = ours
        training = module.training
        module.eval()
        shape = getattr(module, name).shape
        mask = part.kept().reshape(shape).clone()
        _take_own_class(module)
        parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        module.train(training)
        part.thaw(module, name)
        yield name, mask


def _take_own_class(module: nn.Module) -> None:
    # A deep copy shares the class that torch made for its original, and removing a parametrization
    # takes the property away from that class: the original would be without its weight.
    shared = type(module)
    own = {n: v for n, v in vars(shared).items() if n not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, own)


def _from_layer(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    if isinstance(module, LearnedLayer):
        yield from module.to_plain_()
