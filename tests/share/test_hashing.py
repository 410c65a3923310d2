import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tersor
from tersor.core.errors import ConfigError
from tersor.share import HASHED, HashedConv2d, HashedEmbedding, HashedLinear, hash_, materialize_
from tersor.share.mixing import signed_codes


def table_of(layer: nn.Module) -> torch.Tensor:
    """The n x K matrix of signs with which the virtual weight is `table @ buckets`."""
    count, buckets = math.prod(layer.virtual_shape), len(layer.buckets)
    table = torch.zeros(count, buckets, dtype=layer.buckets.dtype)
    for i, code in enumerate(layer.codes.tolist()):
        table[i, code % buckets] = -1 if code >= buckets else 1
    return table


LAYERS = {
    "linear": (lambda: HashedLinear(7, 5, 0.3, seed=1, dtype=torch.float64), (4, 7)),
    "conv2d": (
        lambda: HashedConv2d(
            2, 4, 3, 0.2, seed=2, groups=2, padding=1, padding_mode="circular", dtype=torch.float64
        ),
        (2, 2, 5, 5),
    ),
}


@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
def test_the_weight_is_signed_buckets(make, shape):
    layer = make()
    weight = (table_of(layer) @ layer.buckets).view(layer.virtual_shape)
    torch.testing.assert_close(layer.weight, weight, rtol=0, atol=0)


@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
def test_the_gradient_of_a_bucket_is_the_signed_sum_over_its_entries(make, shape):
    layer, inputs = make(), torch.randn(shape, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return layer(inputs).pow(3).sum()

    (found,) = torch.autograd.grad(loss(), layer.buckets)
    step = 1e-5
    for k in range(len(layer.buckets)):  # finite differences
        with torch.no_grad():
            layer.buckets[k] += step
            above = loss()
            layer.buckets[k] -= 2 * step
            below = loss()
            layer.buckets[k] += step
        torch.testing.assert_close(found[k], (above - below) / (2 * step), rtol=1e-6, atol=1e-6)
    plain = copy.deepcopy(layer)
    materialize_(plain)
    (dense,) = torch.autograd.grad(plain(inputs).pow(3).sum(), plain.weight)
    torch.testing.assert_close(found, table_of(layer).T @ dense.flatten())


def test_buckets_and_bias_are_all_parameters_and_the_seed_is_all_else_that_is_kept():
    layer = HashedLinear(30, 20, 1 / 8)
    assert {n: p.numel() for n, p in layer.named_parameters()} == {"buckets": 75, "bias": 20}
    assert list(layer.state_dict()) == ["buckets", "bias", "hash_seed"]
    assert [(w.name, w.kind) for w in tersor.prunable(layer)] == [("buckets", "hashed")]


@pytest.mark.parametrize("even", [False, True])
def test_the_buckets_that_are_kept_are_the_least_squares(even):
    torch.manual_seed(0)
    layer = nn.Linear(6, 8, dtype=torch.float64)
    weight = layer.weight.detach().flatten()
    hash_(layer, 0.25, seed=4, even=even)
    table = table_of(layer)
    solved = torch.linalg.lstsq(table, weight[:, None], driver="gelsd").solution[:, 0]
    torch.testing.assert_close(layer.buckets.detach(), solved)


def test_as_many_even_buckets_as_weights_are_the_dense_layer():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3)
    dense = copy.deepcopy(layer)
    hash_(layer, 1.0, even=True)
    assert torch.equal(layer.weight, dense.weight)
    inputs = torch.randn(2, 3, 6, 6)
    assert torch.equal(layer(inputs), dense(inputs))
    layer(inputs).square().sum().backward()
    dense(inputs).square().sum().backward()
    buckets = table_of(layer).T @ dense.weight.grad.flatten()
    torch.testing.assert_close(layer.buckets.grad, buckets)


