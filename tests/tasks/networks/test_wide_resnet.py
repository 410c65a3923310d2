import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.core.errors import ConfigError
from tersor.tasks.networks import wide_resnet

SCALE = (1 + 1e-5) ** -0.5  # what a batch norm that has seen nothing does


def test_stages_are_widened_and_halve_the_image_twice():
    model = wide_resnet((3, 32, 32), 10, depth=10, widen=2)
    x, shapes = torch.randn(2, 3, 32, 32), {}
    for name, layer in model.named_children():
        x = layer(x)
        shapes[name] = tuple(x.shape[1:])
    assert shapes["conv1"] == (16, 32, 32)
    assert shapes["block1_1"] == (32, 32, 32)
    assert shapes["block2_1"] == (64, 16, 16)
    assert shapes["block3_1"] == (128, 8, 8)


def test_the_depth_counts_the_convolutions_of_which_three_are_shortcuts():
    # As the authors count: 1 + 3 stages of n blocks of 2, and the 3 shortcuts.
    for depth in (10, 16, 22, 28):
        with torch.device("meta"):
            model = wide_resnet((3, 32, 32), 10, depth=depth, widen=2)
        assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == depth


def test_a_block_normalises_first_and_adds_what_came_in():
    torch.manual_seed(0)
    model = wide_resnet((1, 8, 8), 10, depth=16, widen=1).eval()
    block, x = model.block2_2, torch.randn(2, 32, 4, 4)
    hidden = F.conv2d(F.relu(x * SCALE), block.conv1.weight, padding=1)
    residual = F.conv2d(F.relu(hidden * SCALE), block.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), x + residual)


def test_where_the_shape_changes_the_shortcut_sees_the_normalised_input():
    torch.manual_seed(0)
    block = wide_resnet((1, 8, 8), 10, depth=10, widen=2).block2_1.eval()
    block.conv2.weight.data.zero_()
    x = torch.randn(2, 32, 8, 8)
    expected = F.conv2d(F.relu(x * SCALE), block.shortcut.weight, stride=2)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("depth", "widen"), [(4, 2), (20, 2), (16, 0)])
def test_a_depth_or_width_that_is_none_is_refused(depth, widen):
    with pytest.raises(ConfigError, match=f"wide_resnet: depth {depth}, widen {widen}; expected"):
        wide_resnet((3, 32, 32), 10, depth=depth, widen=widen)
