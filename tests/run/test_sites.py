"""Which layers kernels may run, why the others not, and what is worth timing."""

import pytest
import torch
from deployables import cnn, few_values_, gap, images, in_float64, mlp, prefer, vectors
from torch import nn
from torch.nn.utils import parametrizations, prune

from tersor.run import deploy, plan_of
from tersor.run.packing import entries_of
from tersor.run.sites import Site, sites, weight_matrix, weights_of


class Conv1D(nn.Module):
    """As Hugging Face's: the weight is (in, out)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Renamed(nn.Linear):
    pass


def test_weights_are_those_of_layers_whose_forward_is_torchs():
    assert weights_of(nn.Linear(2, 3)) == weights_of(Renamed(2, 3)) == ("weight",)
    assert weights_of(Conv1D(2, 3)) == weights_of(nn.Embedding(2, 3)) == ("weight",)
    assert weights_of(nn.MultiheadAttention(4, 2)) == ("in_proj_weight", "out_proj.weight")
    assert weights_of(nn.MultiheadAttention(4, 2, kdim=3)) == (
        "q_proj_weight",
        "k_proj_weight",
        "v_proj_weight",
        "out_proj.weight",
    )
    assert weights_of(nn.GRU(2, 3)) == ("weight_ih_l0", "weight_hh_l0")
    assert (
        weights_of(Doubled(2, 3)) == weights_of(nn.ReLU()) == weights_of(nn.Conv1d(1, 1, 1)) == ()
    )


def found_and_skipped(model):
    found, skipped = sites(model, {})
    return [site.name for site in found], skipped


def test_the_projection_inside_an_attention_is_no_layer_of_its_own():
    model = nn.ModuleDict({"att": nn.MultiheadAttention(4, 2), "attic": nn.Linear(4, 4)})
    assert found_and_skipped(model) == (["att", "attic"], {})
    model["att"].add_zero_attn = True
    assert found_and_skipped(model) == (["attic"], {"att": "keys with a bias or a zero position"})


def test_a_module_with_two_names_is_one_layer():
    shared = nn.Linear(4, 4)
    assert found_and_skipped(nn.Sequential(shared, nn.ReLU(), shared)) == (["0"], {})


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Linear(4, 4).double(), r"torch.float64, and the kernels take torch.float32"),
        (nn.Conv2d(4, 4, 1).bfloat16(), "torch.bfloat16, and the kernels take torch.float32"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "padding with 'reflect'"),
        (nn.Conv2d(4, 4, 2, padding="same"), "a padding that is not the same on both sides"),
        (nn.Embedding(4, 4, max_norm=1.0), "max_norm changes the table while it is read"),
        (nn.MaxPool2d(2, ceil_mode=True), "indices, ceil_mode or a dilation"),
        (nn.MaxPool2d(2, dilation=2), "indices, ceil_mode or a dilation"),
        (nn.MaxPool2d(2, return_indices=True), "indices, ceil_mode or a dilation"),
        (parametrizations.weight_norm(nn.Linear(4, 4)), "parametrised: torch.nn.utils.parametr"),
    ],
)
def test_what_no_kernel_can_run_is_skipped_with_the_reason(layer, reason):
    found, skipped = found_and_skipped(nn.Sequential(layer, nn.Linear(4, 4)))
    assert found == ["1"]
    assert skipped["0"].startswith(reason)


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("layer", [nn.Linear(4, 4), nn.MaxPool2d(2)])
def test_a_layer_with_hooks_is_skipped(register, layer):
    getattr(layer, register)(lambda *_: None)
    found, skipped = found_and_skipped(nn.Sequential(layer, nn.Linear(4, 4)))
    assert found == ["1"]
    assert skipped["0"].startswith("hooks are registered on it")


@pytest.mark.parametrize("called", [False, True])
def test_a_layer_that_torch_pruned_is_taken_once_its_mask_is_in_its_weight(monkeypatch, called):
    prefer(monkeypatch, "sparse")
    model, x = mlp(), vectors()
    for i in (0, 2):
        prune.l1_unstructured(model[i], "weight", amount=0.5)
    if called:
        model(x)
    prune.remove(model[2], "weight")
    fast = deploy(model, x)
    plan = plan_of(fast)
    assert [layer.name for layer in plan.layers] == ["2", "4"]
    assert any("0: stays as it is: " in note and "prune.remove" in note for note in plan.notes)
    assert gap(fast(x), model(x)) < 3e-6
    assert torch.equal(fast[2].weight, model[2].weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_layers_of_another_dtype_stay_and_the_rest_is_deployed(monkeypatch, dtype):
    class Cast(nn.Module):
        def forward(self, x):
            return x.to(dtype)

    prefer(monkeypatch, "sparse")
    model = nn.Sequential(mlp()[0], Cast(), nn.Linear(32, 4).to(dtype)).eval()
    fast = deploy(model, vectors())
    plan = plan_of(fast)
    assert [layer.name for layer in plan.layers] == ["0"]
    assert plan.notes == (f"2: stays as it is: {dtype}, and the kernels take torch.float32",)
    assert fast(vectors()).dtype == dtype


def kernels(layer, *sizes):
    site = Site("layer", layer, weights_of(layer))
    entries = {w: entries_of(weight_matrix(layer, w)) for w in site.weights}
    return site.kernels(entries, sizes)


def linear(rows, columns, density, values):
    layer = nn.Linear(columns, rows)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        book = torch.randn(values, generator=generator)
        weight = book[torch.randint(values, (rows, columns), generator=generator)]
        kept = torch.rand(rows, columns, generator=generator) < density
        layer.weight.copy_(weight * kept + 0.0)
    return layer


def on_grid(rows, columns, bits, group):
    """A layer of integers with a scale for each row and group."""
    layer = nn.Linear(columns, rows)
    generator = torch.Generator().manual_seed(0)
    half = 1 << (bits - 1)
    integers = torch.randint(-half, half, (rows, columns), generator=generator)
    scales = torch.rand(rows, -(-columns // group), generator=generator) + 0.01
    with torch.no_grad():
        layer.weight.copy_(integers * scales.repeat_interleave(group, 1)[:, :columns])
    return layer


@pytest.mark.parametrize(
    ("layer", "sizes", "expected"),
    [
        (linear(300, 500, 0.1, 15), (1,), ["sparse/4096", "sparse/256", "codes", "csr"]),
        (linear(300, 500, 0.1, 15), (1, 64), ["sparse/4096", "sparse/256", "codes", "csr"]),
        (linear(300, 500, 0.1, 15), (64,), ["sparse/4096", "sparse/256", "codes", "csr"]),
        (linear(300, 500, 0.1, 5000), (1,), ["sparse/32768", "sparse/256", "scaled/256", "csr"]),
        (
            linear(300, 500, 0.1, 200),
            (64,),
            ["sparse/256", "values/4096", "values/256", "csr"],
        ),
        (linear(300, 500, 0.9, 15), (1,), ["codes"]),
        (linear(300, 500, 0.9, 15), (64,), ["codes"]),
        (linear(300, 500, 0.9, 200), (1,), ["codes", "row codes"]),
        (linear(300, 500, 0.9, 200), (64,), ["row codes"]),
        (linear(300, 500, 0.9, 5000), (1,), ["row codes"]),
        (linear(50, 50, 0.9, 15), (64,), ["sparse/4096", "codes"]),
        (on_grid(110, 500, 8, 500), (1,), ["int8", "row codes"]),
        (on_grid(110, 500, 4, 128), (64,), ["int4 group 128", "row codes"]),
        (on_grid(110, 500, 2, 32), (64,), ["int2 group 32", "row codes"]),
    ],
)
def test_kernels_are_timed_where_values_and_batches_allow_them(layer, sizes, expected):
    assert kernels(layer, *sizes) == expected


def test_convolutions_and_tables_have_sparse_kernels_alone():
    assert kernels(few_values_(nn.Conv2d(8, 8, 3)), 1) == ["sparse/4096"]
    assert kernels(few_values_(nn.Conv2d(64, 8, 3, groups=2)), 1) == ["sparse/4096", "sparse/256"]
    assert kernels(few_values_(nn.Embedding(100, 300)), 1) == ["sparse/4096"]
    assert kernels(nn.MaxPool2d(2), 1) == ["pool"]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding="same"),
        nn.Conv2d(4, 6, (5, 1), padding="same", dilation=2),
        nn.Conv2d(4, 6, 3, padding="valid"),
        nn.Conv2d(4, 6, 3, padding=(2, 0), stride=2),
        nn.Conv2d(4, 6, 3, groups=2, padding=1),
        nn.Conv2d(4, 4, 3, groups=4, bias=False),
    ],
)
def test_convolutions_of_every_padding(monkeypatch, layer):
    prefer(monkeypatch, "sparse")
    model = few_values_(nn.Sequential(layer))
    x = torch.randn(2, 4, 12, 11)
    fast = deploy(model, x)
    assert plan_of(fast).layer("0").kernel.startswith("sparse")
    assert gap(fast(x), in_float64(model, x)) < 3e-6
    assert torch.equal(fast[0].weight, layer.weight)


@pytest.mark.parametrize("kernel", ["sparse", "codes", "csr"])
def test_hugging_faces_conv1d_is_a_linear_layer_the_other_way_round(monkeypatch, kernel):
    prefer(monkeypatch, kernel)
    model = few_values_(nn.Sequential(Conv1D(12, 40)))
    fast = deploy(model, vectors())
    assert plan_of(fast).layer("0").kernel.startswith(kernel)
    assert gap(fast(vectors()), in_float64(model, vectors())) < 3e-6
    assert torch.equal(fast[0].weight, model[0].weight.T)


@pytest.mark.parametrize(
    ("kernel", "group"), [("int8", 60), ("int8 group 32", 32), ("scaled/256", 60)]
)
def test_integers_of_a_transposed_layer_have_scales_for_its_outputs(monkeypatch, kernel, group):
    prefer(monkeypatch, kernel)
    model = nn.Sequential(Conv1D(50, 60))
    with torch.no_grad():
        kept = torch.rand(60, 50, generator=torch.Generator().manual_seed(0)) < 0.6
        model[0].weight.copy_(on_grid(50, 60, 8, group).weight.T * kept + 0.0)
    x = vectors(3, 60)
    fast = deploy(model, x)
    assert plan_of(fast).layer("0").kernel == kernel
    assert gap(fast(x), in_float64(model, x)) < 3e-6
    assert torch.equal(fast[0].weight, model[0].weight.T)


@pytest.mark.parametrize("kernel", ["sparse", "codes", "folded"])
def test_norms_are_folded_and_outputs_kept(monkeypatch, kernel):
    prefer(monkeypatch, kernel)
    model = cnn()
    fast = deploy(model, images())
    plan = plan_of(fast)
    taken = kernel if kernel == "folded" else "sparse" if kernel == "sparse" else "dense"
    assert plan.layer("0").kernel.startswith(taken)
    if kernel != "codes":
        assert plan.layer("0").norm == "1"
        assert isinstance(fast[1], nn.Identity)
        assert plan.layer("0").activation == (None if kernel == "folded" else "2")
    assert gap(fast(images()), in_float64(model, images())) < 3e-6
