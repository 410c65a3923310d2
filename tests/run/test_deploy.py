"""`deploy` as a whole: the model is left as it was, and arguments that do not fit are refused."""

import copy

import pytest
import torch
from deployables import cnn, few_values_, gap, images, in_float64, mlp, prefer, race_by, vectors
from torch import nn

import tersor
from tersor.core.errors import ConfigError
from tersor.run import choosing, deploy, plan_of
from tersor.run import deploy as deploy_function
from tersor.run.deployed import Deployed


def state_of(model):
    """All that could be seen of a model: bytes, flags, modules, hooks."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return (
        {
            n: (t.data_ptr(), t.requires_grad, t.numpy(force=True).tobytes())
            for n, t in tensors.items()
        },
        [(n, id(m), m.training, len(m._forward_hooks)) for n, m in model.named_modules()],
        {n: None if p.grad is None else p.grad.tolist() for n, p in model.named_parameters()},
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kernels", [["sparse", "pool"], ["folded"], []])
@pytest.mark.parametrize(("make", "example"), [(mlp, vectors), (cnn, images)])
def test_the_model_is_left_as_it_was(monkeypatch, training, kernels, make, example):
    prefer(monkeypatch, *kernels, chains=True)
    model = make().train(training)
    next(model.parameters()).requires_grad_(False)
    list(model.parameters())[-1].grad = torch.ones(list(model.parameters())[-1].shape)
    before = state_of(model)
    fast = deploy(model, example(), batch_sizes=(1, 4))
    assert state_of(model) == before
    assert torch.is_grad_enabled()
    assert not any(m.training for m in fast.modules())
    assert not any(p.requires_grad for p in fast.parameters())


@pytest.mark.parametrize("kernels", [["sparse", "pool"], ["csr"], ["folded"], []])
def test_training_the_model_changes_nothing_of_the_copy(monkeypatch, kernels):
    prefer(monkeypatch, *kernels)
    model, x = cnn(), images()
    fast = deploy(model, x)
    before = fast(x)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.mul_(2)
    assert torch.equal(fast(x), before)


def test_the_example_is_left_as_it_was(monkeypatch):
    prefer(monkeypatch, "sparse")
    model = few_values_(
        nn.Sequential(nn.ReLU(inplace=True), nn.Linear(40, 8), nn.ReLU(inplace=True))
    )
    x = vectors(3)
    kept = x.clone()
    fast = deploy(model, x.clone(), batch_sizes=(3,))
    assert gap(fast(kept.clone()), in_float64(model, kept)) < 3e-6
    y = vectors(3).requires_grad_()
    deploy(mlp(), y)
    assert torch.equal(y, vectors(3))
    assert y.grad is None


class Two(nn.Module):
    """Two tensors, a number and a switch; gives a dictionary."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(40, 8), nn.Linear(12, 8)

    def forward(self, x, y, factor, plus=False):
        return {"sum": self.one(x) + factor * self.two(y), "one": [self.one(x)], "plus": plus}


def test_an_example_of_several_arguments(monkeypatch):
    monkeypatch.setattr(
        choosing,
        "race",
        lambda calls, **_: {n: 2.0 if n == "dense" else 1.0 for n in calls if [calls[n]()]},
    )
    model = few_values_(Two())
    x, y = vectors(), vectors(width=12)
    fast = deploy(model, (x, y, 0.5), batch_sizes=(1, 4, 9))
    plan = plan_of(fast)
    assert all(layer.kernel != "dense" for layer in plan.layers)
    want, got = model(x, y, 0.5), fast(x, y, 0.5)
    assert gap(got["sum"], want["sum"]) < 3e-6
    assert gap(got["one"][0], want["one"][0]) < 3e-6
    assert got["plus"] is False
    assert plan.difference < 1e-5
    named = plan_of(deploy(model, {"x": x, "factor": 0.5, "y": y}, batch_sizes=(4,)))
    assert all(layer.kernel != "dense" for layer in named.layers)


