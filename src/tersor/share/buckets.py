"""The parameters of a hashed layer, its buckets, and how the virtual weight comes from them.

V_i = sign(i) * buckets[h(i)],   dL/dbuckets_k = sum(sign(i) * dL/dV_i for all i with h(i) = k)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.seeding import generator
from tersor.share.mixing import signed_codes

Start = Callable[[Tensor, Tensor, int, int], Tensor]
"""Weights (n,), codes (n,), K and a seed to the first values of the buckets (K,)."""


def keep(values: Tensor, codes: Tensor, buckets: int, seed: int) -> Tensor:
    """The means of the signed weights of each bucket, which are nearest in least squares.

    A bucket without entries is 0.
    """
    exact = values.double()
    table = exact.new_zeros(2 * buckets).index_add_(0, codes, exact)
    counts = torch.bincount(codes % buckets, minlength=buckets)
    return ((table[:buckets] - table[buckets:]) / counts.clamp(min=1)).to(values.dtype)


def fresh(values: Tensor, codes: Tensor, buckets: int, seed: int) -> Tensor:
    """K of the weights, drawn by the seed: the virtual weights are distributed as they are."""
    drawn = torch.randperm(len(values), generator=generator(seed, "buckets"))[:buckets]
    return values[drawn.to(values.device)]


Hashed = Any
"""A hashed layer: a module with buckets, codes, hash_seed, virtual_shape and even."""

STARTS: dict[str, Start] = {"keep": keep, "fresh": fresh}


def virtual_weight(layer: Hashed) -> Tensor:
    """The weight that a hashed layer computes with; a gradient reaches its buckets."""
    table = torch.cat([layer.buckets, -layer.buckets])
    return table.index_select(0, layer.codes).view(layer.virtual_shape)


def take_buckets_(layer: Hashed, buckets: int, seed: int, even: bool, start: Start) -> None:
    """Give a layer, whose class has no weight of its own, buckets in place of its weight."""
    weight = layer._parameters.pop("weight")
    values = weight.detach().flatten()
    codes = signed_codes(len(values), buckets, seed, even=even, device=weight.device)
    first = nn.Parameter(start(values, codes, buckets, seed), weight.requires_grad)
    layer._parameters = {"buckets": first} | layer._parameters
    layer.virtual_shape, layer.even = weight.shape, even
    layer.register_buffer("hash_seed", torch.tensor(seed, device=weight.device))
    layer.register_buffer("codes", codes, persistent=False)
    layer.register_load_state_dict_post_hook(find_codes_)


def drop_buckets_(layer: Hashed) -> nn.Parameter:
    """Undo `take_buckets_`; the weight as a parameter, which the layer does not have yet."""
    weight = nn.Parameter(virtual_weight(layer).detach(), layer.buckets.requires_grad)
    del layer.buckets, layer.codes, layer.hash_seed, layer.virtual_shape, layer.even
    hooks = layer._load_state_dict_post_hooks
    for key in [key for key, hook in hooks.items() if hook is find_codes_]:
        del hooks[key]
    return weight


def find_codes_(layer: Hashed, keys: object = None) -> None:
    """Find the codes anew, as the seed may be one that was just loaded."""
    count, seed = layer.virtual_shape.numel(), int(layer.hash_seed)
    device = layer.buckets.device
    layer.codes = signed_codes(count, len(layer.buckets), seed, even=layer.even, device=device)


def bucket_count(weights: int, density: float) -> int:
    """ceil(weights * density), where 300 / 3 is 100.

    Raises:
        ConfigError: the density is out of range.

    >>> bucket_count(300, 1 / 3), bucket_count(10, 0.01)
    (100, 1)
    """
    if not 0 < density <= 1:
        raise ConfigError(f"density: {density}; expected 0 < density <= 1, buckets / weights")
    return math.ceil(round(weights * density, 6))
