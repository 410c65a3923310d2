"""Every factorizer, and what holds for all of them."""

from __future__ import annotations

import copy
import itertools
import json
import math

import numpy as np
import pytest
import tensorly
import torch
from tensorly.decomposition import tucker
from torch import nn

from tersor.core.errors import ConfigError
from tersor.factorize import FACTORIZERS, factorize_, fold_, rebuild_, structure
from tersor.factorize.tensor_train import parted

CONVOLUTIONS = ["svd", "randomized_svd", "spatial_svd", "tucker", "cp", "low_rank_sparse"]
MATRICES = ["svd", "randomized_svd", "tensor_train", "block_term", "low_rank_sparse"]

LAYERS = {
    "linear": (lambda: nn.Linear(24, 30), (5, 24)),
    "no bias": (lambda: nn.Linear(24, 30, bias=False), (2, 3, 24)),
    "conv": (lambda: nn.Conv2d(6, 8, 3, stride=2, padding=1), (2, 6, 9, 10)),
    "uneven": (
        lambda: nn.Conv2d(4, 6, (3, 5), stride=(1, 2), padding=(2, 1), dilation=(2, 1)),
        (2, 4, 12, 11),
    ),
    "reflect": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 7, 7)),
    "same": (lambda: nn.Conv2d(4, 6, 3, padding="same"), (2, 4, 7, 7)),
    "sequence": (lambda: nn.Conv1d(6, 8, 5, padding=2), (2, 6, 12)),
    "volume": (lambda: nn.Conv3d(3, 4, 3), (1, 3, 5, 5, 5)),
}


CASES = [
    (method, layer)
    for layer in LAYERS
    for method in (MATRICES if layer in ("linear", "no bias") else CONVOLUTIONS)
    if method != "spatial_svd" or layer not in ("sequence", "volume")
]


