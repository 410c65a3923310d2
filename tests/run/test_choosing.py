"""The choice among kernels, with times that are made up."""

import pytest
import torch
from deployables import (
    cnn,
    few_values_,
    gap,
    images,
    in_float64,
    mlp,
    prefer,
    race_by,
    vectors,
)
from torch import nn

from tersor.run import deploy, plan_of
from tersor.run.deployed import Deployed
from tersor.run.layers import CsrLinear, DeployedLinear


def one_layer(density=0.1):
    return few_values_(nn.Sequential(nn.Linear(300, 200)), density=density)


def chosen(monkeypatch, times, *, model=None, sizes=(1, 16), **options):
    """The plan's line of layer 0 where a call takes times[name] or times[name, batch]."""
    defaults = {"dense": 10.0, "deployed": 1.0, "apart": 1.0, "chain": 9.0}

    def time(name, batch):
        for key in ((name, batch), name, (name.split("/")[0], batch), name.split("/")[0]):
            if key in times:
                return times[key]
        return defaults.get(name, 20.0)

    race_by(monkeypatch, time)
    model = one_layer() if model is None else model
    fast = deploy(model, vectors(16, 300), batch_sizes=sizes, **options)
    return fast, plan_of(fast).layer("0")


def test_the_fastest_kernel_is_taken(monkeypatch):
    fast, line = chosen(monkeypatch, {"sparse/4096": 5.0, "sparse/256": 4.0, "csr": 6.0})
    assert line.kernel == "sparse/256"
    assert line.milliseconds["sparse/256"] == {1: 4.0, 16: 4.0}
    assert line.milliseconds["dense"] == {1: 10.0, 16: 10.0}
    assert line.reason == ""
    assert isinstance(fast[0], DeployedLinear)
    assert line.weight_bytes == fast[0].weight_bytes < line.dense_bytes == 4 * 300 * 200


def test_torchs_sparse_rows_are_taken_where_they_are_the_fastest(monkeypatch):
    fast, line = chosen(monkeypatch, {"sparse": 5.0, "csr": 1.0})
    assert line.kernel == "csr"
    assert isinstance(fast[0], CsrLinear)


def test_the_fastest_over_all_batch_sizes_is_taken(monkeypatch):
    times = {("sparse", 1): 1.0, ("sparse", 16): 9.0, ("csr", 1): 4.0, ("csr", 16): 4.0}
    assert chosen(monkeypatch, times)[1].kernel.startswith("sparse")  # 1 * 9 < 4 * 4


def test_a_gain_at_one_batch_size_alone_is_none(monkeypatch):
    fast, line = chosen(monkeypatch, {("sparse", 1): 1.0, ("sparse", 16): 11.0})
    assert line.kernel == "dense"
    assert line.reason == "the best, sparse/4096, is 3.02 x as fast"
    assert isinstance(fast[0], nn.Linear)
    assert line.weight_bytes == line.dense_bytes


@pytest.mark.parametrize(("time", "kernel"), [(9.69, "sparse"), (9.71, "dense"), (10.5, "dense")])
def test_a_gain_below_three_percent_is_none(monkeypatch, time, kernel):
    line = chosen(monkeypatch, {("sparse", 1): 1.0, ("sparse", 16): time})[1]
    assert line.kernel.split("/")[0] == kernel


def test_of_kernels_about_as_fast_the_smallest_is_taken(monkeypatch):
    # At this density rows with 32-bit indices take more than twice the memory of codes.
    assert chosen(monkeypatch, {"sparse": 4.0, "csr": 3.9})[1].kernel.startswith("sparse")
    assert chosen(monkeypatch, {"sparse": 4.1, "csr": 3.9})[1].kernel == "csr"


def test_memory_may_be_preferred_to_speed(monkeypatch):
    times = {"csr": 1.0, "sparse": 50.0, "codes": 60.0, "deployed": 50.0}
    line = chosen(monkeypatch, times, prefer="memory")[1]
    assert line.kernel.startswith("sparse")
    line = chosen(monkeypatch, times, prefer="memory", model=one_layer(0.6))[1]
    assert line.kernel == "int4"  # as "codes", and the head has no codebook


def test_a_kernel_that_takes_more_memory_is_not_preferred_for_memory(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 20))  # small and dense, of many values: 6 bytes an entry
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(20, 300, generator=generator))
    line = chosen(monkeypatch, {"sparse": 1.0}, prefer="memory", model=model)[1]
    assert line.kernel == "dense"
    assert line.reason == "no kernel takes less memory"
    assert chosen(monkeypatch, {"sparse": 1.0}, model=model)[1].kernel.startswith("sparse")


