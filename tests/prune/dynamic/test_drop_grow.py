import copy
import math

import pytest
import torch
from sparse_steps import OPTIMIZERS, bits, buffers, loss, steps
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.prune.dynamic import DROPS, GROWS, SHARES, DropGrow, Grow, cosine
from tersor.prune.dynamic.rules import Layer, mean_momentum, survivors, threshold


def layer(values: list[float], name: str = "w", momentum: list[float] | None = None) -> Layer:
    """A layer whose zeros are inactive."""
    parameter = nn.Parameter(torch.tensor(values))
    optimizer = torch.optim.SGD([parameter], 0.1, momentum=0.9)
    if momentum is not None:
        optimizer.state[parameter]["momentum_buffer"] = torch.tensor(momentum)
    mask = parameter.detach() != 0
    return Layer(name, parameter, mask, int(mask.sum()), optimizer)


def test_the_fraction_falls_as_half_a_cosine():
    assert cosine(0, end=80, initial=0.3) == 0.3
    assert cosine(80, end=80, initial=0.3) == cosine(200, end=80, initial=0.3) == 0.0
    assert cosine(20, end=80, initial=0.4) == pytest.approx(0.2 * (1 + math.sqrt(0.5)))
    values = [cosine(t, end=80, initial=0.3) for t in range(90)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("grow", GROWS)
def test_all_rules_go_together_and_keep_the_total(net, drop, grow, share):
    method = DropGrow(
        net, 0.4, end=20, every=2, drop_fraction=0.5, drop=drop, grow=grow, share=share
    )
    opt = OPTIMIZERS["adamw"](net.parameters())
    seen = set()
    with method.attach(opt):
        for _ in steps(net, opt, range(20)):
            assert method.masks.kept == round(0.4 * 400)
            assert all(mask.any() for mask in method.masks.values())
            seen.add(tuple(torch.cat([m.flatten() for m in method.masks.values()]).tolist()))
    assert len(seen) > 3


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("grow", GROWS)
def test_new_weights_start_at_zero_with_empty_buffers(net, grow, optimizer):
    method = DropGrow(net, 0.3, end=9, every=4, drop_fraction=0.5, grow=grow)
    opt = OPTIMIZERS[optimizer](net.parameters())
    with method.attach(opt):
        list(steps(net, opt, range(3)))
        before = dict(method.masks)
        list(steps(net, opt, range(3, 4)))
    for name, mask in method.masks.items():
        new, weight = mask & ~before[name], net.get_parameter(name)
        assert new.any()
        assert not bits(weight)[new].any()
        assert len(buffers(opt, weight)) == {"sgd": 1, "adam": 2, "adamw": 3}[optimizer]
        for buffer in buffers(opt, weight):
            assert not bits(buffer)[new].any()
            assert (buffer[mask & before[name]] != 0).any()


def test_gradient_growth_takes_the_place_of_the_step_and_picks_the_true_top_gradients(net):
    net.double()
    method = DropGrow(net, 0.3, end=9, every=4, drop_fraction=0.5, grow="gradient")
    opt = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=1e-2)
    with method.attach(opt):
        list(steps(net, opt, range(3)))
        before, weights = dict(method.masks), copy.deepcopy(net.state_dict())
        [*dense] = torch.autograd.grad(loss(net, 3), [net[0].weight, net[2].weight])
        list(steps(net, opt, range(3, 4)))
    for name, gradient in zip(method.masks, dense, strict=True):
        old, new, weight = before[name], method.masks[name], weights[name]
        order = weight[old].abs().sort().values
        k = int(0.5 * len(order))
        keep = old & (weight.abs() > order[k - 1])
        assert int(keep.sum()) == len(order) - k
        outside = gradient.abs().masked_fill(keep, -1.0).flatten()
        expected = keep.flatten().index_fill(0, outside.topk(k).indices, True).view_as(old)
        assert torch.equal(new, expected)
        # No optimizer step, and what went and came back at once has its value.
        torch.testing.assert_close(net.get_parameter(name), weight * new, rtol=0, atol=0)
        back = old & new & ~keep
        assert (net.get_parameter(name)[back] != 0).all()
    assert torch.equal(net[0].bias, weights["0.bias"])
    assert all(p.grad is None for p in net.parameters())