def built(layer: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    make, shape = LAYERS[layer]
    return nn.Sequential(make()).to(dtype), torch.randn(shape, dtype=dtype)


def weight_of(model: nn.Sequential) -> torch.Tensor:
    """The weight that the factors of the only layer stand for."""
    twin = copy.deepcopy(model)
    fold_(twin)
    return twin[0].weight.detach()


@pytest.mark.parametrize(("method", "layer"), CASES)
def test_factors_do_what_the_layer_with_their_product_does(method, layer):
    model, x = built(layer)
    factorize_(model, 3, method=method, force=True)
    folded = copy.deepcopy(model)
    assert fold_(folded).summary["layers"] == 1
    assert type(folded[0]) is type(built(layer)[0][0])
    torch.testing.assert_close(model(x), folded(x), rtol=1e-10, atol=1e-10)


# Alternating least squares of CP finds no exact sum of so many terms.
@pytest.mark.parametrize(("method", "layer"), [c for c in CASES if c[0] != "cp"])
def test_the_full_rank_is_the_layer_itself(method, layer):
    model, x = built(layer)
    expected = model(x)
    most = FACTORIZERS[method]().most(model[0])
    factorize_(model, {"0": most}, method=method, force=True)
    torch.testing.assert_close(model(x), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("method", "layer"), CASES)
def test_the_error_does_not_grow_with_the_rank_and_weights_are_counted(method, layer):
    errors = []
    for rank in (1, 2, 3, 4):
        model, _ = built(layer)
        dense = model[0].weight.detach().clone()
        report = factorize_(model, rank, method=method, force=True)
        biases = model[0]._bias()
        count = sum(p.numel() for p in model.parameters())
        count -= 0 if biases is None else biases.numel()
        if method == "low_rank_sparse":  # of the sparse part those that are not zero
            sparse = model[0][0].sparse.weight
            count -= int((sparse == 0).sum())
        assert count == report.rows[0]["weights after"]
        error = float((weight_of(model) - dense).norm() / dense.norm())
        assert error == pytest.approx(report.rows[0]["relative error"], rel=1e-4)
        errors.append(error)
    slack = 1e-3 if method in ("cp", "low_rank_sparse", "block_term") else 1e-9
    assert all(b <= a + slack for a, b in itertools.pairwise(errors))
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("layer", ["linear", "conv", "sequence"])
def test_svd_leaves_out_just_the_smallest_singular_values(layer):
    model, _ = built(layer)
    dense = model[0].weight.detach().flatten(1).numpy()
    left_out = np.linalg.svd(dense, compute_uv=False)[4:]
    factorize_(model, 4, force=True)
    error = np.linalg.norm(weight_of(model).flatten(1).numpy() - dense)
    assert error == pytest.approx(math.sqrt((left_out**2).sum()), rel=1e-9)


def test_spatial_svd_leaves_out_those_of_the_matrix_of_heights_and_widths():
    model, _ = built("conv")
    dense = model[0].weight.detach().numpy()
    matrix = dense.transpose(1, 2, 0, 3).reshape(6 * 3, 8 * 3)
    left_out = np.linalg.svd(matrix, compute_uv=False)[5:]
    factorize_(model, 5, method="spatial_svd", force=True)
    error = np.linalg.norm(weight_of(model).numpy() - dense)
    assert error == pytest.approx(math.sqrt((left_out**2).sum()), rel=1e-9)


def test_tucker_is_within_the_tails_of_both_unfoldings_and_its_factors_are_orthonormal():
    model, _ = built("conv")
    dense = model[0].weight.detach()
    tails = [
        torch.linalg.svdvals(m)[r:].square().sum()
        for m, r in ((dense.flatten(1), 4), (dense.transpose(0, 1).flatten(1), 3))
    ]
    factorize_(model, {"0": (4, 3)}, method="tucker", force=True)
    error = (weight_of(model) - dense).square().sum()
    assert float(max(tails)) <= float(error) + 1e-12
    assert float(error) <= float(sum(tails)) + 1e-12
    inputs, core, out = (layer.weight.detach() for layer in model[0])
    assert core.shape == (4, 3, 3, 3)
    torch.testing.assert_close(out.flatten(1).T @ out.flatten(1), torch.eye(4).double())
    torch.testing.assert_close(inputs.flatten(1) @ inputs.flatten(1).T, torch.eye(3).double())


@pytest.mark.parametrize("mode", [0, 1])
def test_tucker_with_one_rank_cut_leaves_out_just_the_tail_of_that_unfolding(mode):
    model, _ = built("conv")
    dense = model[0].weight.detach()
    left_out = torch.linalg.svdvals(dense.transpose(0, mode).flatten(1))[3:]
    factorize_(model, {"0": (3, 6) if mode == 0 else (8, 3)}, method="tucker", force=True)
    error = float((weight_of(model) - dense).norm())
    assert error == pytest.approx(float(left_out.norm()), rel=1e-9)


def test_a_train_of_two_cores_leaves_out_just_the_tail_of_its_cut():
    model, _ = built("linear")
    dense = model[0].weight.detach()
    shaped = dense.reshape(*parted(30, 2), *parted(24, 2)).permute(0, 2, 1, 3)
    left_out = torch.linalg.svdvals(shaped.flatten(2).flatten(0, 1))[5:]
    factorize_(model, 5, method="tensor_train", parts=2, force=True)
    error = float((weight_of(model) - dense).norm())
    assert error == pytest.approx(float(left_out.norm()), rel=1e-9)


@pytest.mark.parametrize(("method", "layer"), [c for c in CASES if c[0] == "randomized_svd"])
def test_the_sketch_of_a_weight_of_low_rank_is_the_weight(method, layer):
    model, _ = built(layer)
    factorize_(model, 3, method="svd", force=True)
    fold_(model)
    dense = model[0].weight.detach().clone()
    factorize_(model, 3, method=method, force=True, oversampling=0)
    torch.testing.assert_close(weight_of(model), dense, rtol=1e-9, atol=1e-9)


def test_cp_finds_a_planted_sum_of_two_terms():
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(n, 2, generator=generator).double() for n in (8, 6, 3, 3)]
    model, _ = built("conv")
    model[0].weight.data.copy_(torch.einsum("fr,cr,ir,jr->fcij", *parts))
    report = factorize_(model, 2, method="cp", sweeps=400)
    assert report.rows[0]["relative error"] < 1e-4


def test_a_train_is_within_the_tails_of_its_cuts():
    model, _ = built("linear")
    dense = model[0].weight.detach()
    outputs, inputs = parted(30, 3), parted(24, 3)
    order = (0, 3, 1, 4, 2, 5)
    tensor = (
        dense.reshape(*outputs, *inputs)
        .permute(order)
        .reshape([m * n for m, n in zip(outputs, inputs, strict=True)])
    )
    tails = [
        torch.linalg.svdvals(tensor.flatten(0, cut - 1).flatten(1))[6:].square().sum()
        for cut in (1, 2)
    ]
    factorize_(model, 6, method="tensor_train", force=True)
    error = (weight_of(model) - dense).square().sum()
    assert float(max(tails)) <= float(error) + 1e-12
    assert float(error) <= float(sum(tails)) + 1e-12


