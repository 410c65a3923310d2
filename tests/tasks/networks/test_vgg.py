import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.core.errors import ConfigError
from tersor.tasks import build_model
from tersor.tasks.networks import vgg


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return build_model(name, input_shape=(3, 32, 32))


def layers(model: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [layer for layer in model if isinstance(layer, kind)]


@pytest.mark.parametrize(
    ("name", "convolutions", "linear"),
    [
        ("vgg-16", 13, 1),
        ("vgg-19", 16, 1),
        ("vgg-like", 13, 2),
        ("vgg-c", 13, 3),
        ("vgg-d", 13, 3),
        ("vgg-small", 13, 1),
    ],
)
def test_layers_are_those_of_the_paper_each_with_batch_norm(name, convolutions, linear):
    model = on_meta(name)
    assert len(layers(model, nn.Conv2d)) == len(layers(model, nn.BatchNorm2d)) == convolutions
    assert len(layers(model, nn.Linear)) == linear == 1 + len(layers(model, nn.BatchNorm1d))
    assert len(layers(model, nn.MaxPool2d)) == 4


def test_of_vgg_c_every_third_convolution_of_a_block_sees_one_pixel():
    sides = {n: m.kernel_size[0] for n, m in on_meta("vgg-c").named_children() if "conv" in n}
    assert {n for n, side in sides.items() if side == 1} == {"conv3_3", "conv4_3", "conv5_3"}
    assert {m.kernel_size[0] for m in layers(on_meta("vgg-d"), nn.Conv2d)} == {3}


def test_the_small_one_is_a_quarter_as_wide():
    large, small = (
        [m.out_channels for m in layers(on_meta(name), nn.Conv2d)]
        for name in ("vgg-16", "vgg-small")
    )
    assert [4 * filters for filters in small] == large


def test_before_hidden_layers_the_last_pooling_is_the_fifth_maximum():
    torch.manual_seed(0)
    blocks = ((4,), (4,), (4,), (4,), (5,))
    model = vgg((3, 32, 32), 10, blocks=blocks, hidden=(6,)).eval()
    x = torch.randn(2, 3, 32, 32)
    names = [name for name, _ in model.named_children()]
    before = model[: names.index("pool")](x)
    assert before.shape == (2, 5, 2, 2)
    assert torch.equal(model[: names.index("pool") + 1](x), F.max_pool2d(before, 2))


def test_without_them_it_is_the_mean():
    torch.manual_seed(0)
    model = vgg((3, 16, 16), 10, blocks=((4,), (5,))).eval()
    x = torch.randn(2, 3, 16, 16)
    before = model[: [name for name, _ in model.named_children()].index("pool")](x)
    assert before.shape == (2, 5, 8, 8)
    torch.testing.assert_close(model(x), model.fc1(before.mean((2, 3))))


@pytest.mark.parametrize("blocks", [(), ((4,), ())])
def test_blocks_without_filters_are_refused(blocks):
    with pytest.raises(ConfigError, match=r"vgg: blocks \(.*expected one or more"):
        vgg((3, 32, 32), 10, blocks=blocks)


@pytest.mark.parametrize("name", ["vgg-19", "vgg-c"])
def test_convolutions_keep_the_image_and_poolings_halve_it(name):
    x, sides = torch.zeros(2, 3, 32, 32, device="meta"), []
    for layer in on_meta(name):
        before, x = x, layer(x)
        if isinstance(layer, nn.Conv2d):
            assert x.shape[2:] == before.shape[2:]
        if isinstance(layer, nn.MaxPool2d):
            sides.append(x.shape[-1])
    assert sides == [16, 8, 4, 2]
