"""Which modules follow a layer alone, by the graph of the model or by its Sequentials."""

import pytest
import torch
from deployables import few_values_, gap, images, in_float64, prefer
from torch import nn

from tersor.core.call_order import norm_of, order_of_calls
from tersor.run import deploy, plan_of
from tersor.run.following import Following, activation_of, followings


def following(model):
    return followings(model, order_of_calls(model))


class Untraceable(nn.Module):
    """The body, called by code that torch.fx cannot trace."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        if x.sum() > 1e9:  # depends on values
            return x
        return self.body(x)


def block(*, kind=nn.ReLU):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), kind(), nn.Conv2d(4, 4, 1))


@pytest.mark.parametrize("wrap", [lambda m: m, Untraceable])
@pytest.mark.parametrize("kind", [nn.ReLU, nn.GELU, nn.SiLU])
def test_a_norm_and_an_activation_behind_a_layer_are_found(wrap, kind):
    prefix = "body." if wrap is Untraceable else ""
    expected = {f"{prefix}0": Following(f"{prefix}1", f"{prefix}2")}
    assert following(wrap(block(kind=kind))) == expected


@pytest.mark.parametrize("wrap", [lambda m: m, Untraceable])
def test_other_activations_and_norms_are_left(wrap):
    layers = [nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Tanh()]
    assert following(wrap(nn.Sequential(*layers))) == {}
    untracked = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    assert following(wrap(untracked)) == {}
    assert following(wrap(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm2d(4)))) == {}


class Residual(nn.Module):
    """The convolution's output is used by its norm, and added behind it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()
        self.second, self.after = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        h = self.conv(x)
        h = self.act(self.norm(h)) + h
        return self.after(self.second(h)) + x


def test_a_norm_is_not_folded_into_an_output_that_is_used_twice():
    assert following(Residual()) == {"second": Following("after", None)}


def test_a_residual_keeps_its_outputs(monkeypatch):
    prefer(monkeypatch, "sparse", "folded")
    model = few_values_(Residual())
    fast = deploy(model, images())
    assert plan_of(fast).layer("conv").norm is None
    assert plan_of(fast).layer("second").norm == "after"
    assert gap(fast(images()), in_float64(model, images())) < 3e-6


class Shared(nn.Module):
    """One norm and one activation behind two convolutions, and one convolution called twice."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.twice = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norm, self.act, self.last = nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.act(self.norm(self.one(x)))
        x = self.act(self.norm(self.two(x)))
        return self.last(self.twice(self.twice(x)))


@pytest.mark.parametrize("wrap", [lambda m: m, Untraceable])
def test_modules_that_are_called_twice_are_left(wrap):
    assert following(wrap(Shared())) == {}
    act, conv = nn.ReLU(), nn.Conv2d(3, 3, 1)
    assert following(wrap(nn.Sequential(conv, act, conv, nn.BatchNorm2d(3)))) == {}
    assert following(wrap(nn.Sequential(nn.Linear(3, 3), act, nn.Linear(3, 3), act))) == {}


def test_a_model_with_shared_modules_keeps_its_outputs(monkeypatch):
    prefer(monkeypatch, "sparse", "folded")
    model = few_values_(Shared())
    fast = deploy(model, images())
    assert all(layer.kernel.startswith("sparse") for layer in plan_of(fast).layers)
    assert gap(fast(images()), in_float64(model, images())) < 3e-6


class Returned(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x):
        h = self.conv(x)
        return h, self.norm(h)


def test_an_output_that_is_returned_as_well_is_left():
    assert following(Returned()) == {}


@pytest.mark.parametrize("wrap", [lambda m: m, Untraceable])
@pytest.mark.parametrize("place", [1, 2])
def test_a_module_with_hooks_is_left_where_it_is(wrap, place):
    model = block()
    model[place].register_forward_hook(lambda *_: None)
    found = following(wrap(model))
    prefix = "body." if wrap is Untraceable else ""
    assert found == ({} if place == 1 else {f"{prefix}0": Following(f"{prefix}1", None)})


def test_names_of_activations():
    assert activation_of(nn.GELU()) == "gelu"
    assert activation_of(nn.GELU(approximate="tanh")) == "gelu_tanh"
    assert activation_of(nn.ReLU(inplace=True)) == "relu"
    assert activation_of(nn.ReLU6()) is None


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_in_eval_mode_is_a_scale_and_a_shift(affine):
    norm = few_values_(nn.BatchNorm2d(6, affine=affine))
    x = torch.randn(2, 6, 5, 5)
    scale, shift = norm_of(norm)
    got = x * scale[:, None, None] + shift[:, None, None]
    torch.testing.assert_close(got.double(), in_float64(norm, x), rtol=1e-5, atol=1e-6)
