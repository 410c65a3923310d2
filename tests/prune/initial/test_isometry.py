import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import structural_rank
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.prune.initial import approximate_isometry_, distance_to_isometry, initialise_


def sparse(out: int, inputs: int, density: float, seed: int = 0) -> tuple[nn.Linear, MaskSet]:
    """An orthogonal layer and a random mask."""
    torch.manual_seed(seed)
    layer = nn.Linear(inputs, out).double()
    nn.init.orthogonal_(layer.weight)
    return layer, MaskSet({"weight": torch.rand(out, inputs) < density})


def singular(layer: nn.Module) -> torch.Tensor:
    return torch.linalg.svdvals(layer.weight.detach().flatten(1))


@pytest.mark.parametrize("shape", [(40, 40), (20, 50), (50, 20)])
def test_where_the_mask_allows_it_all_singular_values_come_to_one(shape):
    layer, masks = sparse(*shape, 0.5)
    masks.apply(layer)
    assert singular(layer).mean() < 0.8
    report = approximate_isometry_(layer, masks)
    torch.testing.assert_close(
        singular(layer), torch.ones(min(shape), dtype=torch.double), atol=5e-3, rtol=0
    )
    assert report.rows[0]["norm after"] < 1e-2 < report.rows[0]["norm before"]


@settings(max_examples=25, deadline=None)
@given(
    out=st.integers(1, 8),
    inputs=st.integers(1, 8),
    density=st.floats(0.05, 1),
    seed=st.integers(0, 99),
)
def test_no_mask_lets_the_distance_below_the_structural_bound(out, inputs, density, seed):
    layer, masks = sparse(out, inputs, density, seed)
    before = layer.weight.detach() * masks["weight"]
    approximate_isometry_(layer, masks, steps=60)
    rank = structural_rank(csr_matrix(masks["weight"].numpy()))
    after = layer.weight.detach()
    reached = distance_to_isometry(after).item()
    assert reached >= math.sqrt(min(out, inputs) - rank) - 1e-9
    assert reached <= distance_to_isometry(before).item() + 1e-12
    assert (after[~masks["weight"]] == 0).all()


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_a_bound_that_can_be_attained_is(solver):
    layer, _ = sparse(6, 6, 1.0)
    mask = torch.eye(6).bool()
    mask[4, 4] = mask[5, 5] = False  # two rows with nothing: two singular values stay 0
    report = approximate_isometry_(layer, MaskSet({"weight": mask}), solver=solver, steps=500)
    assert report.rows[0]["norm after"] == pytest.approx(math.sqrt(2), abs=0.05)
    assert report.rows[0]["least singular value"] == 0


def test_the_objective_does_not_rise_with_more_steps():
    norms = []
    for steps in (1, 2, 3, 5, 10, 19, 20, 21, 40, 60, 100):
        layer, masks = sparse(30, 30, 0.2)
        report = approximate_isometry_(layer, masks, steps=steps)
        norms.append(report.rows[0]["norm after"])
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < norms[0] / 3


def test_a_dense_orthogonal_layer_is_left_bit_for_bit():
    layer, masks = sparse(15, 15, 1.1)
    before = layer.weight.detach().clone()
    approximate_isometry_(layer, masks)
    assert torch.equal(layer.weight, before)


def test_the_papers_solver_stalls_where_ours_arrives_and_chatters_where_ours_rests():
    results = {}
    for solver in ("lbfgs", "sgd"):
        layer, masks = sparse(60, 60, 0.5)
        results[solver] = approximate_isometry_(layer, masks, solver=solver, steps=300).rows[0]
    assert results["sgd"]["norm before"] > 4
    assert results["lbfgs"]["norm after"] < 0.15 < results["sgd"]["norm after"] < 1
    layer, masks = sparse(60, 60, 1.1)
    layer.float()
    assert approximate_isometry_(layer, masks, solver="sgd", steps=300).rows[0]["norm after"] > 0.02


