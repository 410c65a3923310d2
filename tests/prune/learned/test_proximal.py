import copy

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.weights import prunable
from tersor.prune.learned import (
    PROX,
    Proximal,
    group_lasso,
    group_soft_threshold,
    grouped,
    position,
)
from tersor.prune.learned.proximal import hard_threshold

PENALTY = {  # of a vector that is one group, by numpy: what each map is the prox of
    "l1": lambda x: np.abs(x).sum(),
    "l0": lambda x: len(x) * float(np.any(x != 0)),
    "group_lasso": lambda x: np.sqrt(len(x)) * np.linalg.norm(x),
    "weight_decay": lambda x: (x**2).sum() / 2,
}


def minimum(penalty, w: np.ndarray, threshold: float) -> float:
    """The least value of the objective that a numerical minimiser finds, zero included."""

    def objective(x):
        return 0.5 * ((x - w) ** 2).sum() + threshold * penalty(x)

    starts = [w, 0.5 * w, np.full_like(w, 1e-3), np.zeros_like(w)]
    found = [
        minimize(
            objective,
            start,
            method="Nelder-Mead",
            options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 1000},
        )
        for start in starts
    ]
    return min([objective(np.zeros_like(w))] + [run.fun for run in found])


@pytest.mark.parametrize("name", PROX)
@pytest.mark.parametrize("threshold", [0.05, 0.4, 1.5])
def test_a_map_solves_its_minimisation(name, threshold):
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        w = torch.randn(3, generator=generator, dtype=torch.float64)
        dims = () if name == "l1" else (0,)
        x = PROX[name](w, threshold, dims)
        value = 0.5 * (x - w).square().sum().item() + threshold * PENALTY[name](x.numpy())
        assert value <= minimum(PENALTY[name], w.numpy(), threshold) + 1e-9


@pytest.mark.parametrize("threshold", [0.7, 1.0])
def test_exactly_the_groups_up_to_the_threshold_become_zero(threshold):
    generator = torch.Generator().manual_seed(2)
    w = torch.randn(6, 4, 3, 3, generator=generator, dtype=torch.float64)
    x = group_soft_threshold(w, threshold, (2, 3))
    small = w.square().sum(dim=(2, 3)).sqrt() <= threshold * 3
    assert 0 < small.sum() < 24
    assert torch.equal((x == 0).all(dim=3).all(dim=2), small)
    assert torch.equal((x == 0).any(dim=3).any(dim=2), small)


def test_zeros_are_plus_zero_and_zero_groups_stay():
    w = torch.tensor([[0.0, 0.0], [-0.1, -0.1], [3.0, -4.0]])
    for prox in PROX.values():
        x = prox(w, 0.5, (1,))
        assert torch.isfinite(x).all()
        assert not x[0].view(torch.int32).any()
    assert not group_soft_threshold(w, 0.5, (1,))[1].view(torch.int32).any()
    assert not PROX["l1"](w, 0.5, (1,))[1].view(torch.int32).any()


def test_hard_threshold_leaves_what_is_kept_as_it_is():
    w = torch.tensor([[3.0, -0.1], [0.2, 0.1]])
    assert hard_threshold(w, 0.5, (1,)).tolist() == [[3.0, pytest.approx(-0.1)], [0.0, 0.0]]


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 1, 4, 4, generator=generator), torch.randn(8, 3, generator=generator)


def steps(model, optimizer, numbers):
    for number in numbers:
        x, y = batch(number)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def test_lasso_is_solved_as_by_scikit_learn():
    from sklearn import linear_model

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 12, generator=generator, dtype=torch.float64)
    true = torch.zeros(12, dtype=torch.float64)
    true[:4] = torch.tensor([2.0, -1.0, 0.5, 3.0])
    y = x @ true + 0.1 * torch.randn(60, generator=generator, dtype=torch.float64)
    layer = nn.Linear(12, 1, bias=False).double()
    optimizer = torch.optim.SGD(layer.parameters(), 0.4)
    with Proximal(layer, 0.1).attach(optimizer):
        for _ in range(600):
            optimizer.zero_grad()
            ((layer(x)[:, 0] - y).square().mean() / 2).backward()
            optimizer.step()
    solver = linear_model.Lasso(alpha=0.1, fit_intercept=False, tol=1e-12, max_iter=100_000)
    expected = torch.from_numpy(solver.fit(x.numpy(), y.numpy()).coef_)
    torch.testing.assert_close(layer.weight[0].detach(), expected, rtol=0, atol=1e-9)
    assert torch.equal(layer.weight[0] == 0, expected == 0)
    assert 0 < (expected == 0).sum() < 12