def test_low_rank_plus_sparse_finds_what_was_planted():
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(40, 2, generator=generator) @ torch.randn(2, 50, generator=generator)
    spikes = torch.zeros(2000)
    spikes[torch.randperm(2000, generator=generator)[:40]] = 30.0
    model = nn.Sequential(nn.Linear(50, 40))
    model[0].weight.data.copy_(low + spikes.view(40, 50))
    report = factorize_(model, 2, method="low_rank_sparse", density=0.02, sweeps=100, tolerance=0.0)
    assert report.rows[0]["relative error"] < 1e-4
    found = model[0][0].sparse.weight.detach().flatten()
    assert torch.equal(found.nonzero(), spikes.nonzero())


def test_one_block_is_tuckers_decomposition_and_the_count_is_the_published_one():
    model = nn.Sequential(nn.Linear(512, 512))
    report = factorize_(model, 3, method="block_term", blocks=2)
    # Ye et al. 2018: N (sum_k Y_k Z_k R + R^d)
    assert report.rows[0]["weights after"] == 2 * (3 * 64 * 3 + 27) == 1206
    one, _ = built("linear")
    dense = one[0].weight.detach().clone()
    factorize_(one, 5, method="block_term", blocks=1, sweeps=50, force=True)
    shaped = dense.reshape(*parted(30, 3), *parted(24, 3)).permute(0, 3, 1, 4, 2, 5)
    tensor = shaped.reshape(20, 9, 4).numpy()
    core, factors = tucker(tensor, [5, 5, 4], n_iter_max=50, tol=1e-10)
    ours = weight_of(one).reshape(*parted(30, 3), *parted(24, 3)).permute(0, 3, 1, 4, 2, 5)
    theirs = tensorly.tucker_to_tensor((core, factors))
    np.testing.assert_allclose(ours.reshape(20, 9, 4).numpy(), theirs, atol=1e-10)


def test_the_sketch_is_nearly_as_good_as_the_svd_and_seeded():
    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, 60, dtype=torch.float64)).Q for n in (80, 120))
    decaying = u @ torch.diag(0.8 ** torch.arange(60.0).double()) @ v.T
    errors, products = [], []
    for method, seed in (("svd", 0), ("randomized_svd", 0), ("randomized_svd", 0)):
        model = nn.Sequential(nn.Linear(120, 80)).double()
        model[0].weight.data.copy_(decaying)
        factorize_(model, 8, method=method, seed=seed)
        products.append(weight_of(model))
        errors.append(float((products[-1] - decaying).norm()))
    assert errors[0] <= errors[1] < 1.01 * errors[0]
    assert torch.equal(products[1], products[2])


def test_with_inputs_the_error_of_the_outputs_is_least():
    torch.manual_seed(0)
    mix = torch.randn(24, 24, dtype=torch.float64) * torch.logspace(0, -2, 24).double()
    x = torch.randn(400, 24, dtype=torch.float64) @ mix
    errors = {}
    for method in ("svd", "activation_svd"):
        model, _ = built("linear")
        before = model(x)
        factorize_(model, 6, method=method, data=[x], force=True)
        errors[method] = float((model(x) - before).square().mean().detach())
    # the closed form: outputs without bias, cut to rank 6
    y = x @ built("linear")[0][0].weight.detach().T
    least = torch.linalg.svdvals(y)[6:].square().sum() / y.numel()
    assert errors["activation_svd"] == pytest.approx(float(least), rel=1e-4)
    assert errors["activation_svd"] < 0.8 * errors["svd"]


def test_with_inputs_of_a_convolution_too():
    errors = {}
    for method in ("svd", "activation_svd"):
        model, x = built("conv")
        x = x + 3  # what comes in has a direction
        before = model(x)
        factorize_(model, 2, method=method, data=[(x, None)], force=True)
        errors[method] = float((model(x) - before).square().mean().detach())
    assert errors["activation_svd"] < 0.8 * errors["svd"]


def test_an_embedding_by_cores_gives_the_rows_of_its_product():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(60, 24)).double()
    factorize_(model, 7, method="tensor_train", force=True)
    numbers = torch.randint(60, (3, 5))
    torch.testing.assert_close(model(numbers), weight_of(model)[numbers], rtol=1e-10, atol=1e-10)


