import pytest
import torch
from sparse_steps import OPTIMIZERS, bits, steps
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune import SCHEDULES
from tersor.prune.dynamic import dsr, grow_and_prune, nest, rigl, set_, snfs


def moved(method, model, optimizer, at: int) -> dict[str, int]:
    """Train to the step before an update, and count what goes in it."""
    with method.attach(optimizer):
        list(steps(model, optimizer, range(at - 1)))
        before = dict(method.masks)
        list(steps(model, optimizer, range(at - 1, at)))
    return {name: int((before[name] & ~mask).sum()) for name, mask in method.masks.items()}


def test_set_drops_a_constant_share_of_each_layer(net):
    method = set_(net, 0.3, end=100, every=4, allocation="uniform")
    for at in (4, 4):  # two updates of four steps
        gone = moved(method, net, OPTIMIZERS["sgd"](net.parameters()), at)
        assert gone == {"0.weight": int(0.3 * 72), "2.weight": int(0.3 * 48)}


def test_rigl_and_snfs_drop_less_and_less(net):
    # At step 4 of 8 the cosine is at one half.
    for make, fraction in ((rigl, 0.3), (snfs, 0.2)):
        method = make(net, 0.3, end=8, every=4, allocation="uniform")
        assert method._fraction(4) == pytest.approx(fraction / 2)
        assert method._fraction(0) == fraction
        assert method._fraction(8) == 0


def test_snfs_deals_out_by_momentum(net):
    method = snfs(net, 0.3, end=9, every=4, drop_fraction=0.8, allocation="uniform")
    opt = OPTIMIZERS["sgd"](net.parameters())
    with method.attach(opt):
        list(steps(net, opt, range(3)))
        active = {name: int(mask.sum()) for name, mask in method.masks.items()}
        old = dict(method.masks)
        list(steps(net, opt, range(3, 4)))
    fraction = method._fraction(4)
    dropped = {name: int(fraction * count) for name, count in active.items()}
    means = {}
    for name in active:
        momentum = opt.state[net.get_parameter(name)]["momentum_buffer"]
        # What came has lost its momentum by now, so look at what was there before and stayed or
        # went: their buffers are as they were.
        means[name] = float(momentum[old[name]].abs().mean())
    for name, mask in method.masks.items():
        grown = int(mask.sum()) - (active[name] - dropped[name])
        share = sum(dropped.values()) * means[name] / sum(means.values())
        assert abs(grown - share) < 1
    assert method.masks.kept == sum(active.values())
    assert active != {name: int(mask.sum()) for name, mask in method.masks.items()}


def test_dsr_gives_more_to_the_layer_with_more_survivors_up_to_its_size():
    model = nn.Sequential(nn.Linear(10, 2, bias=False), nn.Linear(2, 10, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[1].weight.fill_(1e-4)
        model[1].weight[0, 0] = 1.0
    method = dsr(model, {"0": 0.9, "1": 1.0}, end=10, every=1, drop_fraction=0.5)
    opt = torch.optim.SGD(model.parameters(), 0.0)
    with method.attach(opt):
        list(_no_training(opt, 1))
    # 19 of the second layer go and 1 stays; of 19 new ones the first layer's share would be
    # 19 * 18 / 19 = 18, but it has room for 2: the rest goes back to the second.
    kept = {name: int(mask.sum()) for name, mask in method.masks.items()}
    assert kept == {"0.weight": 20, "1.weight": 18}


def _no_training(optimizer: torch.optim.Optimizer, count: int):
    for _ in range(count):
        yield optimizer.step()


def test_nest_grows_by_gradient_a_constant_share(net):
    method = nest(net, 0.3, end=100, every=4, allocation="uniform", drop_fraction=0.5)
    assert method._grow.instead_of_step
    assert method._fraction(4) == method._fraction(50) == 0.5


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("regrown", [0.0, 0.5, 0.8])
def test_grow_and_prune_follows_the_schedule_exactly_and_ends_at_the_density(
    net, schedule, regrown
):
    method = grow_and_prune(net, 0.1, end=13, every=2, schedule=schedule, regrown=regrown)
    opt = OPTIMIZERS["adamw"](net.parameters())
    came = 0
    with method.attach(opt):
        assert method.masks.density == 1
        before = dict(method.masks)
        for step in steps(net, opt, range(14)):
            if step % 2 == 0 and step < 13:
                density = SCHEDULES[schedule](step, start=0, end=12, final=0.1)
                assert method.masks.kept == round(density * 400)
            came += sum(int((mask & ~before[n]).sum()) for n, mask in method.masks.items())
            for name, mask in method.masks.items():
                assert not bits(net.get_parameter(name))[~mask].any()
            before = dict(method.masks)
    assert method.masks.kept == 40
    assert (came > 0) == (regrown > 0 and schedule != "one_shot")


def test_grow_and_prune_drops_twice_what_it_loses():
    model = nn.Linear(100, 10, bias=False)
    method = grow_and_prune(model, 0.5, end=11, every=5, schedule="linear")
    # From 1 to 0.75 at step 5: 250 are lost and 250 change places; to 0.5 at step 10: a third.
    assert method._fraction(5) == pytest.approx(0.25)
    assert method._fraction(10) == pytest.approx(1 / 3)


def test_wrong_arguments_of_grow_and_prune_are_named(net):
    with pytest.raises(ConfigError, match="regrown: 1; expected 0 <= regrown < 1"):
        grow_and_prune(net, 0.1, end=10, every=2, regrown=1)
    with pytest.raises(ConfigError, match="end: 2, every: 2; expected an update before the end"):
        grow_and_prune(net, 0.1, end=2, every=2)
