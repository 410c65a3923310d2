"""How alike the attention of layers is, and which neighbours could have one map."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError, did_you_mean
from tersor.core.feeding import feed
from tersor.share.shared_attention import AttentionSource, SharedAttention


def map_divergence(one: Tensor, other: Tensor) -> Tensor:
    """Jensen-Shannon divergence of distributions over the last dimension: 0 to log 2.

    JS(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2

    Source: Lin 1991, IEEE Trans. Information Theory 37(1), in nats.

    >>> p, q = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    >>> map_divergence(p, q)
    tensor([0.6931, 0.0000])
    """
    mixed, first, second = (torch.special.entr(p).sum(-1) for p in ((one + other) / 2, one, other))
    divergence: Tensor = (mixed - (first + second) / 2).clamp(min=0)
    return divergence


def attention_similarity(
    model: nn.Module,
    data: Iterable[Any],
    *,
    batches: int | None = None,
    layers: Sequence[str] | None = None,
) -> tuple[list[str], Tensor]:
    """1 - JS of the attention of each two layers, a mean over heads, queries and samples.

    Args:
        model: looked at in eval mode; left as it was.
        data: batches, as `tersor.core.feeding.feed` takes them; the first `batches` of them.
        layers: names of the attentions that are compared; None: all that could share a map.

    Returns:
        The names in the order in which they are called, and (L, L) float64. It is NaN
        for two attentions of different stacks, whose names differ in more than their numbers.

    Raises:
        ConfigError: no layer can be compared, a name is unknown, or there is no batch.

    Source: Xiao, Li, Zhu, Yu and Liu 2019, arXiv 1906.11024.

    >>> layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    >>> model = nn.Sequential(layer, nn.TransformerEncoderLayer(8, 2, 8, batch_first=True))
    >>> names, similarity = attention_similarity(model, [torch.randn(3, 5, 8)])
    >>> names, similarity.shape, bool(similarity[0, 1] < similarity[0, 0])
    (['0.self_attn', '1.self_attn'], torch.Size([2, 2]), True)
    """
    found, skipped = attentions(model, layers)
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
        raise ConfigError(
            f"{type(model).__name__} has no attention that could share a map ({reasons or 'none'})"
        )
    place = {name: index for index, name in enumerate(found)}
    sums = torch.zeros(len(found), len(found), dtype=torch.float64)
    counts = torch.zeros_like(sums)
    order: list[str] = []
    maps: dict[str, Tensor] = {}

    def add(*_: object) -> None:
        """After a batch: every two maps of it."""
        for a, one in maps.items():
            for b, other in maps.items():
                if _stack(a) == _stack(b) and one.shape == other.shape:
                    rows = map_divergence(one, other).double()
                    rows = rows[rows.isfinite()]  # a query that sees nothing has no map
                    sums[place[a], place[b]] += float(rows.sum())
                    counts[place[a], place[b]] += rows.numel()
        order.extend(name for name in maps if name not in order)
        maps.clear()

    handle = model.register_forward_hook(add)
    try:
        with _watching(found, maps):
            feed(model, data, batches=batches)
    finally:
        handle.remove()
    kept = torch.tensor([place[name] for name in order], dtype=torch.int64)
    return order, (1 - sums / counts)[kept][:, kept]


def neighbour_groups(similarity: Tensor, threshold: float = 0.9) -> list[int]:
    """The group of each layer: a layer joins the one before while all in it are alike enough.

    Args:
        similarity: (L, L), as `attention_similarity` gives it.
        threshold: what the mean over the pairs of a group has to exceed.

    Source: as `attention_similarity`; they tune the threshold on validation data.

    >>> neighbour_groups(torch.tensor([[1, 0.95, 0.8], [0.95, 1, 0.9], [0.8, 0.9, 1]]), 0.9)
    [0, 0, 1]
    """
    groups: list[int] = []
    start = 0
    for place in range(len(similarity)):
        if not mean_of_pairs(similarity, range(start, place + 1)) > threshold:  # or NaN
            start = place
        groups.append(groups[-1] + (start == place) if groups else 0)
    return groups


def mean_of_pairs(similarity: Tensor, places: Sequence[int]) -> float:
    """The mean over each two of these layers; 1 where there is but one."""
    chosen = similarity[list(places)][:, list(places)]
    pairs = chosen[~torch.eye(len(chosen), dtype=torch.bool)]
    return float(pairs.mean()) if len(pairs) else 1.0


def attentions(
    model: nn.Module, layers: Sequence[str] | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The attentions with a map of their own that others could share; and why others have none.

    Raises:
        ConfigError: a name is unknown, or it is that of no attention.
    """
    kinds = (nn.MultiheadAttention, AttentionSource, SharedAttention)
    all_of = {name: m for name, m in model.named_modules() if isinstance(m, kinds)}
    for name in layers or ():
        if name not in all_of:
            raise ConfigError(f"layers: {name!r} is no attention; {did_you_mean(name, all_of)}")
    found: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name in all_of if layers is None else layers:
        reason = _why_not(model, name, all_of[name])
        if reason:
            skipped[name] = reason
        else:
            found[name] = all_of[name]
    return found, skipped


def _why_not(model: nn.Module, name: str, module: nn.Module) -> str:
    if isinstance(module, AttentionSource):
        return ""
    if isinstance(module, SharedAttention):
        return "it has the map of another layer already"
    if type(module) is not nn.MultiheadAttention:
        return f"{type(module).__name__} may do more than torch's own attention"
    if not name:
        return "the model is this attention itself"
    if module.in_proj_weight is None:
        return "its keys or values are of another width than its queries"
    if module.bias_k is not None or module.add_zero_attn:
        return "add_bias_kv and add_zero_attn add a place to its map"
    for own, parameter in module._parameters.items():
        owners = [m for m in model.modules() for p in m._parameters.values() if p is parameter]
        if parameter is not None and len(owners) > 1:
            return f"its {own} is tied: a map of its own would untie it"
    return ""


@contextlib.contextmanager
def _watching(found: dict[str, nn.Module], maps: dict[str, Tensor]) -> Iterator[None]:
    """While it lasts every call puts its map (N, heads, T, S) into `maps`."""

    def asked(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        given = {**dict(zip(_ARGUMENTS, args, strict=False)), **named}
        return (), {**given, "need_weights": True, "average_attn_weights": False}

    def take(name: str) -> Any:
        def hook(module: nn.Module, args: object, named: dict[str, Any], output: Any) -> None:
            if named["query"].shape == named["key"].shape:
                maps[name] = output[1]

        return hook

    with contextlib.ExitStack() as stack:
        for name, module in found.items():
            before = module.register_forward_pre_hook(asked, with_kwargs=True)
            after = module.register_forward_hook(take(name), with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
        yield


_ARGUMENTS = (
    "query",
    "key",
    "value",
    "key_padding_mask",
    "need_weights",
    "attn_mask",
    "average_attn_weights",
    "is_causal",
)


def _stack(name: str) -> str:
    """A name without its numbers, in which the layers of one stack differ."""
    return re.sub(r"\d+", "#", name)
