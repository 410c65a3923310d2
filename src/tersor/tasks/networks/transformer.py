"""A small transformer that classifies images by their rows."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.tasks.networks.images import image_sides, rows


def transformer(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    width: int = 32,
    heads: int = 4,
    hidden: int = 64,
    layers: int = 3,
) -> nn.Module:
    """Each row is a token: linear map plus learned positions, encoder layers, mean, logits.

    27,850 parameters for MNIST. Heads are those of `layer1.self_attn` and so on, each of
    `width / heads` dimensions.

    Shapes: (N, C, H, W) -> (N, classes); H tokens of C * W numbers.

    Args:
        input_shape: of one sample, (channels, height, width).
        classes: how many logits come out.
        width: numbers that stand for a token.
        heads: attention heads of each layer.
        hidden: units between the two maps that follow attention.
        layers: how many of both.

    Source: Vaswani et al. 2017, arXiv 1706.03762, the encoder, with layer norm first (Xiong et
    al. 2020, arXiv 2002.04745) and without dropout.

    Raises:
        ConfigError: the input is no image, or the heads do not part the width.
    """
    channels, height, image_width = image_sides("transformer", input_shape)
    if width % heads:
        raise ConfigError(f"transformer: {heads} heads do not part a width of {width}")
    return RowTransformer(
        height, channels * image_width, width, heads, hidden, layers, classes=classes
    )


class RowTransformer(nn.Module):
    """The network of `transformer`, for `tokens` rows of `features` numbers."""

    def __init__(
        self,
        tokens: int,
        features: int,
        width: int,
        heads: int,
        hidden: int,
        layers: int,
        *,
        classes: int,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        # nn.TransformerEncoder would copy one layer, so that all of them start with equal weights.
        self.encoder = nn.Sequential(
            OrderedDict(
                (
                    f"layer{number}",
                    nn.TransformerEncoderLayer(
                        width, heads, hidden, dropout=0.0, batch_first=True, norm_first=True
                    ),
                )
                for number in range(1, layers + 1)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.encoder(self.embed(rows(x)) + self.positions)  # (N, H, width)
        logits: Tensor = self.fc(self.norm(tokens).mean(dim=1))
        return logits
