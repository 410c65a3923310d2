"""Reference networks of the compression literature: one file a family, and all of them by name."""

from tersor.tasks.networks.catalog import LANGUAGE_MODELS, MODELS, build_model
from tersor.tasks.networks.convolutional import conv
from tersor.tasks.networks.language import transformer_lm
from tersor.tasks.networks.lenet import lenet_5, lenet_300_100
from tersor.tasks.networks.mlp import mlp
from tersor.tasks.networks.recurrent import recurrent
from tersor.tasks.networks.resnet import resnet
from tersor.tasks.networks.transformer import transformer
from tersor.tasks.networks.vgg import vgg
from tersor.tasks.networks.wide_resnet import wide_resnet

__all__ = [
    "LANGUAGE_MODELS",
    "MODELS",
    "build_model",
    "conv",
    "lenet_5",
    "lenet_300_100",
    "mlp",
    "recurrent",
    "resnet",
    "transformer",
    "transformer_lm",
    "vgg",
    "wide_resnet",
]
