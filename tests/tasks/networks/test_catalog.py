import pytest
import torch

from tersor.core.errors import ConfigError
from tersor.core.weights import prunable
from tersor.tasks import MODELS, build_model
from tersor.tasks.networks import LANGUAGE_MODELS

CIFAR, MNIST = (3, 32, 32), (1, 28, 28)
ANY_SHAPE = ["lenet-300-100", "mlp-3", "mlp-5", "mlp-7"]
IMAGES = [name for name in MODELS if name not in LANGUAGE_MODELS]


def on_meta(name: str, shape: tuple[int, ...] = MNIST) -> torch.nn.Module:
    """The network without memory for its numbers."""
    with torch.device("meta"):
        return build_model(name, input_shape=shape)


def weights(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.dim() > 1)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


SMALL = [name for name in IMAGES if parameters(on_meta(name)) < 5e5]


@pytest.mark.parametrize(
    ("name", "shape", "published", "tolerance"),
    [
        ("conv-2", CIFAR, 4.30e6, 0.005e6),  # Frankle and Carbin 2019, figure 2; 2.26 see `conv`
        ("conv-4", CIFAR, 2.42e6, 0.006e6),
        ("conv-6", CIFAR, 2.26e6, 0.005e6),
        ("vgg-19", CIFAR, 20.0e6, 0.05e6),
        ("resnet-20", CIFAR, 0.274e6, 0.003e6),
        ("vgg-c", CIFAR, 10.5e6, 0.05e6),  # Lee, Ajanthan and Torr 2019, table 2
        ("vgg-d", CIFAR, 15.2e6, 0.051e6),
        ("vgg-like", CIFAR, 15.0e6, 0.05e6),
        ("wrn-16-8", CIFAR, 10.96e6, 0.005e6),
        ("wrn-16-10", CIFAR, 17.1e6, 0.05e6),
        ("wrn-22-8", CIFAR, 17.2e6, 0.05e6),
        ("lstm-s", MNIST, 137e3, 500),
        ("lstm-b", MNIST, 535e3, 1400),  # torch has a second bias: 1,024 more
        ("gru-s", MNIST, 104e3, 500),
        ("gru-b", MNIST, 404e3, 800),  # 768 more
        ("wrn-16-2", CIFAR, 0.7e6, 0.05e6),  # Zagoruyko and Komodakis 2017, arXiv 1612.03928
        ("resnet-20", CIFAR, 0.27e6, 0.01e6),  # He et al. 2016, table 6, with option A
        ("resnet-32", CIFAR, 0.46e6, 0.01e6),
        ("resnet-56", CIFAR, 0.85e6, 0.01e6),
    ],
)
def test_the_count_is_the_published_one(name, shape, published, tolerance):
    assert abs(parameters(on_meta(name, shape)) - published) <= tolerance


# Lee, Ajanthan and Torr 2019, table 2: what is left at this density.
@pytest.mark.parametrize(
    ("name", "density", "kept"),
    [
        ("vgg-c", 0.05, 526e3),
        ("vgg-d", 0.05, 762e3),
        ("vgg-like", 0.03, 449e3),
        ("wrn-16-8", 0.05, 548e3),
        ("wrn-16-10", 0.05, 856e3),
        ("wrn-22-8", 0.05, 858e3),
    ],
)
def test_what_a_density_leaves_is_the_published_count(name, density, kept):
    assert abs(density * weights(on_meta(name, CIFAR)) - kept) < 1000


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("conv-2", CIFAR, 4_301_642),
        ("conv-4", CIFAR, 2_425_930),
        ("conv-6", CIFAR, 2_262_602),
        ("resnet-8", CIFAR, 78_042),
        ("resnet-20", CIFAR, 272_474),
        ("resnet-32", CIFAR, 466_906),
        ("resnet-56", CIFAR, 855_770),
        ("wrn-16-8", CIFAR, 10_961_370),
        ("lstm-s", MNIST, 137_098),
        ("lstm-b", MNIST, 536_330),
        ("gru-s", MNIST, 104_074),
        ("gru-b", MNIST, 404_746),
        ("transformer", MNIST, 27_850),
    ],
)
def test_the_count_is_that_of_the_documentation(name, shape, count):
    assert parameters(on_meta(name, shape)) == count


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("shape", [CIFAR, MNIST, (2, 17, 30)])
def test_images_become_logits(name, shape):
    with torch.device("meta"):
        model = build_model(name, input_shape=shape, classes=7)
        assert model(torch.zeros(5, *shape)).shape == (5, 7)


@pytest.mark.parametrize("name", [name for name in IMAGES if name not in ANY_SHAPE])
@pytest.mark.parametrize("shape", [(28, 28), (12,), (1, 2, 28, 28)])
def test_what_is_no_image_is_refused(name, shape):
    with pytest.raises(ConfigError, match=r"input_shape \(.*expected \(channels, height, width\)"):
        build_model(name, input_shape=shape)


@pytest.mark.parametrize(
    ("name", "least"), [("lenet-5", 16), ("conv-2", 2), ("conv-6", 8), ("vgg-small", 16)]
)
def test_the_smallest_image_is_told_and_taken(name, least):
    assert on_meta(name, (1, least, 40))(torch.zeros(2, 1, least, 40, device="meta")).numel() == 20
    with pytest.raises(ConfigError, match=f"input_shape .* of at least {least} x {least}"):
        build_model(name, input_shape=(1, 40, least - 1))


@pytest.mark.parametrize("name", SMALL)
def test_the_same_seed_gives_the_same_network(name):
    first, second = (build_model(name) for _ in range(2) if torch.manual_seed(7))
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


@pytest.mark.parametrize("name", SMALL)
def test_the_loss_depends_on_every_parameter(name):
    torch.manual_seed(0)
    model = build_model(name)
    model(torch.randn(3, *MNIST)).logsumexp(1).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", IMAGES)
def test_every_matrix_but_positions_is_prunable(name):
    model = on_meta(name)
    found = {weight.name for weight in prunable(model)}
    assert {n for n, p in model.named_parameters() if p.dim() > 1} - found <= {"positions"}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("lenet5", {}, "unknown model 'lenet5'; did you mean 'lenet-5'"),
        ("lenet-300-100", {"input_shape": (1, 0, 8)}, r"input_shape \(1, 0, 8\)"),
        ("lenet-300-100", {"input_shape": ()}, r"input_shape \(\)"),
        ("lenet-300-100", {"classes": 0}, "classes 0, expected 1 or more"),
    ],
)
def test_what_cannot_be_built_is_refused(name, arguments, message):
    with pytest.raises(ConfigError, match=message):
        build_model(name, **arguments)