def test_a_model_that_is_slower_as_a_whole_is_put_back(monkeypatch):
    race_by(
        monkeypatch,
        lambda name, batch: {"dense": 10.0, "deployed": 10.21, "chain": 1.0, "apart": 2.0}.get(
            name, 5.0
        ),
    )
    model = mlp()
    fast = deploy(model, vectors())
    plan = plan_of(fast)
    assert [layer.kernel for layer in plan.layers] == ["dense"] * 3
    assert {layer.reason for layer in plan.layers} == {"no gain for the model as a whole"}
    assert plan.notes == ("no gain for the model as a whole: all layers stay as they are",)
    assert plan.chains == ()
    assert plan.milliseconds["deployed"] == plan.milliseconds["dense"]
    assert not any(isinstance(m, Deployed) for m in fast.modules())
    assert all(isinstance(f, type(m)) for f, m in zip(fast, model, strict=True))
    assert torch.equal(fast(vectors()), model(vectors()))


def test_a_model_is_put_back_at_all_its_names(monkeypatch):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(40, 40)
            self.two = self.one

        def forward(self, x):
            return self.two(self.one(x))

    race_by(monkeypatch, lambda name, _: {"dense": 10.0, "deployed": 11.0}.get(name, 5.0))
    fast = deploy(few_values_(Twice()), vectors())
    assert isinstance(fast.one, nn.Linear)
    assert fast.two is fast.one
    prefer(monkeypatch, "sparse")
    fast = deploy(few_values_(Twice()), vectors())
    assert type(fast.one) is DeployedLinear
    assert fast.two is fast.one


@pytest.mark.parametrize("sizes", [(1,), (16,), (1, 16), (16, 4, 16)])
def test_batch_sizes_are_timed_each_once(monkeypatch, sizes):
    fast, line = chosen(monkeypatch, {"sparse": 1.0}, sizes=sizes)
    plan = plan_of(fast)
    assert plan.batch_sizes == tuple(dict.fromkeys(sizes))
    assert set(line.milliseconds["dense"]) == set(sizes)
    assert set(plan.milliseconds["deployed"]) == set(sizes)


def test_a_chain_is_taken_if_it_gains_at_every_batch_size(monkeypatch):
    for times, taken in (
        ({1: 0.9, 4: 0.9}, True),
        ({1: 0.1, 4: 0.99}, False),
        ({1: 1.5, 4: 1.5}, False),
    ):
        race_by(
            monkeypatch,
            lambda name, batch, times=times: {
                "chain": times[batch],
                "apart": 1.0,
                "dense": 3.0,
            }.get(name, 1.0),
        )
        model, x = mlp(), vectors()
        fast = deploy(model, x, batch_sizes=(1, 4))
        plan = plan_of(fast)
        assert plan.chains == ((("0", "2", "4"),) if taken else ())
        assert any("in one call" in note for note in plan.notes) == taken
        assert all(layer.kernel != "dense" for layer in plan.layers)
        assert gap(fast(x), in_float64(model, x)) < 3e-6


def test_layers_join_a_chain_though_each_alone_gained_nothing(monkeypatch):
    times = {"chain": 1.0, "apart": 3.0, "dense": 1.0, "deployed": 0.5}
    race_by(monkeypatch, lambda name, _: times.get(name, 2.0))
    fast = deploy(mlp(), vectors())
    plan = plan_of(fast)
    assert plan.chains == (("0", "2", "4"),)
    assert [layer.activation for layer in plan.layers] == ["1", "3", None]
    assert all(layer.kernel != "dense" and layer.reason == "" for layer in plan.layers)


def sequences(model, x, monkeypatch, **options):
    prefer(monkeypatch, "sparse", **options)
    fast = deploy(model, x)
    assert plan_of(fast).difference < 1e-5
    assert gap(fast(x), in_float64(model, x)) < 3e-6
    return plan_of(fast)


@pytest.mark.parametrize("chains", [False, True])
def test_a_norm_behind_sequences_is_one_of_positions_and_stays(monkeypatch, chains):
    # BatchNorm1d takes (N, C, L): here the channels are the positions of (N, L, C).
    model = few_values_(
        nn.Sequential(nn.Linear(40, 16), nn.BatchNorm1d(16), nn.Linear(16, 16), nn.Linear(16, 4))
    )
    plan = sequences(model, torch.randn(2, 16, 40), monkeypatch, chains=chains)
    assert plan.layer("0").norm is None
    plan = sequences(model, vectors(), monkeypatch, chains=chains)
    assert plan.layer("0").norm == "1"


