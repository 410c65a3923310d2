"""Steps after one another: what one has left is there when the last one is done."""

from __future__ import annotations

from importlib import import_module

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


def test_a_run_that_stops_in_a_quantization_by_budget_goes_on(digits, tmp_path, monkeypatch):
    def normed():
        seed_everything(0, "init")
        layers = (nn.Flatten(), nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU())
        return nn.Sequential(*layers, nn.Linear(32, 10))

    ways = {"fold": True, "equalize": True, "budget": 3, "epochs": 1, "batches": 2}
    steps = (Train(epochs=1), Quantize(**ways))
    whole = compress(normed(), digits, Recipe(steps), out=tmp_path / "a.terse", verbose=False)

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(import_module("tersor.compress.quantizing"), "CodebookTuner", stop)
        with pytest.raises(KeyboardInterrupt):
            compress(normed(), digits, Recipe(steps), out=tmp_path / "b.terse", verbose=False)
    again = compress(normed(), digits, Recipe(steps), out=tmp_path / "b.terse", verbose=False)
    assert again.file.read_bytes() == whole.file.read_bytes()


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
        ({"share": {"method": "hash", "settings": {"density": 2}}}, "density"),
        ({"factorize": {"settings": {"rank": 0}}}, "rank: 0; expected a whole number"),
        ({"factorize": {"settings": {"seed": 0}}}, "settings has 'seed', which is a key of the"),
        ({"factorize": {"select": ["fc9"]}}, "selector 'fc9': matches no weight"),
        ({"prune": {}}, "density: is missing"),
        ({"prune": {"pattern": "channel", "density": 0.5, "select": ["fc9"]}}, "'fc9'"),
        ({"prune": {"density": 0.5, "repair": "layerwise_obs", "epochs": 1}}, "for pruning at on"),
        ({"quantize": {"bits": {"fc9": 2}}}, "selector 'fc9': matches no weight"),
        ({"quantize": {"budget": 1}}, "budget: 1.0 bits a weight is below the smallest"),
        ({"quantize": {"budget": 4, "bits": 4}}, "budget and bits given"),
        ({"quantize": {"budget": 4, "method": "binary"}}, "no setting 'bits'"),
        ({"quantize": {"budget": 4, "widths": [4, 40]}}, "bits: 40; expected"),
        ({"quantize": {"budget": 4, "sensitivity": "hawk"}}, "sensitivity: 'hawk'; expected one"),
        ({"quantize": {"rounding": "gptq", "method": "product"}}, "expected one with a grid"),
        ({"quantize": {"fold": True}}, "no batch norm to fold"),
        ({"quantize": {"correct_biases": True, "epochs": 1}}, "training does it, too"),
    ],
)
def test_settings_of_a_method_that_are_wrong_are_named(
    step, message, digits, tmp_path, monkeypatch
):
    with pytest.raises(ConfigError, match=message):
        compress(fresh(), digits, {"steps": [step]}, out=tmp_path / "a.terse", verbose=False)
    assert list(tmp_path.iterdir()) == []
    if "no 'select'" not in message:
        trained = [{"train": {"epochs": 1}}, step]
        monkeypatch.setattr(import_module("tersor.compress.run"), "fit", None)  # none is trained
        with pytest.raises(ConfigError, match=message):
            compress(fresh(), digits, {"steps": trained}, out=tmp_path / "a.terse", verbose=False)
        assert list(tmp_path.iterdir()) == []


def test_what_only_the_run_can_know_to_be_wrong_leaves_no_folder_either(digits, tmp_path):
    recipe = {"steps": [{"factorize": {"settings": {"budget": 1e-6}}}]}
    with pytest.raises(ConfigError, match="rank 1 everywhere"):
        compress(fresh(), digits, recipe, out=tmp_path / "a.terse", verbose=False)
    assert list(tmp_path.iterdir()) == []
    compress(fresh(), digits, Recipe((Quantize(),)), out=tmp_path / "a.terse", verbose=False)
    before = sorted(path.name for path in (tmp_path / "a.terse.run").iterdir())
    with pytest.raises(ConfigError, match="rank 1 everywhere"):
        compress(fresh(), digits, recipe, out=tmp_path / "a.terse", verbose=False)
    assert sorted(path.name for path in (tmp_path / "a.terse.run").iterdir()) == before