def test_inner_products_are_kept_in_the_mean_over_seeds():
    # Weinberger et al. 2009: <hashed u, hashed v> has the mean <u, v> with the signs,
    # and the variance (sum_{i != j} u_i^2 v_j^2 + u_i v_i u_j v_j) / K.
    torch.manual_seed(0)
    u, v = torch.randn(2, 40, dtype=torch.float64)
    buckets, products = 8, []
    for seed in range(2000):
        codes = signed_codes(40, buckets, seed)
        sign = torch.where(codes < buckets, 1.0, -1.0).double()
        hashed = [torch.zeros(buckets, dtype=torch.float64) for _ in range(2)]
        for sums, vector in zip(hashed, (u, v), strict=True):
            sums.index_add_(0, codes % buckets, sign * vector)
        products.append(float(hashed[0] @ hashed[1]))
    found = torch.tensor(products, dtype=torch.float64)
    cross = (u @ u) * (v @ v) - (u * u) @ (v * v) + (u @ v) ** 2 - (u * v) @ (u * v)
    variance = float(cross / buckets)
    assert abs(float(found.mean() - u @ v)) < 4 * math.sqrt(variance / 2000)
    assert float(found.var()) == pytest.approx(variance, rel=0.2)


def test_fresh_buckets_have_the_variance_of_the_fan_in():
    torch.manual_seed(0)
    layer = HashedLinear(400, 300, 1 / 16)  # 7500 buckets of torch's U(-1, 1) / sqrt(fan in)
    expected = 1 / (3 * 400)
    error = expected * math.sqrt(0.8 / 7500)  # fourth moment of a uniform: 1.8 variances squared
    assert abs(float(layer.buckets.detach().var()) - expected) < 4 * error
    assert float(layer.weight.detach().var()) == pytest.approx(expected, rel=0.1)


def test_an_embedding_looks_up_rows_of_the_hashed_weight():
    layer = HashedEmbedding(50, 6, 1 / 10)
    assert torch.equal(layer(torch.tensor([[3, 7]])), layer.weight[[3, 7]][None])


def test_a_state_dict_brings_its_seed_and_so_its_hash():
    ours, other = HashedLinear(9, 4, 0.5, seed=1), HashedLinear(9, 4, 0.5, seed=2)
    assert not torch.equal(ours.codes, other.codes)
    other.load_state_dict(ours.state_dict())
    assert torch.equal(other.weight, ours.weight)


def test_a_file_holds_buckets_and_seed_and_nothing_of_the_size_of_the_weight(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 10))
    hash_(model, 1 / 50, start="fresh")
    tersor.save(model, tmp_path / "net.terse")
    assert (tmp_path / "net.terse").stat().st_size < 4 * (1200 + 40 + 210) + 600
    again = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 10))
    hash_(again, 1 / 50, seed=5)
    tersor.load(tmp_path / "net.terse", into=again)
    inputs = torch.randn(3, 300)
    assert torch.equal(again(inputs), model(inputs))


def test_copies_and_other_dtypes_are_the_same_layer():
    layer = HashedLinear(9, 4, 0.5)
    twin = copy.deepcopy(layer).double()
    torch.testing.assert_close(twin.weight, layer.weight.double(), rtol=0, atol=0)
    twin.buckets.data.zero_()
    assert bool(layer.weight.any())
    meta = copy.deepcopy(layer).to("meta")
    assert meta.weight.shape == (4, 9)


@pytest.mark.parametrize("plain", HASHED, ids=lambda plain: plain.__name__)
def test_materialized_layers_are_plain_with_equal_values(plain):
    torch.manual_seed(0)
    layer = plain(8, 6, 3) if issubclass(plain, nn.Conv1d | nn.Conv2d) else plain(8, 6)
    keys = list(layer.state_dict())
    hash_(layer, 0.4)
    hashed = layer.weight.detach().clone()
    report = materialize_(layer)
    assert type(layer) is (nn.Linear if isinstance(layer, nn.Linear) else plain)
    assert list(layer.state_dict()) == keys
    assert torch.equal(layer.weight, hashed)
    assert [row["name"] for row in report.rows] == ["weight"]
    fresh = plain(8, 6, 3) if issubclass(plain, nn.Conv1d | nn.Conv2d) else plain(8, 6)
    layer.load_state_dict(fresh.state_dict())  # no hook is left
    assert set(vars(layer)) == set(vars(fresh))


