import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.core.errors import ConfigError
from tersor.tasks.networks import resnet


@pytest.mark.parametrize("depth", [8, 20, 32, 56])
def test_it_has_as_many_layers_as_its_name_says(depth):
    with torch.device("meta"):
        model = resnet((3, 32, 32), 10, depth=depth)
    on_the_way = [
        m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    ]
    assert len(on_the_way) + 1 == depth
    projections = [
        m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)
    ]
    assert len(projections) == 2


def test_stages_of_16_32_and_64_filters_halve_the_image_twice():
    model = resnet((3, 32, 32), 10, depth=8)
    x, shapes = torch.randn(2, 3, 32, 32), {}
    for name, layer in model.named_children():
        x = layer(x)
        shapes[name] = tuple(x.shape[1:])
    assert shapes["block1_1"] == (16, 32, 32)
    assert shapes["block2_1"] == (32, 16, 16)
    assert shapes["block3_1"] == (64, 8, 8)
    assert shapes["pool"] == (64, 1, 1)


def test_blocks_without_a_residual_are_their_shortcut():
    torch.manual_seed(0)
    model = resnet((1, 8, 8), 10, depth=14).eval()
    for name, parameter in model.named_parameters():
        if ".bn2." in name:
            parameter.data.zero_()
    x = F.relu(torch.randn(2, 16, 8, 8))
    assert torch.equal(model.block1_2(x), x)
    projected = F.conv2d(x, model.block2_1.shortcut.conv.weight, stride=2)
    projected = projected / (1 + 1e-5) ** 0.5  # batch norm that has seen nothing
    torch.testing.assert_close(model.block2_1(x), F.relu(projected))


def test_a_block_adds_its_residual_before_the_last_relu():
    torch.manual_seed(0)
    block = resnet((1, 8, 8), 10, depth=8).block1_1.eval()
    x = torch.randn(2, 16, 8, 8)
    scale = (1 + 1e-5) ** -0.5
    hidden = F.relu(F.conv2d(x, block.conv1.weight, padding=1) * scale)
    residual = F.conv2d(hidden, block.conv2.weight, padding=1) * scale
    torch.testing.assert_close(block(x), F.relu(x + residual))


@pytest.mark.parametrize("depth", [2, 18, 21, -4])
def test_a_depth_that_is_none_is_refused(depth):
    with pytest.raises(ConfigError, match=f"resnet: depth {depth}, expected 6 n"):
        resnet((3, 32, 32), 10, depth=depth)
