import copy

import pytest
import torch
from sparse_steps import OPTIMIZERS, buffers, steps
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.prune.dynamic import DeepR


def test_without_noise_and_pull_it_is_sgd_until_a_sign_changes(net):
    twin = copy.deepcopy(net)
    method = DeepR(net, 0.3, l1=0.0)
    first = method.masks
    opt = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9)
    plain = torch.optim.SGD(twin.parameters(), 1e-3, momentum=0.9)
    with method.attach(opt), first.attach(twin, plain):
        for number in range(40):
            signs = {n: p.sign() for n, p in twin.named_parameters() if p.dim() > 1}
            list(steps(net, opt, range(number, number + 1)))
            list(steps(twin, plain, range(number, number + 1)))
            after = {n: p.sign() for n, p in twin.named_parameters() if p.dim() > 1}
            changed = {n: (after[n] != signs[n]) for n in signs}
            if any(c.any() for c in changed.values()):
                break
            for one, other in zip(net.parameters(), twin.parameters(), strict=True):
                assert torch.equal(one, other)
            assert all(torch.equal(mask, method.masks[n]) for n, mask in first.items())
    assert 3 < number < 39  # some steps were the same, and then a sign changed
    for name, across in changed.items():
        assert not net.get_parameter(name)[across].any()  # dormant, or awake again at zero
        stays = first[name] & ~across
        assert torch.equal(net.get_parameter(name)[stays], twin.get_parameter(name)[stays])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_number_of_active_connections_is_k_and_none_has_crossed_zero(net, optimizer):
    method = DeepR(net, 0.3, temperature=1e-2, l1=1e-2)
    opt = OPTIMIZERS[optimizer](net.parameters())
    by_layer = set()
    with method.attach(opt):
        for _ in steps(net, opt, range(40)):
            assert method.masks.kept == 120
            by_layer.add(int(method.masks["0.weight"].sum()))
            for name, signs in method.state_dict()["signs"].items():
                assert (net.get_parameter(name) * signs >= 0).all()
    assert len(by_layer) > 3  # of all layers together, not of each


def test_what_wakes_has_theta_zero_a_random_sign_and_no_buffers():
    model = nn.Linear(400, 10, bias=False)
    nn.init.constant_(model.weight, 1e-6)
    generator = torch.Generator().manual_seed(0)
    masks = MaskSet({"weight": torch.rand(10, 400, generator=generator) < 0.5})
    method = DeepR(model, masks=masks)
    opt = torch.optim.Adam(model.parameters(), 0.1)
    with method.attach(opt):
        model(torch.ones(1, 400)).sum().backward()
        opt.step()  # all weights are pushed below zero
    signs = method.state_dict()["signs"]["weight"]
    awake = method.masks["weight"]
    assert awake.sum() == masks.kept
    assert not model.weight.any()
    assert all(not buffer[awake].any() for buffer in buffers(opt, model.weight))
    positive = int((signs > 0).sum())
    assert int((signs < 0).sum()) == masks.kept - positive
    assert abs(positive - masks.kept / 2) < 5 * (masks.kept / 4) ** 0.5


def test_every_dormant_connection_wakes_with_the_same_chance():
    model = nn.Linear(20_000, 1, bias=False)
    nn.init.ones_(model.weight)
    method = DeepR(model, masks=MaskSet({"weight": (torch.arange(20_000) < 4000)[None]}))
    opt = torch.optim.SGD(model.parameters(), 10.0)
    with method.attach(opt):
        model.weight.grad = torch.ones(1, 20_000)
        opt.step()  # all that are active cross zero
    counts = method.masks["weight"][0].view(10, 2000).sum(1)
    # 4,000 of 20,000: 400 +- 17 in each two thousand; five standard deviations.
    assert counts.sum() == 4000
    assert ((counts - 400).abs() < 85).all()


def test_the_noise_alone_has_the_variance_of_its_stationary_state():
    # theta <- theta - lr * (theta - 50) + sqrt(2 lr T) nu has the variance T / (1 - lr / 2);
    # 50 is so far from the boundary that nothing ever crosses it.
    model = nn.Linear(200, 20, bias=False)
    nn.init.constant_(model.weight, 50.0)
    method = DeepR(model, 1.0, l1=0.0, temperature=0.5)
    opt = torch.optim.SGD(model.parameters(), 0.2)
    with method.attach(opt):
        for _ in range(60):
            model.weight.grad = model.weight.detach() - 50
            opt.step()
    expected = 0.5 / (1 - 0.1)
    # 4000 independent values: the standard error of a variance is sqrt(2 / 4000) of it, 2.2 %.
    assert float(model.weight.detach().var()) == pytest.approx(expected, rel=0.1)


def test_the_pull_takes_the_rate_times_l1_off_every_theta():
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 3.0, -4.0]]))
    masks = MaskSet({"weight": torch.tensor([[True, True, False, True]])})
    method = DeepR(model, masks=masks, l1=0.5)
    opt = torch.optim.SGD(model.parameters(), 0.1)
    with method.attach(opt):
        model.weight.grad = torch.zeros(1, 4)
        opt.step()
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[0.95, -1.95, 0.0, -3.95]]))


def test_signs_are_those_of_the_weights_at_attach(net):
    method = DeepR(net, 0.3, l1=0.0)
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.neg_()  # loaded, say, after the method was made
    opt = torch.optim.SGD(net.parameters(), 0.0)
    first = method.masks
    with method.attach(opt):
        list(steps(net, opt, range(1)))
    assert all(torch.equal(mask, method.masks[n]) for n, mask in first.items())


def test_a_temperature_may_fall_with_the_steps(net):
    asked = []

    def falling(step):
        asked.append(step)
        return 1e-3 / (1 + step)

    method = DeepR(net, 0.3, temperature=falling)
    opt = OPTIMIZERS["sgd"](net.parameters())
    with method.attach(opt):
        list(steps(net, opt, range(2)))
    assert set(asked) == {0, 1, 2}


def test_wrong_arguments_are_named(net):
    with pytest.raises(ConfigError, match="l1: -1; expected 0 or more"):
        DeepR(net, 0.3, l1=-1)
    with pytest.raises(ConfigError, match=r"temperature: -0.5; expected 0 or more"):
        DeepR(net, 0.3, temperature=-0.5)