def test_each_layer_has_a_hash_of_its_own_that_the_seed_and_the_name_decide():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    again = copy.deepcopy(model)
    hash_(model, 0.5, seed=3)
    hash_(again, 0.5, seed=3)
    assert not torch.equal(model[0].codes, model[1].codes)
    for ours, theirs in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_training_steps_keep_the_weights_shared():
    torch.manual_seed(0)
    layer = HashedLinear(20, 10, 0.1)
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    inputs, targets = torch.randn(64, 20), torch.randn(64, 10)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.mse_loss(layer(inputs), targets)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < losses[0]
    assert len(layer.weight.abs().unique()) <= 20


def test_attention_and_a_transformer_layer_run_on_hashed_weights():
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    report = hash_(block, 0.25)
    assert [row["name"] for row in report.rows] == [
        "self_attn.out_proj.weight",
        "linear1.weight",
        "linear2.weight",
    ]
    assert report.skipped["self_attn.in_proj_weight"].startswith("of MultiheadAttention")
    block.eval()
    inputs = torch.randn(2, 5, 16)
    plain = copy.deepcopy(block)
    materialize_(plain)
    torch.testing.assert_close(block(inputs), plain(inputs))
    with torch.no_grad():  # torch's fast path reads the weights itself
        torch.testing.assert_close(block(inputs), plain(inputs))


def test_a_density_for_each_selector():
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10), nn.Linear(10, 10))
    report = hash_(model, {"0": 0.5, "1": 0.1})
    assert [(row["name"], row["buckets"]) for row in report.rows] == [
        ("0.weight", 50),
        ("1.weight", 10),
    ]
    assert report.skipped["2.weight"] == "no density given"
    assert report.summary["density reached"] == pytest.approx(0.3)


def test_what_cannot_be_hashed_is_left_alone_with_the_reason():
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(9, 4),
            "head": nn.Linear(4, 9, bias=False),
            "rnn": nn.LSTM(4, 4),
            "bounded": nn.Embedding(9, 4, max_norm=1.0),
            "plain": nn.Linear(4, 4),
        }
    )
    model["head"].weight = model["embed"].weight
    report = hash_(model, 0.5)
    assert [row["name"] for row in report.rows] == ["plain.weight"]
    assert report.skipped["embed.weight"].startswith("tied with head.weight")
    assert report.skipped["rnn.weight_ih_l0"].startswith("of LSTM")
    assert report.skipped["bounded.weight"].startswith("max_norm")
    assert report.skipped["plain.bias"] == "a bias"


def test_one_module_under_two_names_is_hashed_once():
    layer = nn.Linear(4, 4)
    model = nn.ModuleList([layer, layer])
    report = hash_(model, 0.5)
    assert len(report.rows) == 1
    assert model[0] is model[1]
    assert type(model[1]) is HashedLinear


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0}, "density: 0; expected 0 < density <= 1"),
        ({"density": 1.5}, "density: 1.5"),
        ({"density": {"0": 0.5, "1": 2.0}}, "density: 2.0"),
        ({"density": 0.5, "start": "kept"}, "start 'kept': did you mean 'keep'"),
        ({"density": 0.5, "select": "9"}, "selector '9': matches no weight"),
        ({"density": 0.5, "select": "2"}, "no weight of Sequential can be hashed .2.weight_ih_l0"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_changed(arguments, message):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.LSTM(3, 3))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=message):
        hash_(model, **arguments)
    assert list(model.state_dict()) == list(before)


def test_a_weight_that_is_not_finite_is_named_and_nothing_is_changed():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight.data[0, 0] = torch.nan
    with pytest.raises(ConfigError, match=r"'1\.weight' is not finite"):
        hash_(model, 0.5)
    assert type(model[0]) is nn.Linear


def test_deploy_sees_the_values_of_a_hashed_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    hash_(model, 0.1)
    inputs = torch.randn(2, 64)
    expected = model(inputs).detach()
    torch.testing.assert_close(tersor.deploy(model, inputs)(inputs), expected)
    materialize_(model)
    torch.testing.assert_close(tersor.deploy(model, inputs)(inputs), expected)