def test_some_weight_that_went_comes_back_at_once_and_keeps_value_and_buffers(net):
    method = DropGrow(net, 0.3, end=9, every=2, drop_fraction=0.6, grow="gradient")
    opt = OPTIMIZERS["sgd"](net.parameters())
    with method.attach(opt):
        list(steps(net, opt, range(1)))
        old, weight = method.masks["0.weight"], net[0].weight.detach().clone()
        kept = opt.state[net[0].weight]["momentum_buffer"].clone()
        list(steps(net, opt, range(1, 2)))
    new = method.masks["0.weight"]
    smallest = weight[old].abs().sort().values[int(0.6 * int(old.sum())) - 1]
    back = old & new & (weight.abs() <= smallest)
    assert back.any()
    assert torch.equal(net[0].weight[back], weight[back])
    assert torch.equal(opt.state[net[0].weight]["momentum_buffer"][back], kept[back])


def test_momentum_growth_picks_the_largest_momentum_after_the_step(net):
    twin = copy.deepcopy(net)
    masks = DropGrow(net, 0.3, end=1).masks
    found = {}
    for model, end in ((net, 9), (twin, 0)):  # the twin only holds its masks
        opt = OPTIMIZERS["adam"](model.parameters())
        method = DropGrow(model, masks=masks, end=end, every=4, drop_fraction=0.5, grow="momentum")
        with method.attach(opt):
            list(steps(model, opt, range(4)))
        found[end] = method, opt
    for name in masks:
        weight = twin.get_parameter(name)
        old, new = masks[name], found[9][0].masks[name]
        k = int(0.5 * int(old.sum()))
        keep = old & (weight.abs() > weight[old].abs().sort().values[k - 1])
        score = found[0][1].state[weight]["exp_avg"].abs().masked_fill(keep, -1.0).flatten()
        expected = keep.flatten().index_fill(0, score.topk(k).indices, True).view_as(old)
        assert torch.equal(new, expected)


def test_random_growth_takes_inactive_places_all_with_the_same_chance():
    model = nn.Linear(20_000, 1, bias=False)
    masks = MaskSet({"weight": (torch.arange(20_000) < 10_000)[None]})
    with torch.no_grad():
        model.weight.copy_(torch.arange(20_000.0) + 1)
    method = DropGrow(model, masks=masks, end=2, every=1, drop_fraction=0.5)
    opt = torch.optim.SGD(model.parameters(), 0.0)
    with method.attach(opt):
        opt.step()
    new = method.masks["weight"][0]
    assert not new[:5000].any()  # the dropped have not come back
    assert new[5000:10_000].all()
    # 5,000 of 10,000: 500 +- 15 in each thousand; five standard deviations.
    counts = new[10_000:].view(10, 1000).sum(1)
    assert counts.sum() == 5000
    assert ((counts - 500).abs() < 75).all()
    pairs = int((new[10_000:-1] & new[10_001:]).sum())  # neighbours: 2,500 +- 25
    assert abs(pairs - 2500) < 150


def test_random_growth_takes_the_dropped_when_there_is_no_other_place():
    model = nn.Linear(10, 1, bias=False)
    masks = MaskSet({"weight": (torch.arange(10) < 8)[None]})
    method = DropGrow(model, masks=masks, end=2, every=1, drop_fraction=0.5)
    opt = torch.optim.SGD(model.parameters(), 0.0)
    with method.attach(opt):
        opt.step()
    assert method.masks["weight"][0, 8:].all()
    assert method.masks.kept == 8


@pytest.mark.parametrize(("end", "updates"), [(6, [3]), (7, [3, 6]), (3, [])])
def test_updates_come_every_so_many_steps_and_stop_at_the_end(net, end, updates):
    method = DropGrow(net, 0.3, end=end, every=3, drop_fraction=0.5)
    opt = OPTIMIZERS["sgd"](net.parameters())
    changed = []
    with method.attach(opt):
        before = dict(method.masks)
        for step in steps(net, opt, range(12)):
            if any((mask != before[n]).any() for n, mask in method.masks.items()):
                changed.append(step)
            assert method.finished == (step >= end)
            before = dict(method.masks)
    assert changed == updates


