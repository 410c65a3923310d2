"""Layers whose weights are mixtures of a few templates that they share.

W_l = sum_j coefficients_lj * templates_j,   L weights of n numbers become k * n + L * k
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.report import Report, Value
from tersor.core.seeding import generator
from tersor.core.weights import Selectors, Weight, survey


def mixture(layer: Any) -> Tensor:
    """The weight that a layer of templates computes with."""
    weight: Tensor = torch.tensordot(layer.coefficients, layer.templates, dims=1)
    return weight


def _extra(layer: Any) -> str:
    return f"templates={len(layer.templates)}"


# As hashed layers are: torch's layer but for its weight, which is a property. The templates are one
# parameter of several layers; the coefficients are each layer's own.


class TemplateLinear(nn.Linear):
    """A linear layer with `templates` (k, out, in), shared, and `coefficients` (k,)."""

    weight_kinds: ClassVar[dict[str, str]] = {"templates": "templates"}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {_extra(self)}"

    if not TYPE_CHECKING:  # for the type checker it is the tensor that torch says it is
        weight = property(mixture)


class TemplateConv1d(nn.Conv1d):
    """A convolution with `templates` (k, out, in, width), shared, and `coefficients` (k,)."""

    weight_kinds: ClassVar[dict[str, str]] = {"templates": "templates"}

    def extra_repr(self) -> str:
        plain: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{plain}, {_extra(self)}"

    if not TYPE_CHECKING:
        weight = property(mixture)


class TemplateConv2d(nn.Conv2d):
    """A convolution with `templates` (k, out, in, *kernel), shared, and `coefficients` (k,)."""

    weight_kinds: ClassVar[dict[str, str]] = {"templates": "templates"}

    def extra_repr(self) -> str:
        plain: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{plain}, {_extra(self)}"

    if not TYPE_CHECKING:
        weight = property(mixture)


TEMPLATED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: TemplateLinear,
    nn.Conv1d: TemplateConv1d,
    nn.Conv2d: TemplateConv2d,
}
"""Which type of layer becomes which."""

STARTS = ("keep", "fresh")


def share_templates_(
    model: nn.Module,
    templates: int | None = None,
    *,
    start: str = "keep",
    seed: int = 0,
    select: Selectors = None,
    ignore: Selectors = None,
) -> Report:
    """Let layers of one type and shape mix their weights from k shared templates, in place.

    Biases, strides and paddings stay each layer's own. Make the optimizer afterwards.

    Args:
        model: changed in place. Each set of layers of one type and weight shape is a group.
        templates: k of each group, 1 to its number of layers L; None: half of them, rounded up.
        start: "keep": the templates and coefficients that are nearest to the weights in least
            squares, by a singular value decomposition (with k = L: the weights themselves, and
            the identity); "fresh", before training: k of the layers' weights, and the rows of a
            random orthogonal matrix, each of norm 1, so that the variance stays.
        seed: of "fresh".
        select, ignore: which weights take part, as in `tersor.core.prunable`.

    Returns:
        A report; "rms error" is that of the mixtures against the weights before.

    Raises:
        ConfigError: no two layers are alike, or k is more than the layers of a group.

    Source: Savarese and Maire 2019, arXiv 1902.09701, section 3; the start from trained weights is
        ours, and rows of norm 1 (theirs are of the orthogonal matrix as it is).

    >>> model = nn.Sequential(*[nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)])
    >>> report = share_templates_(model, 2)
    >>> report.summary["weights"], report.summary["numbers"]  # 4 * 576, 2 * 576 + 4 * 2
    (2304, 1160)
    """
    if start not in STARTS:
        raise ConfigError(f"start: {start!r}; expected one of {', '.join(STARTS)}")
    weights, skipped = survey(model, select=select, ignore=ignore)
    groups: dict[tuple[type[nn.Module], torch.Size, torch.dtype], list[Weight]] = {}
    for weight in weights:
        if type(weight.module) not in TEMPLATED:
            known = ", ".join(kind.__name__ for kind in TEMPLATED)
            skipped[weight.name] = f"of {type(weight.module).__name__}; expected {known}"
        elif weight.aliases:
            skipped[weight.name] = f"tied with {weight.aliases[0]}: it is one weight already"
        else:
            key = (type(weight.module), weight.shape, weight.parameter.dtype)
            groups.setdefault(key, []).append(weight)
    for key in [key for key, group in groups.items() if len(group) < 2]:
        (alone,) = groups.pop(key)
        skipped[alone.name] = "no other layer has its type and shape"
    if not groups:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
        raise ConfigError(f"share_templates_: no two layers are alike ({reasons})")
    chosen = [_number(templates, group) for group in groups.values()]
    rows: list[dict[str, Value]] = []
    for number, group in zip(chosen, groups.values(), strict=True):
        before = [weight.parameter.detach() for weight in group]
        bank, mixing = _fit(before, number, start, seed, group[0].name)
        to_templates_([weight.module for weight in group], bank, mixing)
        for weight, old in zip(group, before, strict=True):
            difference = (mixture(weight.module).detach() - old).double()
            rows.append(
                {
                    "name": weight.name,
                    "shape": "x".join(map(str, weight.shape)),
                    "group": group[0].name,
                    "layers": len(group),
                    "templates": number,
                    "rms error": float(difference.square().mean().sqrt()),
                }
            )
    summary: dict[str, Value] = {
        "weights": sum(w.parameter.numel() for group in groups.values() for w in group),
        "numbers": sum(
            k * group[0].parameter.numel() + k * len(group)
            for k, group in zip(chosen, groups.values(), strict=True)
        ),
        "start": start,
    }
    return Report("Weights from templates", summary, rows, skipped)


def parallel_layers(model: nn.Module, cosine: float = 0.99) -> list[list[str]]:
    """Groups of layers of templates whose coefficients are nearly parallel.

    Such layers compute nearly the same up to a factor, so one of them could run in a loop; the
    groups are grown greedily, each layer joining the first group to whose first layer it is near.

    Args:
        cosine: the least |cosine| of the angle between coefficients.

    Source: as `share_templates_`, section 3.1, their layer similarity matrix; 0.99 as theirs.

    >>> model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)])
    >>> _ = share_templates_(model, 2)
    >>> _ = model[2].coefficients.data.copy_(-2 * model[0].coefficients.data)
    >>> parallel_layers(model)
    [['0', '2']]
    """
    groups: list[tuple[Any, list[str]]] = []
    for name, layer in model.named_modules():
        if type(layer) not in TEMPLATED.values():
            continue
        for first, names in groups:
            if first.templates is layer.templates and _cosine(first, layer) >= cosine:
                names.append(name)
                break
        else:
            groups.append((layer, [name]))
    return [names for _, names in groups if len(names) > 1]


def template_groups(model: nn.Module) -> list[list[str]]:
    """The names of the layers of each bank of templates."""
    groups: dict[int, list[str]] = {}
    for name, layer in model.named_modules():
        if type(layer) in TEMPLATED.values():
            groups.setdefault(id(layer.templates), []).append(name)
    return list(groups.values())


def to_templates_(layers: Iterable[nn.Module], bank: Tensor, mixing: Tensor) -> None:
    """Give plain layers these templates (k, *shape), as one parameter, and coefficients (L, k)."""
    shared = nn.Parameter(bank)
    for layer, coefficients in zip(layers, mixing, strict=True):
        layer.__class__ = TEMPLATED[type(layer)]
        del layer._parameters["weight"]
        own = nn.Parameter(coefficients.clone())
        layer._parameters = {"templates": shared, "coefficients": own, **layer._parameters}


def to_plain_(layer: Any) -> None:
    """Make a layer of templates the plain layer of torch with the same weight, in place."""
    weight = nn.Parameter(mixture(layer).detach())
    layer.__class__ = next(plain for plain, ours in TEMPLATED.items() if ours is type(layer))
    del layer.templates, layer.coefficients
    layer._parameters = {"weight": weight, **layer._parameters}


def _number(templates: int | None, group: list[Weight]) -> int:
    number = math.ceil(len(group) / 2) if templates is None else templates
    if not 1 <= number <= len(group):
        raise ConfigError(
            f"templates: {number}; expected 1 to {len(group)}, the layers that are like "
            f"{group[0].name!r}"
        )
    return number


def _fit(
    weights: list[Tensor], number: int, start: str, seed: int, name: str
) -> tuple[Tensor, Tensor]:
    """Templates and coefficients to begin with."""
    stack = torch.stack(weights)
    if start == "keep" and number == len(weights):
        return stack, torch.eye(number, dtype=stack.dtype, device=stack.device)
    if start == "keep":
        left, values, right = torch.linalg.svd(stack.flatten(1).double(), full_matrices=False)
        bank = values[:number, None] * right[:number]
        return bank.to(stack.dtype).view(number, *stack.shape[1:]), left[:, :number].to(stack.dtype)
    random = generator(seed, "templates", name)
    chosen = torch.randperm(len(weights), generator=random)[:number]
    square = torch.randn(len(weights), len(weights), generator=random, dtype=torch.float64)
    rows = torch.linalg.qr(square).Q[:, :number]
    rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return stack[chosen.to(stack.device)].clone(), rows.to(stack)


def _cosine(one: Any, other: Any) -> float:
    a, b = one.coefficients.detach().double(), other.coefficients.detach().double()
    return float((a @ b).abs() / (a.norm() * b.norm()).clamp(min=torch.finfo(a.dtype).tiny))
