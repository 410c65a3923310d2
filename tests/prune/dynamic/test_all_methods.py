"""What holds for every method of the table."""

import copy

import pytest
import torch
from sparse_steps import OPTIMIZERS, bits, loss, steps, through_a_file
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune.dynamic import DYNAMIC

END = 9


def make(name: str, model: nn.Module, **more):
    if name == "sr_ste":
        return DYNAMIC[name](model, "2:4", **more)
    if name == "dynamic_filters":
        return DYNAMIC[name](model, 0.3, every=2, select="Linear", **more)
    if name == "deep_r":
        return DYNAMIC[name](model, 0.3, temperature=1e-4, seed=3, **more)
    if name == "top_kast":
        return DYNAMIC[name](model, 0.3, every=2, seed=3, **more)
    if name == "grow_and_prune":
        return DYNAMIC[name](model, 0.3, every=2, end=END, seed=3, **more)
    # An update at steps 3 and 6: the k below fall before, on, and after one. The threshold of dsr
    # has to grow before anything is below it.
    every = 1 if name == "dsr" else 3
    return DYNAMIC[name](model, 0.3, every=every, end=END, drop_fraction=0.5, seed=3, **more)


def state_of(model, optimizer, method):
    return {"model": model.state_dict(), "opt": optimizer.state_dict(), "own": method.state_dict()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", DYNAMIC)
def test_what_is_not_active_is_plus_zero_after_every_step(net, name, optimizer):
    method = make(name, net)
    opt = OPTIMIZERS[optimizer](net.parameters())
    changes = 0
    with method.attach(opt):
        before = dict(method.masks)
        for _ in steps(net, opt, range(12)):
            for weight, mask in method.masks.items():
                assert not bits(net.get_parameter(weight))[~mask].any()
                changes += int((mask != before[weight]).sum())
            before = dict(method.masks)
    assert changes > 0  # it is no fixed mask that held
    assert method.finished
    assert {row["name"]: row["kept"] for row in method.report().rows} == {
        weight: int(mask.sum()) for weight, mask in method.masks.items()
    }


@pytest.mark.parametrize("name", sorted(set(DYNAMIC) - {"grow_and_prune", "dynamic_filters"}))
def test_the_number_of_active_weights_never_changes(net, name):
    method = make(name, net)
    expected = 200 if name == "sr_ste" else round(0.3 * 400)
    opt = OPTIMIZERS["sgd"](net.parameters())
    with method.attach(opt):
        for _ in steps(net, opt, range(12)):
            assert method.masks.kept == expected


@pytest.mark.parametrize("name", ["set", "rigl", "nest", "top_kast", "sr_ste"])
def test_the_number_of_active_weights_of_each_layer_never_changes(net, name):
    method = make(name, net)
    opt = OPTIMIZERS["sgd"](net.parameters())
    with method.attach(opt):
        first = {weight: int(mask.sum()) for weight, mask in method.masks.items()}
        for _ in steps(net, opt, range(12)):
            assert first == {weight: int(mask.sum()) for weight, mask in method.masks.items()}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("name", DYNAMIC)
def test_k_steps_save_load_and_k_steps_are_2k_steps_bit_for_bit(net, name, k, optimizer):
    whole, half = copy.deepcopy(net), copy.deepcopy(net)
    opt, method = OPTIMIZERS[optimizer](whole.parameters()), make(name, whole)
    with method.attach(opt):
        list(steps(whole, opt, range(2 * k)))
    first_opt, first = OPTIMIZERS[optimizer](half.parameters()), make(name, half)
    with first.attach(first_opt):
        list(steps(half, first_opt, range(k)))
    state = through_a_file(state_of(half, first_opt, first))
    second_opt, second = OPTIMIZERS[optimizer](net.parameters()), make(name, net)
    net.load_state_dict(state["model"])
    second_opt.load_state_dict(state["opt"])
    second.load_state_dict(state["own"])
    with second.attach(second_opt):
        list(steps(net, second_opt, range(k, 2 * k)))
    for one, other in zip(whole.parameters(), net.parameters(), strict=True):
        assert torch.equal(bits(one), bits(other))
    assert _same(method.state_dict(), second.state_dict())


@pytest.mark.parametrize("name", DYNAMIC)
def test_a_state_is_not_changed_by_what_comes_after_it(net, name):
    method = make(name, net)
    opt = OPTIMIZERS["sgd"](net.parameters())
    with method.attach(opt):
        list(steps(net, opt, range(2)))
        state = method.state_dict()
        saved = through_a_file(state)
        list(steps(net, opt, range(2, 9)))
    assert _same(state, saved)


def _same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    return one == other


@pytest.mark.parametrize("name", DYNAMIC)
def test_the_same_seed_gives_the_same_bytes_and_the_global_generator_is_left_alone(net, name):
    twin = copy.deepcopy(net)
    before = torch.get_rng_state()
    found = []
    for model in (net, twin):
        opt, method = OPTIMIZERS["adamw"](model.parameters()), make(name, model)
        with method.attach(opt):
            list(steps(model, opt, range(10)))
        found.append(method)
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(bits(one), bits(other))
    assert all(torch.equal(mask, found[1].masks[n]) for n, mask in found[0].masks.items())


@pytest.mark.parametrize("name", ["set", "dsr", "deep_r"])
def test_another_seed_gives_other_masks(net, name):
    twin = copy.deepcopy(net)
    masks = make(name, net).masks
    found = []
    for model, seed in ((net, 0), (twin, 1)):
        options = {} if name == "deep_r" else {"end": END, "every": 3}
        method = DYNAMIC[name](model, masks=masks, seed=seed, **options)
        opt = OPTIMIZERS["sgd"](model.parameters())
        with method.attach(opt):
            list(steps(model, opt, range(10)))
        found.append(method.masks)
    assert any((mask != found[1][n]).any() for n, mask in found[0].items())


@pytest.mark.parametrize("name", DYNAMIC)
def test_steps_are_counted_not_batches_when_gradients_accumulate(net, name):
    twin = copy.deepcopy(net)
    opt, method = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9), make(name, net)
    with method.attach(opt):
        for number in range(24):
            (loss(net, number // 2) / 2).backward()
            if number % 2:
                opt.step()
                opt.zero_grad()
    assert method.step == 12
    opt, whole = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9), make(name, twin)
    with whole.attach(opt):
        list(steps(twin, opt, range(12)))
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", DYNAMIC)
def test_an_optimizer_that_accelerate_wraps(net, name):
    import accelerate

    twin = copy.deepcopy(net)
    accelerator = accelerate.Accelerator(cpu=True)
    opt, method = OPTIMIZERS["sgd"](net.parameters()), make(name, net)
    wrapped = accelerator.prepare(opt)
    with method.attach(wrapped):
        list(steps(net, wrapped, range(8)))
    opt, plain = OPTIMIZERS["sgd"](twin.parameters()), make(name, twin)
    with plain.attach(opt):
        list(steps(twin, opt, range(8)))
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(bits(one), bits(other))


@pytest.mark.parametrize("name", DYNAMIC)
def test_an_optimizer_of_another_model_is_refused(net, name):
    with pytest.raises(ConfigError, match=r"does not have '0.weight'"):
        make(name, net).attach(torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1, momentum=0.9))