def test_an_embedding_by_svd_leaves_out_the_smallest_singular_values_and_keeps_its_padding():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(60, 24, padding_idx=3)).double()
    dense = model[0].weight.detach().clone()
    report = factorize_(model, 7, method="embedding_svd")
    assert report.rows[0]["weights after"] == 60 * 7 + 7 * 24  # V E + E H of ALBERT
    assert [type(layer) for layer in model[0]] == [nn.Embedding, nn.Linear]
    error = float((weight_of(model) - dense).norm())
    left_out = np.linalg.svd(dense.numpy(), compute_uv=False)[7:]
    assert error == pytest.approx(math.sqrt((left_out**2).sum()), rel=1e-9)
    numbers = torch.tensor([[3, 5], [1, 3]])
    torch.testing.assert_close(model(numbers), weight_of(model)[numbers], rtol=1e-10, atol=1e-10)
    model(numbers).sum().backward()
    assert (model(torch.tensor([3])) == 0).all()
    assert (model[0][0].weight.grad[3] == 0).all()
    fresh = nn.Sequential(nn.Embedding(60, 24, padding_idx=3)).double()
    rebuild_(fresh, structure(model))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(numbers), model(numbers))
    assert fold_(model).summary["layers"] == 1
    assert model[0].padding_idx == 3


def test_an_embedding_that_changes_its_rows_is_left_alone():
    model = nn.Sequential(nn.Embedding(60, 24, max_norm=1.0), nn.Linear(24, 24))
    skipped = factorize_(model, 2, method="embedding_svd").skipped
    assert "max_norm" in skipped["0.weight"]
    assert skipped["1.weight"] == "takes embeddings, this is Linear"


@pytest.mark.parametrize(("method", "layer"), CASES)
def test_a_record_builds_the_same_structure_again(method, layer):
    model, x = built(layer)
    factorize_(model, 3, method=method, force=True)
    fresh = built(layer)[0]
    rebuild_(fresh, structure(model))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), model(x))
    assert structure(fresh) == structure(model)


def test_settings_survive_as_plain_data():
    model, _ = built("linear")
    factorize_(model, 3, method="tensor_train", parts=2, force=True)
    records = json.loads(json.dumps(structure(model)))
    fresh = built("linear")[0]
    rebuild_(fresh, records)
    assert len(fresh[0].factors()) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "7"}, "does not fit the model"),
        ({"method": "svdd"}, "method 'svdd' is unknown"),
        ({"kind": "hashed"}, "kind 'hashed'"),
        ({"rank": [99]}, r"rank \[99\], expected at most \[24\]"),
        ({"rank": [2, 2]}, r"rank \[2, 2\]"),
        ({"method": "tucker"}, "takes convolutions, this is Linear"),
        ({"settings": {"solvr": 1}}, "no setting 'solvr'; did you mean 'solver'"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_and_nothing_is_changed(change, message):
    model, _ = built("linear")
    factorize_(model, 3, force=True)
    record = structure(model)[0]
    if "method" in change:
        record["settings"] = {}
    fresh = built("linear")[0]
    with pytest.raises(ConfigError, match=message):
        rebuild_(fresh, [record | change])
    assert isinstance(fresh[0], nn.Linear)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("svd", {"solver": "fast"}, "solver: 'fast'"),
        ("randomized_svd", {"oversampling": -1}, "oversampling -1"),
        ("tucker", {"sweeps": 0}, "sweeps: 0; expected a whole number, 1 or more"),
        ("cp", {"sweeps": 1.5}, "sweeps: 1.5"),
        ("tensor_train", {"parts": 1}, "parts: 1; expected a whole number, 2 or more"),
        ("block_term", {"blocks": 0}, "blocks 0, parts 3"),
        ("low_rank_sparse", {"density": 0}, "density: 0; expected 0 < density <= 1"),
        ("low_rank_sparse", {"sweeps": 0}, "sweeps 0"),
    ],
)
def test_settings_out_of_range_are_refused(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        FACTORIZERS[name](**settings)


@pytest.mark.parametrize(
    ("size", "parts", "expected"), [(1, 2, (1, 1)), (97, 2, (97, 1)), (10_000, 3, (25, 20, 20))]
)
def test_a_number_is_parted_evenly(size, parts, expected):
    assert parted(size, parts) == expected
    assert math.prod(parted(size, parts)) == size
