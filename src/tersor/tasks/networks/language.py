"""A small transformer that tells the next token of a text."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError


def transformer_lm(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    width: int = 128,
    heads: int = 4,
    hidden: int = 512,
    layers: int = 2,
) -> nn.Module:
    """Embedding plus learned positions, encoder layers that see no later token, logits.

    2.96 million parameters for 10,000 words: 1.28 million each to read and to write them.

    Shapes: (N, T) token numbers -> (N, classes, T).

    Args:
        input_shape: (T,), the most tokens of a sample.
        classes: the size of the vocabulary.
        width: numbers that stand for a token.
        heads: attention heads of each layer.
        hidden: units between the two maps that follow attention.
        layers: how many of both.

    Source: Radford et al. 2019, Language models are unsupervised multitask learners, far smaller,
    without dropout; the output layer is not tied to the embedding (`tersor.share.tie_` does that).

    Raises:
        ConfigError: the input is no sequence of tokens, or the heads do not part the width.
    """
    if len(input_shape) != 1:
        raise ConfigError(
            f"transformer-lm: input_shape {tuple(input_shape)}, expected (tokens,): it reads texts"
        )
    if width % heads:
        raise ConfigError(f"transformer-lm: {heads} heads do not part a width of {width}")
    return TransformerLM(input_shape[0], classes, width, heads, hidden, layers)


class TransformerLM(nn.Module):
    """The network of `transformer_lm`, for at most `tokens` tokens of a vocabulary."""

    def __init__(
        self, tokens: int, vocabulary: int, width: int, heads: int, hidden: int, layers: int
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.encoder = nn.ModuleDict(
            OrderedDict(
                (
                    f"layer{number}",
                    nn.TransformerEncoderLayer(
                        width,
                        heads,
                        hidden,
                        dropout=0.0,
                        activation="gelu",
                        batch_first=True,
                        norm_first=True,
                    ),
                )
                for number in range(1, layers + 1)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, vocabulary, bias=False)
        self.register_buffer(
            "later", torch.full((tokens, tokens), -torch.inf).triu(1), persistent=False
        )

    def forward(self, tokens: Tensor) -> Tensor:
        count = tokens.shape[1]
        hidden = self.embed(tokens) + self.positions[:count]  # (N, T, width)
        later = self.get_buffer("later")[:count, :count]
        for layer in self.encoder.values():
            hidden = layer(hidden, src_mask=later, is_causal=True)
        logits: Tensor = self.fc(self.norm(hidden))  # (N, T, classes)
        return logits.transpose(1, 2)
