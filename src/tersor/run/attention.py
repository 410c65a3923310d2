"""Multi-head attention whose projections are deployed layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from tersor.core.errors import ConfigError
from tersor.run.deployed import Deployed
from tersor.run.layers import DeployedLinear

Project = Callable[[str, int, int, Tensor | None], DeployedLinear]
"""Makes a projection from the rows first to last - 1 of a named weight, and its bias."""


def why_not(attention: nn.MultiheadAttention) -> str:
    """The reason why this attention stays as it is, or ""."""
    if attention.bias_k is not None or attention.add_zero_attn:
        return "keys with a bias or a zero position"
    return ""


class DeployedAttention(Deployed):
    """`nn.MultiheadAttention` in eval mode.

    Shapes: as `nn.MultiheadAttention`, batched or not, in the same order of batch and sequence.
    """

    # nn.TransformerEncoderLayer asks for it before it takes the dense weights out of its layers.
    in_proj_bias = None

    def __init__(
        self, name: str, kernel: str, attention: nn.MultiheadAttention, project: Project
    ) -> None:
        super().__init__(name, kernel)
        self.embed_dim, self.num_heads = attention.embed_dim, attention.num_heads
        self.head_dim = attention.head_dim
        self.batch_first = attention.batch_first
        bias = attention.in_proj_bias
        parts = [None] * 3 if bias is None else list(bias.chunk(3))
        width = self.embed_dim
        if attention._qkv_same_embed_dim:
            weight = "in_proj_weight"
            self.query = project(weight, 0, width, parts[0])
            self.key = project(weight, width, 2 * width, parts[1])
            self.value = project(weight, 2 * width, 3 * width, parts[2])
        else:
            self.query = project("q_proj_weight", 0, width, parts[0])
            self.key = project("k_proj_weight", 0, width, parts[1])
            self.value = project("v_proj_weight", 0, width, parts[2])
        self.out_proj = project("out_proj.weight", 0, width, attention.out_proj.bias)

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
            ConfigError: an input of another dtype, device or width, or `is_causal` without a mask.
        """
        if is_causal and attn_mask is None:
            raise ConfigError(f"{self.name}: is_causal needs attn_mask, as in torch")
        batched = query.dim() == 3
        if batched and not self.batch_first:
            same = query is key, key is value
            query = query.transpose(0, 1)
            key = query if same[0] else key.transpose(0, 1)
            value = key if same[1] else value.transpose(0, 1)
        projected = (self.query(query), self.key(key), self.value(value))
        q, k, v = (self._heads(t) for t in projected)  # (N, heads, L, head_dim)
        mask = self._mask(attn_mask, key_padding_mask, q)
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            heads = weights @ v
        else:
            heads = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = self.out_proj(heads.transpose(1, 2).flatten(2))
        if not batched:
            out = out.squeeze(0)
        elif not self.batch_first:
            out = out.transpose(0, 1)
        if not need_weights:
            return out, None
        if average_attn_weights:
            weights = weights.mean(1)
        return out, weights if batched else weights.squeeze(0)

    def _heads(self, x: Tensor) -> Tensor:
        heads = (self.num_heads, self.head_dim)
        batch = 1 if x.dim() == 2 else x.shape[0]
        return x.reshape(batch, -1, *heads).transpose(1, 2)

    def _mask(
        self, attn_mask: Tensor | None, padding: Tensor | None, like: Tensor
    ) -> Tensor | None:
        """Both masks as one that is added to the scores, (N, heads, L, S) or broadcast to it."""
        mask = None if attn_mask is None else _added(attn_mask, like)
        if mask is not None and mask.dim() == 3:
            mask = mask.unflatten(0, (-1, self.num_heads))
        if padding is not None:
            padding = _added(padding.unsqueeze(0) if padding.dim() == 1 else padding, like)
            padding = padding[:, None, None, :]
            mask = padding if mask is None else mask + padding
        return mask


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask of bools (True = left out) as numbers to be added."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))
