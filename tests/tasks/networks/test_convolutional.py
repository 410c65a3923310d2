import itertools

import pytest
import torch

from tersor.core.errors import ConfigError
from tersor.tasks import build_model
from tersor.tasks.networks import conv


def kinds(name: str) -> list[str]:
    with torch.device("meta"):
        model = build_model(name, input_shape=(3, 32, 32))
    return [type(layer).__name__.removesuffix("2d") for layer in model]


def test_pairs_of_convolutions_with_a_relu_each_are_pooled():
    pair = ["Conv", "ReLU", "Conv", "ReLU", "MaxPool"]
    head = ["Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    for pairs in (1, 2, 3):
        assert kinds(f"conv-{2 * pairs}") == pair * pairs + head


def test_filters_and_units_are_those_of_the_paper():
    # Frankle and Carbin 2019, figure 2: 64, 64, pool; 128, 128, pool; 256, 256, pool; 256, 256, 10
    with torch.device("meta"):
        model = build_model("conv-6", input_shape=(3, 32, 32))
    shapes = [tuple(p.shape) for p in model.parameters() if p.dim() > 1]
    filters = [3, 64, 64, 128, 128, 256, 256]
    convolutions = [(o, i, 3, 3) for i, o in itertools.pairwise(filters)]
    assert shapes == [*convolutions, (256, 256 * 4 * 4), (256, 256), (10, 256)]


@pytest.mark.parametrize("layers", [0, 3, -2])
def test_layers_that_are_no_pairs_are_refused(layers):
    with pytest.raises(ConfigError, match=f"conv: layers {layers}, expected 2, 4, 6"):
        conv((3, 32, 32), 10, layers=layers)
