"""Controls: a ticket with another mask, or with other initial weights, and all else the same.

They say whether a ticket's mask, its weights, or only its number of weights makes it good.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.seeding import rng_state, set_rng_state
from tersor.prune.selection import highest

Initialiser = Callable[[nn.Module, torch.Generator], None]
"""Draws all parameters of a model anew, from the distribution of the first draw."""

MaskControl = Callable[[nn.Module, MaskSet, torch.Generator], MaskSet]
"""Other masks with as many weights; the model has its initial weights and is left alone."""

WeightControl = Callable[[nn.Module, MaskSet, torch.Generator, Initialiser], None]
"""The same masks over other initial weights: the model's are changed in place."""


def random_mask(model: nn.Module, masks: MaskSet, generator: torch.Generator) -> MaskSet:
    """As many weights of each tensor, drawn at random.

    Source: Frankle and Carbin 2019, arXiv 1803.03635, appendix E ("random sparsity").

    >>> masks = MaskSet({"weight": torch.arange(100).view(1, 100) < 30})
    >>> new = random_mask(nn.Linear(100, 1), masks, torch.Generator().manual_seed(0))
    >>> int(new["weight"].sum()), torch.equal(new["weight"], masks["weight"])
    (30, False)
    """
    return MaskSet({name: _shuffled(mask.cpu(), generator) for name, mask in masks.items()})


def random_global(model: nn.Module, masks: MaskSet, generator: torch.Generator) -> MaskSet:
    """As many weights of all tensors together, drawn at random.

    Raises:
        ConfigError: a tensor is left empty.
    """
    flat = _shuffled(torch.cat([mask.cpu().flatten() for mask in masks.values()]), generator)
    parts = torch.split(flat, [mask.numel() for mask in masks.values()])
    drawn = {}
    for (name, mask), part in zip(masks.items(), parts, strict=True):
        if not part.any():
            raise ConfigError(
                f"control random-global: {name!r} is left empty (0 of {mask.numel():,} weights). "
                "Use random-mask, or fewer rounds"
            )
        drawn[name] = part.view(mask.shape)
    return MaskSet(drawn)


def magnitude_at_init(model: nn.Module, masks: MaskSet, generator: torch.Generator) -> MaskSet:
    """As many weights of each tensor, those with the largest initial value."""
    return MaskSet(
        {
            name: highest(model.get_parameter(name).detach().abs().cpu(), int(mask.sum()))
            for name, mask in masks.items()
        }
    )


def random_reinit(
    model: nn.Module, masks: MaskSet, generator: torch.Generator, initialise: Initialiser
) -> None:
    """Draw all parameters anew.

    Source: Frankle and Carbin 2019, arXiv 1803.03635, section 2.
    """
    initialise(model, generator)


def redrawn(
    model: nn.Module, masks: MaskSet, generator: torch.Generator, initialise: Initialiser
) -> None:
    """Draw each weight from the initial values of those that the ticket kept in its tensor.

    Source: Frankle and Carbin 2019, arXiv 1803.03635, appendix F.
    """
    for weight, mask in _kept(model, masks):
        values = weight[mask]
        places = torch.randint(values.numel(), weight.shape, generator=generator)
        weight.copy_(values[places.to(weight.device)])


def reshuffled(
    model: nn.Module, masks: MaskSet, generator: torch.Generator, initialise: Initialiser
) -> None:
    """Permute the initial values of the kept weights within each tensor.

    Source: Zhou, Lan, Liu and Yosinski 2019, arXiv 1905.01067 (their mask-1 action
    "reshuffle").
    """
    for weight, mask in _kept(model, masks):
        order = torch.randperm(int(mask.sum()), generator=generator)
        weight[mask] = weight[mask][order.to(weight.device)]