def test_dropout_between_layers_of_a_chain_is_nothing(monkeypatch):
    model = few_values_(
        nn.Sequential(nn.Linear(40, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 4), nn.Tanh())
    )
    prefer(monkeypatch, "sparse", chains=True)
    fast = deploy(model, vectors())
    assert plan_of(fast).chains == (("0", "3"),)
    assert gap(fast(vectors()), in_float64(model, vectors())) < 3e-6


class Tapped(nn.Module):
    """Calls a Sequential's modules one by one where its code cannot be traced, and keeps one."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x):
        kept = self.body[0](x)
        if kept.sum() > 1e9:
            return kept
        return kept.mean((2, 3)) + self.body(x).mean((2, 3))


def test_a_model_whose_outputs_would_be_others_is_put_back(monkeypatch):
    prefer(monkeypatch, "sparse", "folded")
    model = few_values_(Tapped())
    fast = deploy(model, images())
    plan = plan_of(fast)
    assert plan.layer("body.0").kernel == "dense"
    assert plan.layer("body.0").reason.startswith("outputs differ by")
    assert plan.difference == 0
    assert torch.equal(fast(images()), model(images()))


def test_a_model_whose_outputs_are_drawn_is_not_put_back(monkeypatch):
    class Noisy(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + torch.randn(())

    prefer(monkeypatch, "sparse")
    fast = deploy(few_values_(Noisy(nn.Linear(40, 16))), vectors())
    assert plan_of(fast).layer("0").kernel.startswith("sparse")
    assert plan_of(fast).difference > 1e-3


def test_a_kernel_whose_output_is_another_is_not_taken(monkeypatch):
    forward = DeployedLinear.forward
    monkeypatch.setattr(DeployedLinear, "forward", lambda self, x: forward(self, x) + 1e-3)
    line = chosen(monkeypatch, {"sparse": 1.0, "codes": 1.0})[1]
    assert line.kernel == "dense"
    assert set(line.milliseconds) == {"dense", "csr"}


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.never, self.named = (nn.Linear(40, 40) for _ in range(3))

    def forward(self, x):
        return self.named(input=self.used(x))


def test_layers_that_are_not_called_or_called_otherwise_stay(monkeypatch):
    prefer(monkeypatch, "sparse")
    model = few_values_(Parts())
    fast = deploy(model, vectors())
    plan = plan_of(fast)
    assert plan.layer("used").kernel.startswith("sparse")
    assert plan.layer("never").reason == "not called with the example input"
    assert plan.layer("named").reason == "called with its input by name"
    assert gap(fast(vectors()), in_float64(model, vectors())) < 3e-6


def test_values_without_a_kernel_are_said_to_have_none(monkeypatch):
    prefer(monkeypatch, "sparse")
    model = nn.Sequential(nn.Linear(300, 200)).eval()
    plan = plan_of(deploy(model, vectors(64, 300)))
    assert plan.layer("0").reason == "no kernel for such values"


def test_progress_is_told_layer_by_layer(monkeypatch):
    prefer(monkeypatch, "sparse")
    seen = []
    deploy(mlp(), vectors(), progress=lambda *said: seen.append(said))
    assert seen == [("0", 0, 3), ("2", 1, 3), ("4", 2, 3), ("whole model", 3, 3)]


@pytest.mark.parametrize("select", [None, ["0", "2"]])
@pytest.mark.parametrize("ignore", [None, ["2"]])
def test_layers_are_selected_and_ignored(monkeypatch, select, ignore):
    prefer(monkeypatch, "sparse")
    plan = plan_of(deploy(mlp(), vectors(), select=select, ignore=ignore))
    left = {"0", "2", "4"} & set(select or ["0", "2", "4"]) - set(ignore or [])
    for layer in plan.layers:
        assert layer.kernel.startswith("sparse") == (layer.name in left)
        assert layer.reason == ("" if layer.name in left else "not selected")


def test_the_plan_tells_what_each_layer_takes_over(monkeypatch):
    prefer(monkeypatch, "sparse", "pool")
    plan = plan_of(deploy(cnn(), images()))
    assert [(line.name, line.kind, line.norm, line.activation) for line in plan.layers] == [
        ("0", "Conv2d", "1", "2"),
        ("3", "MaxPool2d", None, None),
        ("4", "Conv2d", None, "5"),
        ("7", "Linear", "8", None),
    ]
    assert plan.layer("3").density == 1.0
    assert plan.layer("4").density == pytest.approx(0.3, abs=0.1)
