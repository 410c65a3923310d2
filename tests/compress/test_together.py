"""Steps after one another: what one has left is there when the last one is done."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tersor.compress import (
    Factorize,
    Prune,
    Quantize,
    Recipe,
    Share,
    Train,
    compress,
    load_network,
    read_recipe,
    structure,
)
from tersor.core.errors import ConfigError
from tersor.core.seeding import seed_everything
from tersor.store import load, metadata
from tersor.tasks import build_model, load_task


@pytest.fixture(scope="module")
def digits():
    return load_task("digits", batch_size=64)


def fresh(name="lenet-300-100"):
    seed_everything(0, "init")
    return build_model(name, input_shape=(1, 8, 8) if name != "lenet-5" else (1, 28, 28))


QUICK = {"learning_rate": 0.005}

TOGETHER = {
    "factorize, prune, quantize": (
        Train(epochs=2, **QUICK),
        Factorize(settings={"budget": 0.5}, select=["fc1", "fc2"], epochs=1, **QUICK),
        Prune(density=0.3, epochs=2, **QUICK),
        Quantize(bits=4, epochs=1),
    ),
    "hash, train, prune, quantize": (
        Share(method="hash", settings={"density": 0.25, "start": "fresh"}, ignore=["fc3"]),
        Train(epochs=2, **QUICK),
        Prune(density=0.5),
        Quantize(method="affine", bits=8),
    ),
    "prune one, factorize another": (
        Prune(density=0.2, select=["fc1"]),
        Factorize(settings={"rank": 10}, select=["fc2"]),
        Quantize(bits=5),
    ),
    "two quantizers, one after the other": (
        Quantize(bits=2, ignore=["fc3"]),
        Quantize(method="affine", bits=8, select=["fc3"]),
    ),
    "soft, then affine for the rest": (
        Share(method="soft", settings={"components": 8}, select=["fc1"], epochs=1),
        Quantize(method="affine", bits=4, ignore=["fc1"]),
    ),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_what_each_step_leaves_is_in_the_file(name, digits, tmp_path):
    steps, model = TOGETHER[name], fresh()
    result = compress(model, digits, Recipe(steps), out=tmp_path / "a.terse", verbose=False)
    again = load_network(fresh(), result.file)
    for key, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key])
    x = digits.example_input
    assert torch.equal(again.eval()(x), model.eval()(x))
    state = load(result.file)
    matrices = {n: t for n, t in state.items() if t.dim() > 1 or n.endswith("buckets")}
    if name == "factorize, prune, quantize":
        assert {"fc1.0.weight", "fc1.1.weight"} <= set(state)
        kept = sum(int((t != 0).sum()) for t in matrices.values())
        assert kept == round(0.3 * sum(t.numel() for t in matrices.values()))
        assert all(len(t[t != 0].unique()) <= 16 for t in matrices.values())
    if name == "hash, train, prune, quantize":
        assert state["fc1.buckets"].numel() == 19_200 // 4
        assert sum(int((t != 0).sum()) for t in matrices.values()) <= 0.51 * sum(
            t.numel() for t in matrices.values()
        )
    if name == "prune one, factorize another":
        assert int((state["fc1.weight"] != 0).sum()) == round(0.2 * 19_200)
        assert state["fc2.0.weight"].shape == (10, 300)
        assert all(len(t[t != 0].unique()) <= 32 for t in matrices.values())
    if name == "two quantizers, one after the other":
        assert len(state["fc1.weight"].unique()) <= 4
        assert all(len(row.unique()) <= 255 for row in state["fc3.weight"])
    if name == "soft, then affine for the rest":
        assert len(state["fc1.weight"].unique()) <= 9
    assert result.dense_bytes == 4 * sum(p.numel() for p in fresh().parameters())


def test_attention_that_was_shared_is_trained_pruned_and_quantized_like_other_layers(
    digits, tmp_path
):
    steps = (
        Train(epochs=1, **QUICK),
        Share(method="attention", settings={"threshold": 0.0}, batches=2, epochs=1, **QUICK),
        Prune(density=0.5),
        Quantize(bits=4),
    )
    model, again = fresh("transformer"), fresh("transformer")
    result = compress(model, digits, Recipe(steps), out=tmp_path / "a.terse", verbose=False)
    load_network(again, result.file)
    x = digits.example_input
    assert torch.equal(again.eval()(x), model.eval()(x))
    (record,) = metadata(result.file)["structure"]["share"]
    assert record["layers"] == [f"encoder.layer{n}.self_attn" for n in (1, 2, 3)]
    values = load(result.file)["encoder.layer2.self_attn.v_proj.weight"]
    assert (values == 0).any()
    assert len(values.unique()) <= 17


def test_a_later_training_leaves_values_that_were_given_already(digits, tmp_path):
    steps = (
        Quantize(bits=2, select=["fc1"]),
        Quantize(bits=4, select=["fc2"], epochs=1, learning_rate=1e-3),
    )
    model = fresh()
    compress(model, digits, Recipe(steps), out=tmp_path / "a.terse", verbose=False)
    assert len(model.fc1.weight.unique()) <= 4
    assert len(model.fc2.weight.unique()) <= 16
    assert model.fc1.weight.requires_grad


WAYS = {
    "straight through": {"method": "affine", "bits": 4, "epochs": 1},
    "learned steps": {"training": "lsq", "bits": 3, "epochs": 1},
    "ternary": {"method": "ternary", "epochs": 1},
    "gptq": {"method": "affine", "bits": 4, "rounding": "gptq", "batches": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_pruned_weights_are_few_values_and_zeros_stay_however_they_are_quantized(
    way, digits, tmp_path
):
    model = fresh()
    steps = [{"prune": {"density": 0.5, "allocation": "uniform"}}, {"quantize": WAYS[way]}]
    compress(model, digits, {"steps": steps}, out=tmp_path / "a.terse", verbose=False)
    for layer in (model.fc1, model.fc2, model.fc3):
        assert int((layer.weight == 0).sum()) >= layer.weight.numel() // 2
        assert max(len(row.unique()) for row in layer.weight) <= 16


@pytest.mark.parametrize("epochs", [0, 1])
def test_pruned_weights_are_subvectors_and_zeros_stay_at_once_and_trained(epochs, digits, tmp_path):
    steps = [
        {"prune": {"density": 0.5, "allocation": "uniform"}},
        {"quantize": {"method": "product", "settings": {"k": 16, "dimension": 4}}},
    ]
    steps[1]["quantize"] |= {"epochs": epochs, "learning_rate": 1e-3}
    model = fresh()
    compress(model, digits, {"steps": steps}, out=tmp_path / "a.terse", verbose=False)
    for layer in (model.fc1, model.fc2, model.fc3):
        assert int((layer.weight == 0).sum()) == layer.weight.numel() // 2
        for column in layer.weight.view(-1, 4).unbind(1):
            assert len(column[column != 0].unique()) <= 16


def test_a_step_that_undoes_another_is_refused_before_anything_is_trained(digits, tmp_path):
    recipe = Recipe((Train(epochs=1), Prune(density=0.1), Factorize()))
    model = fresh()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(ConfigError, match=r"factorize: 'fc1\.weight' was left with zeros"):
        compress(model, digits, recipe, out=tmp_path / "a.terse", verbose=False)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert not (tmp_path / "a.terse").exists()


def test_a_run_that_stops_after_a_change_of_structure_goes_on(digits, tmp_path, monkeypatch):
    from importlib import import_module

    steps = TOGETHER["factorize, prune, quantize"]
    whole = fresh()
    compress(whole, digits, Recipe(steps), out=tmp_path / "whole.terse", verbose=False)
    doing = import_module("tersor.compress.doing")

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(doing, "GradualPruner", stop)
        with pytest.raises(KeyboardInterrupt):
            compress(fresh(), digits, Recipe(steps), out=tmp_path / "b.terse", verbose=False)
    compress(fresh(), digits, Recipe(steps), out=tmp_path / "b.terse", verbose=False)
    assert (tmp_path / "b.terse").read_bytes() == (tmp_path / "whole.terse").read_bytes()


def test_the_metadata_of_a_file_tells_the_structure_and_a_plain_network_has_none(digits, tmp_path):
    recipe = Recipe((Factorize(settings={"rank": 5}, select=["fc1"]),))
    result = compress(
        fresh(), digits, recipe, out=tmp_path / "a.terse", metadata={"task": "digits"}
    )
    said = metadata(result.file)
    assert said["task"] == "digits"
    assert said["structure"]["factorize"][0]["name"] == "fc1"
    assert structure(fresh()) == {}


def test_a_file_of_another_network_is_refused(digits, tmp_path):
    recipe = Recipe((Factorize(settings={"rank": 5}, select=["fc1"]),))
    result = compress(fresh(), digits, recipe, out=tmp_path / "a.terse", verbose=False)
    with pytest.raises(ConfigError, match="does not fit the model"):
        load_network(nn.Sequential(nn.Linear(4, 4)), result.file)


def test_inputs_are_quantized_and_the_file_says_so(digits, tmp_path):
    recipe = read_recipe({"steps": [{"quantize": {"method": "affine", "activations": 8}}]})
    model = fresh()
    result = compress(model, digits, recipe, out=tmp_path / "a.terse", verbose=False)
    assert "fc1.input_quantizer.scale" in load(result.file)
    again = load_network(fresh(), result.file)
    assert torch.equal(again.eval()(digits.example_input), model.eval()(digits.example_input))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"share": {"method": "soft"}}, "'soft' acts while training; expected epochs"),
        ({"share": {"method": "hash", "settings": {"dnsity": 1}}}, "no setting 'dnsity'; did you"),
        ({"share": {"method": "tie", "settings": {"ties": {"fc1": "fc2"}}}}, "has shape"),
        ({"factorize": {"settings": {"rnk": 1}}}, "no setting 'rnk'"),
        ({"factorize": {"settings": {"rank": 1, "energy": 0.5}}}, "rank and energy given"),
        ({"quantize": {"method": "affine", "settings": {"grop": 1}}}, "no setting 'grop'; did you"),
        ({"quantize": {"training": "lsq"}}, "training 'lsq' needs epochs"),
        (
            {"quantize": {"rounding": "gptq", "epochs": 1, "method": "affine"}},
            "'gptq' is for a net",
        ),
        ({"quantize": {"method": "product", "bits": 8}}, "method 'product': no setting 'bits'"),
        ({"quantize": {"method": "residual", "epochs": 1}}, "a codebook of 2 stages has no values"),
        ({"quantize": {"method": "affine", "bits": 1}}, "bits: 1; expected a whole number from 2"),
        ({"share": {"method": "tie", "select": ["fc1"]}}, "takes no 'select'"),
    ],
)
def test_settings_of_a_method_that_are_wrong_are_named(step, message, digits, tmp_path):
    with pytest.raises(ConfigError, match=message):
        compress(fresh(), digits, {"steps": [step]}, out=tmp_path / "a.terse", verbose=False)
    assert not (tmp_path / "a.terse").exists()