def test_the_threshold_is_the_strength_times_the_rate_of_each_group():
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False))
    for layer in model:
        nn.init.ones_(layer.weight)
    groups = [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[1].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    method = Proximal(model, 0.2)
    with method.attach(optimizer):
        optimizer.step()
        torch.testing.assert_close(model[0].weight[0], torch.tensor([0.9, 0.9]))
        torch.testing.assert_close(model[1].weight[0], torch.tensor([0.98]))
        optimizer.param_groups[1]["lr"] = 1.0  # a schedule is followed
        optimizer.step()
        torch.testing.assert_close(model[1].weight[0], torch.tensor([0.78]))
    assert not method._model[0].weight.grad


@pytest.mark.parametrize("pattern", ["row", "channel", "kernel", "layer", position])
def test_whole_groups_become_zero_and_no_others(net, pattern):
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    with Proximal(net, 0.4, prox="group_lasso", pattern=pattern).attach(optimizer):
        steps(net, optimizer, range(40))
    found, _ = grouped(prunable(net), pattern)
    zeros = 0
    for part in found:
        dead = part.norms() == 0
        zeros += int(dead.sum())
        assert torch.equal((part.view() == 0), dead.expand(part.shape))
    assert zeros > 0


def test_the_objective_falls_to_what_a_long_run_of_small_steps_finds():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    y = torch.randn(40, 4, generator=generator, dtype=torch.float64)

    def objective(layer):
        loss = (layer(x) - y).square().sum(dim=1).mean() / 2
        return loss + 0.15 * group_lasso(layer, pattern="channel")

    layer = nn.Linear(6, 4, bias=False).double()
    optimizer = torch.optim.SGD(layer.parameters(), 0.2)
    with Proximal(layer, 0.15, prox="group_lasso", pattern="channel").attach(optimizer):
        for _ in range(500):
            optimizer.zero_grad()
            ((layer(x) - y).square().sum(dim=1).mean() / 2).backward()
            optimizer.step()

    def by_numpy(w):
        w = w.reshape(4, 6)
        loss = ((x.numpy() @ w.T - y.numpy()) ** 2).sum(axis=1).mean() / 2
        return loss + 0.15 * 2 * np.linalg.norm(w, axis=0).sum()

    found = minimize(
        by_numpy,
        layer.weight.detach().numpy().ravel(),
        method="Powell",
        options={"ftol": 1e-13, "xtol": 1e-9},
    )
    assert objective(layer).item() <= found.fun + 1e-8
    assert (layer.weight == 0).all(dim=0).any()


def test_rows_and_channels_one_after_the_other_give_both_zeros(net):
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    rows = Proximal(net, 0.06, prox="group_lasso", pattern="row", select="2")
    channels = Proximal(net, 0.1, prox="group_lasso", pattern="channel", select="2")
    with rows.attach(optimizer), channels.attach(optimizer):
        steps(net, optimizer, range(60))
    weight = net[2].weight
    assert (weight == 0).all(dim=0).any()
    assert rows.masks["2.weight"].equal(weight != 0)


def test_k_steps_save_load_and_k_steps_are_2k_steps_bit_for_bit(net):
    def start(model):
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        return optimizer, Proximal(
            model, 0.5, prox="group_lasso", pattern="row", start=2, warm_up=9
        )

    whole = copy.deepcopy(net)
    optimizer, method = start(whole)
    with method.attach(optimizer):
        steps(whole, optimizer, range(12))
    optimizer, first = start(net)
    with first.attach(optimizer):
        steps(net, optimizer, range(6))
    state = optimizer.state_dict()
    optimizer, second = start(net)
    optimizer.load_state_dict(state)
    second.load_state_dict(first.state_dict())
    assert not second.finished
    with second.attach(optimizer):
        steps(net, optimizer, range(6, 12))
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), net.parameters(), strict=True))
    assert second.finished


def test_the_report_says_what_is_zero_and_what_was_left_alone(net):
    method = Proximal(net, 1.0, prox="group_lasso", pattern="kernel")
    net[0].weight.data[1] = 0
    report = method.report()
    assert [(row["name"], row["kept"]) for row in report.rows] == [("0.weight", 27)]
    assert report.skipped["2.weight"] == "has no kernels"
    assert method.masks.kept == 27


def test_wrong_arguments_are_named(net):
    with pytest.raises(ConfigError, match="prox 'l3'"):
        Proximal(net, 1.0, prox="l3")
    with pytest.raises(ConfigError, match="strength: -1"):
        Proximal(net, -1.0)
    with pytest.raises(ConfigError, match=r"the optimizer does not have '2\.weight'"):
        Proximal(net, 1.0).attach(torch.optim.SGD(net[0].parameters(), 0.1))
