"""Attention whose map, softmax(Q K^T / sqrt(d)), other layers use again instead of their own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError


class AttentionSource(nn.Module):
    """Multi-head self-attention that leaves its map to the layers that share it.

    It computes what the `nn.MultiheadAttention` did that it is made of, and takes the same
    arguments; the three projections are one linear layer.

    Args:
        attention: with queries, keys and values of one width.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        _take_(self, attention)
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        self.in_proj = _linear(weight, bias)
        self.dropout = attention.dropout
        self.followers = 0
        self._map: Tensor | None = None
        self._uses = 0

    def take(self) -> Tensor | None:
        """The map of the last call, once for each follower: after the last its memory is free."""
        weights, self._uses = self._map, self._uses - 1
        if self._uses <= 0:
            self._map = None
        return weights

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`.

        Raises:
            ConfigError: queries, keys and values are not one sequence, or `is_causal` is given
                without a mask.
        """
        if query is not key or key is not value:
            raise ConfigError("shared attention: expected one sequence as query, key and value")
        if is_causal and attn_mask is None:
            raise ConfigError("is_causal needs attn_mask, as in torch")
        inputs = _batched(self, query)
        q, k, v = (_heads(self, x) for x in self.in_proj(inputs).chunk(3, dim=-1))
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)  # (N, heads, T, T)
        scores = _masked(scores, attn_mask, key_padding_mask)
        weights = torch.dropout(scores.softmax(-1), self.dropout, self.training)
        self._map, self._uses = (weights if self.followers else None), self.followers
        return _output(self, weights, v, query), _told(
            weights, query, need_weights, average_attn_weights
        )

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}"


class SharedAttention(nn.Module):
    """Attention with the map of another layer: values and outputs are its own.

    Takes the arguments of `nn.MultiheadAttention`, of which it uses `value` alone; masks are those
    of the source's call.

    Args:
        attention: what it is made of, its queries and keys are dropped.
        source: whose map it uses; called before it in every pass.
    """

    def __init__(
        self, attention: nn.MultiheadAttention | AttentionSource, source: AttentionSource
    ) -> None:
        super().__init__()
        _take_(self, attention)
        if isinstance(attention, AttentionSource):
            weight, bias = attention.in_proj.weight, attention.in_proj.bias
        else:
            weight, bias = attention.in_proj_weight, attention.in_proj_bias
        own = slice(2 * len(weight) // 3, None)  # after queries and keys
        self.v_proj = _linear(weight[own], None if bias is None else bias[own])
        self._source: tuple[AttentionSource, ...] = ()  # as a module it would be registered twice
        self.follow(source)

    def follow(self, source: AttentionSource) -> None:
        """Use the map of this source from now on."""
        if source not in self._source:
            self._source = (source,)
            source.followers += 1

    @property
    def source(self) -> AttentionSource:
        """The layer whose map it uses."""
        return self._source[0]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`, with the map of the source's last call.

        Raises:
            ConfigError: the source was not called in this pass, or on a sequence of other length.
        """
        weights = self.source.take()
        inputs = _batched(self, value)
        if weights is None or weights.shape[::3] != inputs.shape[:2]:
            seen = "none" if weights is None else tuple(weights.shape)
            raise ConfigError(
                f"shared attention: inputs (N, T) = {tuple(inputs.shape[:2])}, but the map of its "
                f"source is {seen}; the source has to be called on the same samples before it"
            )
        v = _heads(self, self.v_proj(inputs))
        return _output(self, weights, v, value), _told(
            weights, value, need_weights, average_attn_weights
        )

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}"


def _take_(module: Any, attention: Any) -> None:
    """Take what both kinds have of an attention."""
    module.embed_dim, module.num_heads = attention.embed_dim, attention.num_heads
    module.batch_first = attention.batch_first
    module.out_proj = attention.out_proj
    # What nn.TransformerEncoderLayer asks for before it takes its fused form, which it must not.
    module.in_proj_bias = None
    module._qkv_same_embed_dim = True
    module.train(attention.training)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer with copies of these values."""
    rows, columns = weight.shape
    made = nn.utils.skip_init(
        nn.Linear, columns, rows, bias is not None, device=weight.device, dtype=weight.dtype
    )
    with torch.no_grad():
        made.weight.copy_(weight)
        made.weight.requires_grad_(weight.requires_grad)
        if bias is not None:
            made.bias.copy_(bias)
            made.bias.requires_grad_(bias.requires_grad)
    return made  # type: ignore[no-any-return]


def _batched(module: Any, x: Tensor) -> Tensor:
    """(N, T, width) from what `batch_first` and a missing batch dimension make of it."""
    if x.dim() == 2:
        return x[None]
    return x if module.batch_first else x.transpose(0, 1)


def _heads(module: Any, x: Tensor) -> Tensor:
    """(N, T, width) -> (N, heads, T, width / heads)."""
    split: Tensor = x.unflatten(-1, (module.num_heads, -1))
    return split.transpose(1, 2)


def _output(module: Any, weights: Tensor, v: Tensor, like: Tensor) -> Tensor:
    """What comes out, in the order of dimensions in which inputs came in."""
    out: Tensor = module.out_proj((weights @ v).transpose(1, 2).flatten(2))
    if like.dim() == 2:
        return out[0]
    return out if module.batch_first else out.transpose(0, 1)


def _told(weights: Tensor, like: Tensor, needed: bool, averaged: bool) -> Tensor | None:
    """The map as the caller wants it."""
    if not needed:
        return None
    shown = weights.mean(1) if averaged else weights
    return shown[0] if like.dim() == 2 else shown


def _masked(scores: Tensor, mask: Tensor | None, padding: Tensor | None) -> Tensor:
    """Scores (N, heads, T, S) with both masks of torch; True is what is not seen."""
    if mask is not None:  # (T, S) or (N * heads, T, S)
        scores = _hidden(scores, mask if mask.dim() == 2 else mask.unflatten(0, scores.shape[:2]))
    if padding is not None:  # (N, S), or (S,) without a batch
        scores = _hidden(scores, padding.reshape(-1, 1, 1, padding.shape[-1]))
    return scores


def _hidden(scores: Tensor, mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return scores.masked_fill(mask, -torch.inf)
    return scores + mask