def test_a_single_layer_is_refused_and_told_where_to_put_it():
    for layer in (nn.Linear(4, 4), nn.Conv2d(3, 4, 3), nn.LSTM(4, 4), nn.MaxPool2d(2)):
        with pytest.raises(
            ConfigError, match=f"a single {type(layer).__name__}; put it into nn.Seq"
        ):
            deploy(layer, torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefer": "fast"}, "prefer 'fast', expected 'speed' or 'memory'"),
        ({"batch_sizes": (0,)}, r"batch sizes \(0,\)"),
        ({"threads": 0}, "threads 0, expected 1 or more"),
        ({"select": ["nothing"]}, "nothing"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        deploy(mlp(), vectors(), **options)


def test_an_example_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"the model does not take inputs of \(4, 39\)"):
        deploy(mlp(), vectors(width=39))


def test_a_model_that_was_not_deployed_has_no_plan():
    with pytest.raises(ConfigError, match=r"Sequential was not made by tersor\.deploy"):
        plan_of(mlp())


def test_the_number_of_threads_is_that_of_the_plan_and_put_back(monkeypatch):
    prefer(monkeypatch, "sparse")
    before = torch.get_num_threads()
    assert plan_of(deploy(mlp(), vectors(), threads=2)).threads == 2
    assert torch.get_num_threads() == before
    with pytest.raises(ConfigError, match="does not take inputs"):
        deploy(mlp(), vectors(width=3), threads=2)
    assert torch.get_num_threads() == before


def test_a_deployed_model_can_be_deployed_again(monkeypatch):
    prefer(monkeypatch, "sparse")
    once = deploy(mlp(), vectors(), ignore=["4"])
    twice = deploy(once, vectors())
    assert [layer.name for layer in plan_of(twice).layers] == ["4"]
    assert all(isinstance(twice[i], Deployed) for i in (0, 2, 4))
    assert torch.equal(twice[:4](vectors()), once[:4](vectors()))


def test_the_plan_is_no_part_of_the_state(monkeypatch):
    prefer(monkeypatch, "sparse")
    fast = deploy(mlp(), vectors())
    assert set(fast.state_dict()) == {
        f"{i}.{part}" for i in (0, 2, 4) for part in ("packed", "bias")
    }
    assert plan_of(copy.deepcopy(fast)) == plan_of(fast)


@pytest.mark.parametrize(("time", "taken"), [(0.9, True), (0.99, False), (1.5, False)])
def test_torch_compile_is_taken_if_it_gains(monkeypatch, time, taken):
    race_by(monkeypatch, lambda name, _: 1.0 if name in ("deployed", "sparse/4096") else 2.0)
    module = __import__("sys").modules[deploy_function.__module__]
    monkeypatch.setattr(module, "race", lambda calls, **_: {"plain": 1.0, "compiled": time})
    compiled = nn.Sequential(nn.Identity())
    monkeypatch.setattr(torch, "compile", lambda model: compiled)
    object.__setattr__(compiled, "_orig_mod", None)

    def compile_(model):
        object.__setattr__(compiled, "_orig_mod", model)
        return compiled

    monkeypatch.setattr(torch, "compile", compile_)
    fast = deploy(mlp(), vectors(), compile=True)
    assert (fast is compiled) == taken
    note = plan_of(fast).notes[-1]
    assert note.startswith(
        f"torch.compile {'taken' if taken else 'not taken'}: batch 4: {time:.3f}"
    )


def test_pruned_and_quantised_networks_give_their_outputs(monkeypatch):
    prefer(monkeypatch, "sparse", chains=True)
    torch.manual_seed(0)
    model = tersor.build_model("lenet-300-100").eval()
    masks, _ = tersor.prune_(model, density=0.1)
    tersor.quantize_(model, 4, masks=masks)
    x = torch.randn(8, 1, 28, 28)
    fast = deploy(model, x, batch_sizes=(1, 8))
    plan = plan_of(fast)
    assert all(layer.kernel.startswith("sparse") for layer in plan.layers)
    assert sum(layer.weight_bytes for layer in plan.layers) < 0.1 * sum(
        layer.dense_bytes for layer in plan.layers
    )
    assert gap(fast(x), in_float64(model, x)) < 3e-6


def test_a_real_race_gives_a_model_that_computes_the_same():
    model, x = cnn(), images()
    fast = deploy(model, x, batch_sizes=(1, 4))
    assert gap(fast(x), in_float64(model, x)) < 3e-6
    assert plan_of(fast).difference < 1e-5
    assert set(plan_of(fast).milliseconds) == {"dense", "deployed"}
