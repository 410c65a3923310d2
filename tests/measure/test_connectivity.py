import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.measure.connectivity import (
    Path,
    instability,
    interpolated,
    path_between,
    reestimate_,
)

DOUBLE = {"dtype": torch.double}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def drawn(model: nn.Module, seed: int) -> dict[str, Tensor]:
    draws = generator(seed)
    return {
        name: torch.randn(tensor.shape, generator=draws, **DOUBLE)
        for name, tensor in model.state_dict().items()
    }


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)).double()


@pytest.fixture
def classified(net):
    """An error in per cent: how often the network disagrees with the labels of `net`."""
    inputs = torch.randn(400, 5, generator=generator(1), **DOUBLE)
    with torch.no_grad():
        labels = net(inputs).argmax(1)

    def error(model: nn.Module) -> float:
        with torch.no_grad():
            return 100 * (model(inputs).argmax(1) != labels).double().mean().item()

    return error


def test_between_equal_networks_there_is_nothing_to_climb(net, classified):
    one = state(net)
    path = path_between(net, one, one, classified)
    assert path.barrier == 0
    assert len(path.errors) == 32
    for alpha in (0.0, 0.1, 0.37, 0.5, 1.0):
        between = interpolated(one, one, alpha)
        assert all(torch.equal(between[n].view(torch.int64), one[n].view(torch.int64)) for n in one)


@settings(max_examples=20, deadline=None)
@given(seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)), points=st.integers(1, 9))
def test_a_barrier_is_at_least_half_the_difference_of_the_ends_and_symmetric(seeds, points):
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.linspace(-1, 1, 20, **DOUBLE).view(10, 2)

    def error(m: nn.Module) -> float:
        with torch.no_grad():
            return (m(x) - x.sum(1, keepdim=True)).square().mean().item()

    one, other = (drawn(model, seed) for seed in seeds)
    path = path_between(model, one, other, error, points=points)
    back = path_between(model, other, one, error, points=points)
    assert path.errors[0] == back.errors[-1]
    assert path.barrier >= abs(path.errors[0] - path.errors[-1]) / 2 - 1e-12
    assert path.barrier == pytest.approx(back.barrier, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_for_a_convex_loss_the_barrier_is_half_the_difference_of_the_ends(seed):
    model = nn.Linear(4, 2).double()
    x = torch.randn(30, 4, generator=generator(seed), **DOUBLE)
    y = torch.randn(30, 2, generator=generator(seed + 50), **DOUBLE)

    def error(m: nn.Module) -> float:
        with torch.no_grad():
            return (m(x) - y).square().mean().item()

    path = path_between(model, drawn(model, seed), drawn(model, seed + 9), error)
    assert path.barrier == pytest.approx(abs(path.errors[0] - path.errors[-1]) / 2, rel=1e-9)
    assert path.barrier > 0


def test_the_error_is_that_of_the_weighted_mean_of_the_weights():
    """Along the line a quadratic is a parabola: three values tell all the others."""
    model = nn.Linear(3, 1, bias=False).double()
    one = {"weight": torch.tensor([[1.0, 2.0, 3.0]], **DOUBLE)}
    other = {"weight": torch.tensor([[-1.0, 0.5, 1.0]], **DOUBLE)}
    path = path_between(model, one, other, lambda m: m.weight.detach().square().sum().item())
    for alpha, value in zip(path.alphas, path.errors, strict=True):
        # |a u + (1 - a) v|^2 with |u|^2 = 14, |v|^2 = 2.25, u v = 3
        expected = 14 * alpha**2 + 2.25 * (1 - alpha) ** 2 + 2 * 3 * alpha * (1 - alpha)
        assert value == pytest.approx(expected, rel=1e-12)
    assert path.alphas[0] == 0
    assert path.alphas[-1] == 1
    assert path.errors[0] == 2.25  # exactly the ends
    assert path.errors[-1] == 14


def test_the_same_function_with_its_hidden_units_permuted_is_behind_a_barrier(net, classified):
    order = torch.randperm(16, generator=generator(3))
    one, other = state(net), state(net)
    for name in ("0.weight", "0.bias"):
        other[name] = one[name][order]
    other["2.weight"] = one["2.weight"][:, order]
    path = path_between(net, one, other, classified)
    assert path.errors[0] == path.errors[-1] == 0  # the function is the same
    assert path.barrier == max(path.errors) > 5


def test_the_model_is_afterwards_as_it_was(net, classified):
    before, flags = state(net), [m.training for m in net.modules()]
    path_between(net, drawn(net, 1), drawn(net, 2), classified, points=3)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())

    def fails(model: nn.Module) -> float:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        path_between(net, drawn(net, 1), drawn(net, 2), fails)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert [m.training for m in net.modules()] == flags