def test_one_step_of_the_papers_solver_is_autograds():
    layer, masks = sparse(4, 7, 0.6)
    start = (layer.weight.detach() * masks["weight"]).requires_grad_()
    # As in the paper's code: matrices are stored (in, out), and the Gram matrix is A.T @ A.
    stored = start.T
    norm = (stored.T @ stored - torch.eye(4, dtype=torch.double)).norm()
    (gradient,) = torch.autograd.grad(norm, start)
    approximate_isometry_(layer, masks, solver="sgd", steps=1)
    expected = start.detach() - 0.1 * gradient * masks["weight"]
    torch.testing.assert_close(layer.weight.detach(), expected)


def test_with_more_outputs_than_inputs_the_papers_norm_has_a_floor_that_ours_has_not():
    layer, masks = sparse(64, 27, 0.5)
    approximate_isometry_(layer, masks, solver="sgd", steps=200)
    weight = layer.weight.detach()
    floor = (weight @ weight.T - torch.eye(64, dtype=torch.double)).norm()
    assert floor >= math.sqrt(64 - 27)
    layer, masks = sparse(64, 27, 0.5)
    assert approximate_isometry_(layer, masks).rows[0]["norm after"] < 1e-2


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 8)
        self.conv = nn.Conv2d(4, 6, 3, groups=2)
        self.gru = nn.GRU(8, 8)
        self.fc = nn.Linear(8, 8)


def test_gates_and_groups_count_as_layers_and_the_rest_is_left_alone():
    torch.manual_seed(0)
    model = Several()
    initialise_(model, nn.init.orthogonal_)
    rest = {n: p.detach().clone() for n, p in model.named_parameters()}
    names = ["table.weight", "conv.weight", "gru.weight_hh_l0"]
    masks = MaskSet({n: torch.rand_like(rest[n]) < 0.5 for n in names})
    report = approximate_isometry_(model, masks, steps=40)
    assert [row["name"] for row in report.rows] == [
        "conv.weight[0]",
        "conv.weight[1]",
        "gru.weight_hh_l0[0]",
        "gru.weight_hh_l0[1]",
        "gru.weight_hh_l0[2]",
    ]
    assert report.skipped["table.weight"].startswith("an embedding")
    assert report.skipped["fc.weight"] == "has no mask"
    for row in report.rows:
        assert row["norm after"] < row["norm before"]
    after = dict(model.named_parameters())
    for name in ("fc.weight", "fc.bias", "gru.weight_ih_l0"):
        assert torch.equal(after[name], rest[name])
    assert torch.equal(after["table.weight"], rest["table.weight"] * masks["table.weight"])
    for name in names:
        assert (after[name][~masks[name]] == 0).all()
    gram = after["gru.weight_hh_l0"].detach()[8:16]
    assert distance_to_isometry(gram).item() == pytest.approx(
        report.rows[3]["norm after"], abs=1e-4
    )


def test_what_cannot_be_done_is_said_before_anything_changes():
    layer, masks = sparse(3, 3, 0.5)
    before = layer.weight.detach().clone()
    with pytest.raises(ConfigError, match="solver 'lbgfs': did you mean 'lbfgs'"):
        approximate_isometry_(layer, masks, solver="lbgfs")
    with pytest.raises(ConfigError, match="steps 0; expected 1 or more"):
        approximate_isometry_(layer, masks, steps=0)
    with pytest.raises(ConfigError, match="mask 'other'"):
        approximate_isometry_(layer, MaskSet({"other": masks["weight"]}))
    assert torch.equal(layer.weight, before)


def test_the_layout_of_a_kernel_in_memory_does_not_matter():
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        conv = nn.Conv2d(4, 6, 3).double().to(memory_format=layout)
        masks = MaskSet({"weight": torch.rand(6, 4, 3, 3) < 0.5})
        approximate_isometry_(conv, masks, steps=20)
        assert distance_to_isometry(conv.weight.detach().flatten(1)) < 0.1
        results.append(conv.weight.detach())
    torch.testing.assert_close(*results)