def test_the_counts_of_a_layer_are_the_fraction_rounded_down(net):
    given = []

    def half(step):
        given.append(step)
        return 0.25

    method = DropGrow(net, {"0": 0.39, "2": 0.21}, end=9, every=2, drop_fraction=half)
    opt = OPTIMIZERS["sgd"](net.parameters())
    with method.attach(opt):
        list(steps(net, opt, range(1)))
        before = dict(method.masks)
        list(steps(net, opt, range(1, 2)))
    gone = {n: int((before[n] & ~mask).sum()) for n, mask in method.masks.items()}
    assert gone == {"0.weight": int(0.25 * 94), "2.weight": int(0.25 * 34)}  # 94 of 240, 34 of 160
    assert given == [0, 2]  # once to be checked, once at the update


def test_the_threshold_counts_over_all_layers_and_follows_the_share():
    layers = [layer([0.5, 4e-4, -9e-4, 0.0, 2e-3], "a"), layer([-1e-3, 1e-4, 0.1], "b")]
    memory: dict[str, float] = {}
    # Below 1e-3: two in a, one in b; 7 active.
    assert threshold(layers, 3 / 7, memory) == {"a": 2, "b": 1}
    assert memory == {"threshold": 1e-3}
    assert threshold(layers, 0.9, memory) == {"a": 2, "b": 1}
    assert memory == {"threshold": 2e-3}
    assert threshold(layers, 0.1, memory) == {"a": 2, "b": 2}  # -1e-3 too, 2e-3 is not below
    assert memory == {"threshold": 1e-3}


def test_the_threshold_leaves_every_layer_its_largest_weight():
    layers = [layer([1e-4, 2e-4, 0.0], "a"), layer([1.0, 0.0], "b")]
    assert threshold(layers, 0.5, {}) == {"a": 1, "b": 0}


def test_survivors_are_what_is_left():
    layers = [layer([1.0, 2.0, 0.0], "a"), layer([1.0, 1.0, 1.0], "b")]
    assert survivors(layers, {"a": 1, "b": 0}) == {"a": 1, "b": 3}


def test_mean_momentum_is_that_of_the_active_weights_before_the_drop():
    layers = [
        layer([1.0, 2.0, 0.0], "a", momentum=[-1.0, 3.0, 100.0]),
        layer([0.0, 0.5], "b", momentum=[7.0, -8.0]),
    ]
    assert mean_momentum(layers, {"a": 1, "b": 0}) == {"a": 2.0, "b": 8.0}


def test_a_rule_of_the_users_own(net):
    last = Grow(
        lambda layer, generator: torch.arange(float(layer.mask.numel())).view_as(layer.mask)
    )
    method = DropGrow(net, 0.3, end=20, every=1, drop_fraction=0.9, grow=last)
    opt = torch.optim.SGD(net.parameters(), 0.0)
    with method.attach(opt):
        list(steps(net, opt, range(1)))
    for mask in method.masks.values():
        active = int(mask.sum())
        assert mask.flatten()[-int(0.9 * active) :].all()


def test_a_layer_keeps_its_largest_weight_whatever_the_rules_ask_for(net):
    def everything(layers, fraction, memory):
        return {layer.name: layer.active for layer in layers}

    method = DropGrow(net, 0.3, end=9, every=1, drop=everything, shrink=lambda step: 0.2)
    opt = torch.optim.SGD(net.parameters(), 0.0)
    with method.attach(opt):
        largest = {n: net.get_parameter(n).detach().abs().max() for n in method.masks}
        list(steps(net, opt, range(1)))
    for name in largest:
        weight = net.get_parameter(name).detach()
        assert weight.abs().max() == largest[name]
        assert (weight != 0).sum() == 1  # all else is new
    assert method.masks.kept == 80