@pytest.fixture
def normalised() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def test_statistics_are_interpolated_or_taken_anew_from_batches(normalised):
    one, other = copy.deepcopy(normalised), copy.deepcopy(normalised)
    batches = [
        (torch.randn(32, 3, generator=generator(i)) * 2 + 1, torch.zeros(32)) for i in (0, 1)
    ]
    for model, x in zip((one, other), batches, strict=True):
        model.train()
        for _ in range(5):
            model(x[0])
    with torch.no_grad():
        other[0].weight.mul_(-1)
    ends = state(one), state(other)
    seen: list[tuple[Tensor, Tensor]] = []

    def error(model: nn.Module) -> float:
        seen.append((model[1].running_mean.clone(), model[1].running_var.clone()))
        return 0.0

    path_between(normalised, *ends, error, points=1)
    torch.testing.assert_close(
        seen[1][0], (ends[0]["1.running_mean"] + ends[1]["1.running_mean"]) / 2
    )
    seen.clear()
    path_between(normalised, *ends, error, points=1, statistics=batches)
    middle = interpolated(*ends, 0.5)
    hidden = [x @ middle["0.weight"].T + middle["0.bias"] for x, _ in batches]
    torch.testing.assert_close(seen[1][0], torch.stack([h.mean(0) for h in hidden]).mean(0))
    torch.testing.assert_close(seen[1][1], torch.stack([h.var(0) for h in hidden]).mean(0))
    assert not torch.allclose(seen[0][0], ends[1]["1.running_mean"])  # at the ends, too


def test_taking_statistics_anew_leaves_flags_and_generators(normalised):
    normalised.eval()
    normalised[2].train()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    reestimate_(normalised, [(torch.randn(8, 3, generator=generator(0)), torch.zeros(8))])
    assert [m.training for m in normalised] == [False, False, True, False]
    assert torch.equal(torch.get_rng_state(), before)
    assert normalised[1].momentum == 0.1
    plain = nn.Linear(3, 1)
    reestimate_(plain, iter(()))  # there is nothing to take


def test_instability_looks_between_every_two_copies(net, classified):
    start = state(net)
    calls: list[int] = []

    def train(copy_number: int) -> dict[str, Tensor]:
        """A few steps from the same start on data of its own; the model itself is returned."""
        calls.append(copy_number)
        net.load_state_dict(start)
        optimizer = torch.optim.SGD(net.parameters(), 0.5)
        for step in range(20):
            x = torch.randn(8, 5, generator=generator(1000 * copy_number + step), **DOUBLE)
            optimizer.zero_grad()
            (net(x) - x[:, :3]).square().mean().backward()
            optimizer.step()
        return net.state_dict()

    paths = instability(train, net, classified, copies=3, points=3)
    assert calls == [0, 1, 2]
    ends = [{n: t.clone() for n, t in train(i).items()} for i in range(3)]
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = [path_between(net, ends[i], ends[j], classified, points=3) for i, j in pairs]
    assert paths == expected
    assert len({path.errors for path in paths}) == 3


def test_networks_of_another_shape_are_refused(net, classified):
    one, other = state(net), state(net)
    other["2.bias"] = torch.zeros(4, **DOUBLE)
    with pytest.raises(ConfigError, match=r"'2.bias' has shape \(3,\) in one .* \(4,\)"):
        path_between(net, one, other, classified)
    del other["2.bias"]
    with pytest.raises(ConfigError, match=r"only one of the two networks has '2.bias'"):
        path_between(net, one, other, classified)
    with pytest.raises(ConfigError, match="points 0; expected 1 or more"):
        path_between(net, one, one, classified, points=0)
    with pytest.raises(ConfigError, match="copies 1; expected 2 or more"):
        instability(lambda i: one, net, classified, copies=1)


def test_counts_are_those_of_the_first_network():
    one = {"steps": torch.tensor(5), "w": torch.tensor([1.0])}
    other = {"steps": torch.tensor(9), "w": torch.tensor([2.0])}
    assert interpolated(one, other, 0.5)["steps"] == 5


def test_a_path_of_two_places_has_the_barrier_of_its_ends():
    for errors in itertools.product((0.0, 1.0, 3.0), repeat=2):
        assert Path((0.0, 1.0), errors).barrier == abs(errors[0] - errors[1]) / 2