def sign_kept(
    model: nn.Module, masks: MaskSet, generator: torch.Generator, initialise: Initialiser
) -> None:
    """Draw all parameters anew, but give each weight the sign of its initial value.

    Source: Zhou, Lan, Liu and Yosinski 2019, arXiv 1905.01067 (their mask-1 action
    "reinit, same sign").
    """
    signs = {name: model.get_parameter(name).detach().sign() for name in masks}
    initialise(model, generator)
    with torch.no_grad():
        for name, sign in signs.items():
            weight = model.get_parameter(name)
            weight.copy_(weight.abs() * sign)


def signed_constant(
    model: nn.Module, masks: MaskSet, generator: torch.Generator, initialise: Initialiser
) -> None:
    """The sign of each initial value, times the standard deviation of its tensor's.

    Source: Zhou, Lan, Liu and Yosinski 2019, arXiv 1905.01067 (their mask-1 action
    "constant, same sign").

    >>> model = nn.Linear(4, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, -1.0, 1.0, -3.0]]))
    >>> masks = MaskSet({"weight": torch.ones(1, 4, dtype=torch.bool)})
    >>> signed_constant(model, masks, torch.Generator(), reset_parameters)
    >>> model.weight.data.round(decimals=3)
    tensor([[ 2.2360, -2.2360,  2.2360, -2.2360]])
    """
    for weight, _ in _kept(model, masks):
        weight.copy_(weight.sign() * weight.std(correction=0))


def noisy(
    model: nn.Module,
    masks: MaskSet,
    generator: torch.Generator,
    initialise: Initialiser,
    *,
    strength: float,
) -> None:
    """Add noise to the initial weights: theta_0 + N(0, (strength * sigma)**2).

    sigma is the standard deviation of the tensor's initial values.

    Source: Frankle and Carbin 2019, arXiv 1803.03635, appendix F, with strengths 0.5 to 3.
    """
    for weight, _ in _kept(model, masks):
        noise = torch.randn(weight.shape, generator=generator).to(weight)
        weight.add_(noise * (strength * weight.std(correction=0)))


def reset_parameters(model: nn.Module, generator: torch.Generator) -> None:
    """Draw all parameters as PyTorch does when it builds the modules.

    The global generators are afterwards as they were.

    Raises:
        ConfigError: a module has parameters of its own and no `reset_parameters`.
    """
    state = rng_state()
    try:
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for name, module in model.named_modules():
            if not any(True for _ in module.parameters(recurse=False)):
                continue
            reset = getattr(module, "reset_parameters", None)
            if not callable(reset):
                raise ConfigError(
                    f"control: {name!r} ({type(module).__name__}) has no reset_parameters, so its "
                    "parameters cannot be drawn anew; expected initialise=, a function of the "
                    "model and a generator"
                )
            reset()
    finally:
        set_rng_state(state)


MASK_CONTROLS: dict[str, MaskControl] = {
    "random-mask": random_mask,
    "random-global": random_global,
    "magnitude-at-init": magnitude_at_init,
}
"""Name to a control that changes the mask."""

WEIGHT_CONTROLS: dict[str, WeightControl] = {
    "random-reinit": random_reinit,
    "redrawn": redrawn,
    "reshuffled": reshuffled,
    "sign-kept": sign_kept,
    "signed-constant": signed_constant,
    "noise-0.5": partial(noisy, strength=0.5),
    "noise-1": partial(noisy, strength=1.0),
    "noise-2": partial(noisy, strength=2.0),
    "noise-3": partial(noisy, strength=3.0),
}
"""Name to a control that changes the initial weights."""

CONTROLS: tuple[str, ...] = (*MASK_CONTROLS, *WEIGHT_CONTROLS)
"""The names of all controls."""


def _kept(model: nn.Module, masks: MaskSet) -> list[tuple[Tensor, Tensor]]:
    """Each weight under a mask, free to be written, with its mask on the same device."""
    weights = [(model.get_parameter(name).detach(), mask) for name, mask in masks.items()]
    return [(weight, mask.to(weight.device)) for weight, mask in weights]


def _shuffled(mask: Tensor, generator: torch.Generator) -> Tensor:
    return mask.flatten()[torch.randperm(mask.numel(), generator=generator)].view(mask.shape)
