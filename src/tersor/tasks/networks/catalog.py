"""The reference networks by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from tersor.core.errors import ConfigError, did_you_mean
from tersor.tasks.networks.convolutional import conv
from tersor.tasks.networks.language import transformer_lm
from tersor.tasks.networks.lenet import lenet_5, lenet_300_100
from tersor.tasks.networks.mlp import mlp
from tersor.tasks.networks.recurrent import recurrent
from tersor.tasks.networks.resnet import resnet
from tersor.tasks.networks.transformer import transformer
from tersor.tasks.networks.vgg import VGG_16, VGG_16_SMALL, VGG_19, vgg
from tersor.tasks.networks.wide_resnet import wide_resnet

MODELS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {
    "lenet-300-100": lenet_300_100,
    "lenet-5": lenet_5,
    "mlp-3": partial(mlp, widths=(100,) * 2),
    "mlp-5": partial(mlp, widths=(100,) * 4),
    "mlp-7": partial(mlp, widths=(100,) * 6),
    "conv-2": partial(conv, layers=2),
    "conv-4": partial(conv, layers=4),
    "conv-6": partial(conv, layers=6),
    "vgg-16": partial(vgg, blocks=VGG_16),
    "vgg-19": partial(vgg, blocks=VGG_19),
    "vgg-like": partial(vgg, blocks=VGG_16, hidden=(512,)),
    "vgg-c": partial(vgg, blocks=VGG_16, hidden=(512, 512), pointwise=True),
    "vgg-d": partial(vgg, blocks=VGG_16, hidden=(512, 512)),
    "vgg-small": partial(vgg, blocks=VGG_16_SMALL),
    "resnet-8": partial(resnet, depth=8),
    "resnet-20": partial(resnet, depth=20),
    "resnet-32": partial(resnet, depth=32),
    "resnet-56": partial(resnet, depth=56),
    "wrn-16-2": partial(wide_resnet, depth=16, widen=2),
    "wrn-16-8": partial(wide_resnet, depth=16, widen=8),
    "wrn-16-10": partial(wide_resnet, depth=16, widen=10),
    "wrn-22-8": partial(wide_resnet, depth=22, widen=8),
    "lstm-s": partial(recurrent, cell=nn.LSTM, units=128),
    "lstm-b": partial(recurrent, cell=nn.LSTM, units=256),
    "gru-s": partial(recurrent, cell=nn.GRU, units=128),
    "gru-b": partial(recurrent, cell=nn.GRU, units=256),
    "transformer": transformer,
    "transformer-lm": transformer_lm,
}
"""Name of a network to the function that builds it, called with input shape and classes."""

LANGUAGE_MODELS = frozenset({"transformer-lm"})
"""Those that read token numbers, and tell the token after each."""


def build_model(
    name: str, *, input_shape: tuple[int, ...] = (1, 28, 28), classes: int = 10
) -> nn.Module:
    """Build a network by name, with PyTorch's default initialisation.

    Args:
        name: a key of `MODELS`.
        input_shape: of one sample, (channels, height, width), or (tokens,) for a text.
        classes: how many logits come out.

    Raises:
        ConfigError: there is no network of this name, or it cannot take this input.

    >>> sum(p.numel() for p in build_model("lenet-5").parameters())
    431080
    """
    if name not in MODELS:
        raise ConfigError(f"build_model: unknown model {name!r}; {did_you_mean(name, MODELS)}")
    shape = tuple(input_shape)
    if not shape or min(shape) < 1:
        raise ConfigError(f"build_model: input_shape {shape}, expected sides of 1 or more")
    if classes < 1:
        raise ConfigError(f"build_model: classes {classes}, expected 1 or more")
    return MODELS[name](shape, classes)