@pytest.mark.parametrize("name", DYNAMIC)
def test_after_detach_the_model_trains_as_ever(net, name):
    method = make(name, net)
    opt = OPTIMIZERS["sgd"](net.parameters())
    with method.attach(opt):
        list(steps(net, opt, range(3)))
    list(steps(net, opt, range(3, 5)))
    assert method.step == 3
    assert all((net.get_parameter(n)[~mask] != 0).any() for n, mask in method.masks.items())


@pytest.mark.parametrize("name", ["set", "rigl", "snfs", "deep_r", "top_kast"])
def test_a_layer_that_is_frozen_keeps_its_mask_and_its_weights(net, name):
    net[0].weight.requires_grad_(False)
    method = make(name, net)
    mask = method.masks["0.weight"].clone()
    opt = OPTIMIZERS["sgd"](p for p in net.parameters() if p.requires_grad)
    with method.attach(opt):
        values = net[0].weight.clone()
        list(steps(net, opt, range(8)))
    assert torch.equal(values, net[0].weight)
    if name != "top_kast":  # which shows the largest weights from the beginning
        assert torch.equal(mask, method.masks["0.weight"])


@pytest.mark.parametrize("name", DYNAMIC)
def test_a_convolution_and_other_precisions(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(72, 8)).double()
    method = make(name, model)
    opt = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    x = torch.randn(6, 4, 5, 5, dtype=torch.float64)
    with method.attach(opt):
        for _ in range(8):
            opt.zero_grad()
            model(x).square().mean().backward()
            opt.step()
    for weight, mask in method.masks.items():
        assert not model.get_parameter(weight).detach()[~mask].view(torch.int64).any()
    assert not mask.all()