def test_bits_are_given_out_by_a_budget_and_the_report_says_how(digits, tmp_path):
    step = Quantize(method="affine", budget=3.5, sensitivity="sqnr", widths=[2, 3, 4, 8])
    model = fresh()
    result = compress(model, digits, Recipe((step,)), out=tmp_path / "a.terse", verbose=False)
    [part] = [s for s in result.report.sections if s.title == "Mixed precision"]
    widths = {row["name"]: row["bits"] for row in part.rows}
    sizes = {row["name"]: row["kept"] for row in part.rows}
    assert sum(sizes[n] * b for n, b in widths.items()) <= 3.5 * sum(sizes.values())
    assert len(set(widths.values())) > 1
    for layer in ("fc1", "fc2", "fc3"):
        rows = model.get_submodule(layer).weight
        assert max(len(row.unique()) for row in rows) <= 2 ** widths[f"{layer}.weight"] - 1


BUDGETS = {
    "tuned codebooks": {"budget": 3, "epochs": 1, "batches": 1},
    "a training": {"training": "lsq", "budget": 3, "epochs": 1, "sensitivity": "hawq_v2"},
    "gptq": {"method": "affine", "budget": 3, "rounding": "gptq", "batches": 1},
}


@pytest.mark.parametrize("way", BUDGETS)
def test_a_budget_goes_with_every_way_to_quantize(way, digits, tmp_path):
    recipe, model = {"steps": [{"quantize": BUDGETS[way]}]}, fresh()
    result = compress(model, digits, recipe, out=tmp_path / "a.terse", verbose=False)
    [part] = [s for s in result.report.sections if s.title == "Mixed precision"]
    assert part.summary["bits a weight"] <= 3
    for row in part.rows:
        weight = model.get_parameter(row["name"])
        assert max(len(r.unique()) for r in weight) <= 2 ** row["bits"]


def test_equalized_with_biases_corrected_it_is_nearer_to_what_it_was(digits, tmp_path):
    def loss_with(**more):
        step = Quantize(method="affine", bits=3, settings={"granularity": "tensor"}, **more)
        model = fresh()
        with torch.no_grad():  # uneven channels, which ReLU passes on
            model.fc1.weight.mul_(torch.linspace(-3, 3, 300).exp()[:, None])
            model.fc2.weight.mul_(torch.linspace(3, -3, 300).exp())
        wanted = model(digits.example_input).detach()
        compress(model, digits, Recipe((step,)), out=tmp_path / "a.terse", verbose=False)
        return float((model(digits.example_input).detach() - wanted).square().mean())

    plain, even = loss_with(), loss_with(equalize=True)
    assert even < 0.5 * plain
    assert loss_with(equalize=True, correct_biases=True) < even


def test_folded_norms_are_in_the_file(digits, tmp_path):
    def normed():
        seed_everything(0, "init")
        layers = (nn.Flatten(), nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU())
        return nn.Sequential(*layers, nn.Linear(32, 10))

    steps = (
        Train(epochs=1),
        Quantize(method="affine", bits=8, fold=True, equalize=True, correct_biases=True),
    )
    model = normed()
    result = compress(model, digits, Recipe(steps), out=tmp_path / "a.terse", verbose=False)
    titles = [section.title for section in result.report.sections]
    assert {"Folding of batch norms", "Cross-layer equalization", "Bias correction"} <= set(titles)
    again = load_network(normed(), result.file)
    assert torch.equal(again.eval()(digits.example_input), model.eval()(digits.example_input))
    assert abs(result.error - result.reference_error) < 3