def test_a_layer_without_a_gradient_stays_as_it_is(net):
    method = DropGrow(net, 0.3, end=9, every=1, drop_fraction=0.5, grow="gradient")
    opt = torch.optim.SGD(net.parameters(), 0.1)
    first = method.masks["0.weight"]
    with method.attach(opt):
        net[2](torch.ones(1, 20)).sum().backward()  # the first layer takes no part
        opt.step()
    assert torch.equal(first, method.masks["0.weight"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"every": 0}, "every: 0; expected at least 1"),
        ({"end": -1}, "end: -1; expected 0 or more"),
        ({"drop_fraction": 1.0}, "drop_fraction: 1.0; expected 0 <= drop_fraction < 1"),
        ({"drop_fraction": lambda step: -0.1}, "drop_fraction: -0.1; expected 0 <="),
        ({"drop": "magnitud"}, "drop 'magnitud': did you mean 'magnitude'"),
        ({"grow": "gradients"}, "grow 'gradients': did you mean 'gradient'"),
        ({"share": "owns"}, "share 'owns': did you mean 'own'"),
        ({"density": None}, "density: None, masks: none; expected one of the two"),
        ({"density": 1.5}, "density: 1.5; expected 0 < density <= 1"),
        ({"allocation": "erkk"}, "allocation 'erkk': did you mean 'erk'"),
    ],
)
def test_a_wrong_argument_is_named_when_the_method_is_made(net, wrong, message):
    with pytest.raises(ConfigError, match=message):
        DropGrow(net, **({"density": 0.5, "end": 4} | wrong))


def test_masks_of_other_weights_are_refused(net):
    masks = MaskSet({"0.weight": torch.ones(20, 12, dtype=torch.bool)})
    with pytest.raises(ConfigError, match=r"density: 0.5, masks: given; expected one of the two"):
        DropGrow(net, 0.5, masks=masks, end=4)
    with pytest.raises(ConfigError, match=r"mask '0.weight': does not take part: ignored"):
        DropGrow(net, masks=masks, end=4, ignore="0")
    bias = MaskSet({"0.bias": torch.ones(20, dtype=torch.bool)})
    with pytest.raises(ConfigError, match=r"mask '0.bias': does not take part: a bias"):
        DropGrow(net, masks=bias, end=4)
    flat = MaskSet({"0.weight": torch.ones(240, dtype=torch.bool)})
    with pytest.raises(ConfigError, match=r"mask '0.weight': shape \(240,\)"):
        DropGrow(net, masks=flat, end=4)


def test_given_masks_are_the_first_and_stay_the_users(net):
    generator = torch.Generator().manual_seed(0)
    masks = MaskSet({"0.weight": torch.rand(20, 12, generator=generator) < 0.3})
    copied = masks["0.weight"].clone()
    method = DropGrow(net, masks=masks, end=9, every=1, drop_fraction=0.5)
    opt = OPTIMIZERS["sgd"](net.parameters())
    with method.attach(opt):
        assert torch.equal(net[0].weight != 0, copied)
        list(steps(net, opt, range(5)))
    assert torch.equal(masks["0.weight"], copied)
    assert "no mask given" in method.report().skipped["2.weight"]


def test_an_optimizer_without_momentum_is_refused_where_it_is_looked_at(net):
    method = DropGrow(net, 0.5, end=9, grow="momentum")
    with pytest.raises(
        ConfigError, match=r"SGD keeps no momentum of '0.weight'; expected SGD with"
    ):
        method.attach(torch.optim.SGD(net.parameters(), 0.1))


def test_a_state_can_be_loaded_while_attached(net):
    other = copy.deepcopy(net)
    opt = OPTIMIZERS["sgd"](net.parameters())
    method = DropGrow(net, 0.3, end=9, every=2, drop_fraction=0.5)
    with method.attach(opt):
        list(steps(net, opt, range(5)))
    opt = OPTIMIZERS["sgd"](other.parameters())
    resumed = DropGrow(other, 0.3, end=9, every=2, drop_fraction=0.5, seed=1)
    with resumed.attach(opt):
        resumed.load_state_dict(method.state_dict())
        list(steps(other, opt, range(5, 6)))
    assert resumed.step == 6
    assert resumed.masks.kept == 120
