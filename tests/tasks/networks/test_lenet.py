import pytest
import torch

from tersor.core.errors import ConfigError
from tersor.tasks import build_model


def shapes(model):
    return {name: tuple(p.shape) for name, p in model.named_parameters() if p.dim() > 1}


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_lenet_300_100_is_that_of_deep_compression():
    model = build_model("lenet-300-100")
    assert count(model) == 266_610
    assert shapes(model) == {
        "fc1.weight": (300, 784),
        "fc2.weight": (100, 300),
        "fc3.weight": (10, 100),
    }


def test_lenet_5_is_that_of_caffe():
    model = build_model("lenet-5")
    assert count(model) == 431_080
    assert shapes(model) == {
        "conv1.weight": (20, 1, 5, 5),
        "conv2.weight": (50, 20, 5, 5),
        "fc1.weight": (500, 800),
        "fc2.weight": (10, 500),
    }


def test_lenet_300_100_computes_three_matrix_products():
    torch.manual_seed(0)
    model = build_model("lenet-300-100").double()
    x = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    w = {name: p.detach() for name, p in model.named_parameters()}
    hidden = (x.reshape(3, 784) @ w["fc1.weight"].T + w["fc1.bias"]).clamp(min=0)
    hidden = (hidden @ w["fc2.weight"].T + w["fc2.bias"]).clamp(min=0)
    torch.testing.assert_close(model(x), hidden @ w["fc3.weight"].T + w["fc3.bias"])


def test_lenet_5_has_its_one_relu_behind_fc1():
    order = [type(layer).__name__ for layer in build_model("lenet-5")]
    convolutions = ["Conv2d", "MaxPool2d", "Conv2d", "MaxPool2d"]
    assert order == [*convolutions, "Flatten", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("lenet-300-100", (1, 8, 8), 10),
        ("lenet-300-100", (5,), 3),
        ("lenet-5", (1, 16, 16), 10),
        ("lenet-5", (3, 19, 32), 2),
    ],
)
def test_other_inputs_and_classes_fit(name, shape, classes):
    model = build_model(name, input_shape=shape, classes=classes)
    assert model(torch.zeros(2, *shape)).shape == (2, classes)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 15), (28, 28)])
def test_lenet_5_tells_the_smallest_input(shape):
    with pytest.raises(ConfigError, match=r"lenet-5: input_shape .* at least 16 x 16"):
        build_model("lenet-5", input_shape=shape)
