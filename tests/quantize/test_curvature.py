import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.weights import prunable
from tersor.quantize.curvature import (
    mean_curvatures,
    shares_of,
    spread_of,
    top_eigenvalue,
    weight_eigenvalue,
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def batches():
    draw = torch.Generator().manual_seed(1)
    inputs = 2 * torch.randn(14, 3, generator=draw, dtype=torch.float64)
    targets = torch.randint(3, (14,), generator=draw)
    return [(inputs[:9], targets[:9]), (inputs[9:], targets[9:])]  # of unequal size


def hessian(model, weight):
    """The Hessian of the mean loss over all samples in one weight, entry by entry."""
    inputs, targets = (torch.cat(parts) for parts in zip(*batches(), strict=True))

    def loss(values):
        outputs = torch.func.functional_call(model, {weight.name: values}, (inputs,))
        return nn.functional.cross_entropy(outputs, targets)

    size = weight.shape.numel()
    return torch.autograd.functional.hessian(loss, weight.parameter.detach()).reshape(size, size)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.integers(0, 10**6))
def test_power_iteration_finds_the_eigenvalue_that_is_largest_in_size(values, seed):
    order = sorted(values, key=abs)
    assume(abs(order[-1]) > 1e-3 and abs(order[-2]) < 0.8 * abs(order[-1]))  # else 100 are few
    draw = torch.Generator().manual_seed(seed)
    size = len(values)
    turn = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64)).Q
    matrix = turn @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ turn.T
    start = torch.randn(size, generator=draw, dtype=torch.float64)
    found = top_eigenvalue(lambda v: matrix @ v, start, tolerance=1e-6)
    assert found == pytest.approx(order[-1], rel=1e-5)


def test_of_a_zero_matrix_it_is_zero():
    assert top_eigenvalue(torch.zeros_like, torch.ones(3)) == 0.0


def test_the_eigenvalue_of_a_weight_is_that_of_its_block_of_the_hessian():
    model = network()
    for weight in prunable(model):
        values = torch.linalg.eigvalsh(hessian(model, weight))
        wanted = max(values.tolist(), key=abs)
        everything = torch.ones(weight.shape, dtype=torch.bool)
        found = weight_eigenvalue(
            model, weight, everything, batches(), nn.functional.cross_entropy, tolerance=1e-5
        )
        assert found == pytest.approx(wanted, rel=1e-4)


def test_what_is_pruned_has_no_part_in_it():
    model = network()
    weight = prunable(model)[0]
    kept = torch.tensor([[True, False, True]] * 4)
    inside = kept.flatten()
    block = hessian(model, weight)[inside][:, inside]
    wanted = max(torch.linalg.eigvalsh(block).tolist(), key=abs)
    loss = nn.functional.cross_entropy
    found = weight_eigenvalue(model, weight, kept, batches(), loss, tolerance=1e-5)
    assert found == pytest.approx(wanted, rel=1e-4)
    [mean] = mean_curvatures(model, [weight], [kept], batches(), loss, probes=400)
    assert mean == pytest.approx(float(block.diagonal().mean()), rel=0.15)


def test_the_mean_curvature_is_the_trace_over_the_entries():
    model, loss = network(), nn.functional.cross_entropy
    weights = prunable(model)
    kept = [torch.ones(weight.shape, dtype=torch.bool) for weight in weights]
    found = mean_curvatures(model, weights, kept, batches(), loss, probes=400)
    for weight, value in zip(weights, found, strict=True):
        wanted = float(hessian(model, weight).diagonal().mean())
        assert value == pytest.approx(wanted, rel=0.15)


def test_same_seed_same_numbers_and_the_model_stays_as_it_was():
    model, loss = network(), nn.functional.cross_entropy
    model.train()
    model[0].weight.requires_grad_(False)
    before, state = {n: p.clone() for n, p in model.state_dict().items()}, torch.get_rng_state()
    weights = prunable(model)
    kept = [torch.ones(weight.shape, dtype=torch.bool) for weight in weights]
    runs = [mean_curvatures(model, weights, kept, batches(), loss, seed=s) for s in (1, 1, 2)]
    tops = [weight_eigenvalue(model, weights[0], kept[0], batches(), loss, seed=s) for s in (1, 1)]
    assert runs[0] == runs[1] != runs[2]
    assert tops[0] == tops[1]
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())
    assert model.training
    assert not model[0].weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_shares_have_every_batch_once_and_one_batch_is_too_few():
    numbered = [(torch.tensor([float(i)]), torch.zeros(1)) for i in range(23)]
    shares = shares_of(numbered)
    assert len(shares) == 10
    assert [int(x) for share in shares for x, _ in share] == list(range(23))
    with pytest.raises(ConfigError, match="1 batch; expected two or more"):
        shares_of(numbered[:1])


def test_the_spread_is_the_mean_in_size_and_the_deviation():
    values = [-4.0, 1.0, 0.5]
    mean = sum(values) / 3
    deviation = (sum((v - mean) ** 2 for v in values) / 3) ** 0.5
    assert spread_of(values) == pytest.approx(abs(mean) + deviation)
