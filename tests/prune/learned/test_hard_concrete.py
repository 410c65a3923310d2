import math

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune.learned import expected_l0, finalize_, hard_concrete_


def gate_of(layer: nn.Module) -> nn.Module:
    return layer.parametrizations.weight[0]


def cumulative(log_alpha: float) -> float:
    """P(s <= s0) at s0 where the stretched gate is 0, by the distribution of s itself.

    s = sigmoid((logit u + log_alpha) / beta) <= s0 is logit u <= beta logit(s0) - log_alpha.
    """
    s0 = 0.1 / 1.2
    return 1 / (1 + math.exp(-(2 / 3 * math.log(s0 / (1 - s0)) - log_alpha)))


@pytest.mark.parametrize("log_alpha", [-3.0, 0.0, 2.2])
def test_expected_l0_is_the_share_of_draws_that_are_not_zero(log_alpha):
    layer = nn.Linear(300, 200)
    hard_concrete_(layer)
    gate_of(layer).log_alpha.data.fill_(log_alpha)
    expected = expected_l0(layer).item() / 60_000
    assert expected == pytest.approx(1 - cumulative(log_alpha), rel=1e-5)
    torch.manual_seed(0)
    share = (gate_of(layer).gate() != 0).double().mean().item()
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 60_000))


def test_expected_l0_counts_the_weights_of_a_group():
    layer = nn.Conv2d(3, 4, 5)
    hard_concrete_(layer, pattern="row", open_at_start=0.5)
    assert gate_of(layer).log_alpha.numel() == 4
    gate_of(layer).log_alpha.data[:] = torch.tensor([-50.0, -50, 50, 50]).view(4, 1, 1, 1)
    assert expected_l0(layer).item() == pytest.approx(150)


def test_its_gradient_is_that_of_finite_differences():
    layer = nn.Linear(3, 2).double()
    hard_concrete_(layer)
    gate = gate_of(layer)
    gate.log_alpha.data.normal_(generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(
        lambda log_alpha: (log_alpha - 2 / 3 * math.log(0.1 / 1.1)).sigmoid().sum(),
        [gate.log_alpha.detach().requires_grad_()],
    )
    (gradient,) = torch.autograd.grad(expected_l0(layer), [gate.log_alpha])
    with torch.no_grad():
        gate.log_alpha[0, 1] += 1e-6
        above = expected_l0(layer)
        gate.log_alpha[0, 1] -= 2e-6
        below = expected_l0(layer)
    torch.testing.assert_close(gradient[0, 1], (above - below) / 2e-6, rtol=1e-6, atol=0)


def test_the_draws_have_the_quantiles_of_the_distribution():
    layer = nn.Linear(500, 400)
    hard_concrete_(layer, open_at_start=0.7)
    torch.manual_seed(1)
    draws = gate_of(layer).gate().detach().flatten().sort().values
    assert draws[0] == 0
    assert draws[-1] == 1
    log_alpha = math.log(0.7 / 0.3)
    for z in (0.1, 0.5, 0.9):
        s = (z + 0.1) / 1.2
        below = 1 / (1 + math.exp(log_alpha - 2 / 3 * math.log(s / (1 - s))))
        assert (draws <= z).double().mean().item() == pytest.approx(below, abs=4e-3)


def test_the_gate_of_eval_mode_is_the_median_like_value_of_the_paper():
    layer = nn.Linear(4, 1)
    hard_concrete_(layer)
    gate_of(layer).log_alpha.data[:] = torch.tensor([[-5.0, -1.0, 1.0, 5.0]])
    s = torch.tensor([[-5.0, -1.0, 1.0, 5.0]]).sigmoid()
    layer.eval()
    torch.testing.assert_close(gate_of(layer).gate(), (1.2 * s - 0.1).clamp(0, 1))
    assert gate_of(layer).gate()[0, 0] == 0
    assert gate_of(layer).gate()[0, 3] == 1


@pytest.mark.parametrize(
    ("pattern", "gates"), [("element", 600), ("row", 20), ("channel", 30), ("4x5", 30)]
)
def test_a_pattern_has_one_gate_a_group(pattern, gates):
    layer = nn.Linear(30, 20)
    report = hard_concrete_(layer, pattern=pattern)
    assert report.rows[0]["gates"] == gates
    gate_of(layer).log_alpha.data.view(-1)[0] = -50
    masks, _ = finalize_(layer)
    assert masks["weight"].numel() - masks.kept == 600 // gates
    if pattern == "4x5":
        assert not masks["weight"][:4, :5].any()


def test_training_it_opens_what_is_needed_and_closes_the_rest():
    torch.manual_seed(0)
    layer = nn.Linear(10, 1, bias=False)
    hard_concrete_(layer, open_at_start=0.5)
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    x = torch.randn(200, 10)
    y = x[:, :3] @ torch.tensor([2.0, -1.5, 1.0])
    for _ in range(300):
        optimizer.zero_grad()
        ((layer(x)[:, 0] - y).square().mean() + 0.05 * expected_l0(layer)).backward()
        optimizer.step()
    masks, report = finalize_(layer)
    assert masks["weight"].tolist() == [[True] * 3 + [False] * 7]
    assert report.summary["kept"] == 3


def test_wrong_arguments_are_named():
    with pytest.raises(ConfigError, match=r"open_at_start: 1\.0"):
        hard_concrete_(nn.Linear(2, 2), open_at_start=1.0)
    with pytest.raises(ConfigError, match="Linear has no gates"):
        expected_l0(nn.Linear(2, 2))
