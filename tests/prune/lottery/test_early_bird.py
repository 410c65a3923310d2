import io

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune.lottery import EarlyBird


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)
    )


def set_scales(net: nn.Sequential, values: list[float]) -> None:
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor(values[:4]))
        net[4].weight.copy_(torch.tensor(values[4:]))


def test_it_keeps_the_largest_scales_of_all_layers_together(net):
    set_scales(net, [0.1, -0.9, 0.2, 0.3, 0.8, 0.7, 0.05, -0.6, 0.4, 0.01])
    bird = EarlyBird(net, 0.4)
    bird.observe()
    assert bird.masks["1.weight"].tolist() == [False, True, False, False]
    assert bird.masks["4.weight"].tolist() == [True, True, False, True, False, False]
    assert torch.equal(bird.masks["4.bias"], bird.masks["4.weight"])


def test_masks_that_do_not_move_are_found_after_one_epoch_more_than_the_window(net):
    bird = EarlyBird(net, 0.5, window=5)
    assert [bird.observe() for _ in range(6)] == [False] * 5 + [True]
    assert bird.finished
    assert bird.distances == [0.0] * 5


def test_complementary_masks_are_at_distance_one(net):
    bird = EarlyBird(net, 0.5, window=1, tolerance=1.0)
    set_scales(net, [1.0] * 5 + [0.0] * 5)
    bird.observe()
    set_scales(net, [0.0] * 5 + [1.0] * 5)
    assert not bird.observe()  # 1 is not below 1
    assert bird.distances == [1.0]


def test_the_largest_distance_to_all_masks_of_the_window_counts(net):
    bird = EarlyBird(net, 0.5, window=3, tolerance=0.15)
    orders = [[1.0] * 5 + [0.0] * 5, [1.0] * 4 + [0.0, 1.0] + [0.0] * 4]  # two channels apart
    found = []
    for which in (0, 1, 1, 1, 1):
        set_scales(net, orders[which])
        found.append(bird.observe())
    # The fourth look still sees the first mask in its window of three; the fifth does not.
    assert bird.distances == pytest.approx([0.2, 0.2, 0.2, 0.0])
    assert found == [False, False, False, False, True]


def test_the_penalty_is_the_gradient_of_the_l1_norm_of_the_scales(net):
    net.double()
    images = torch.randn(8, 1, 8, 8, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    set_scales(net, [0.5, -0.9, 0.2, 0.3, 0.8, 0.7, -0.5, -0.6, 0.4, 0.1])

    def gradients(penalised: bool) -> list[torch.Tensor]:
        net.zero_grad()
        loss = net(images).square().mean()
        if penalised:
            loss = loss + 0.01 * (net[1].weight.abs().sum() + net[4].weight.abs().sum())
        loss.backward()
        return [p.grad.clone() for p in net.parameters()]

    expected = gradients(penalised=True)
    gradients(penalised=False)
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    with EarlyBird(net, 0.5, strength=0.01).attach(optimizer):
        optimizer.step()
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_masked_channels_are_silent(net):
    bird = EarlyBird(net, 0.5)
    set_scales(net, [1.0, 0.1, 1.0, 0.1, 1.0, 0.1, 1.0, 0.1, 1.0, 0.1])
    bird.observe()
    bird.masks.apply(net)
    out = net(torch.randn(2, 1, 8, 8))
    assert not out[:, [1, 3, 5]].any()
    assert out[:, [0, 2, 4]].any()


def test_a_layer_that_kept_no_channel_is_left_as_it_is(net):
    set_scales(net, [0.0] * 4 + [1.0] * 6)
    bird = EarlyBird(net, 0.5)
    bird.observe()
    assert sorted(bird.masks) == ["4.bias", "4.weight"]


def test_a_watch_goes_on_from_a_state(net):
    whole, half = EarlyBird(net, 0.5, window=3), EarlyBird(net, 0.5, window=3)
    for seed in range(2):
        set_scales(net, torch.rand(10, generator=torch.Generator().manual_seed(seed)).tolist())
        whole.observe()
        half.observe()
    buffer = io.BytesIO()
    torch.save(half.state_dict(), buffer)
    buffer.seek(0)
    resumed = EarlyBird(net, 0.5, window=3)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert [whole.observe() for _ in range(4)] == [resumed.observe() for _ in range(4)]
    assert whole.distances == resumed.distances


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"density": 1.0}, "density 1.0; expected 0 < density < 1"),
        ({"window": 0}, "window 0; expected 1 epoch"),
        ({"tolerance": 0.0}, "tolerance 0.0; expected"),
        ({"strength": -1.0}, "strength -1.0; expected 0 or more"),
    ],
)
def test_what_is_out_of_range_is_refused(wrong, message, net):
    values = {"density": 0.5} | wrong
    with pytest.raises(ConfigError, match=message):
        EarlyBird(net, values.pop("density"), **values)


def test_a_model_without_normalisation_and_a_mask_before_the_first_look_are_refused(net):
    with pytest.raises(ConfigError, match="Linear has no batch normalisation with scales"):
        EarlyBird(nn.Linear(2, 2), 0.5)
    with pytest.raises(ConfigError, match="no mask yet"):
        _ = EarlyBird(net, 0.5).masks
