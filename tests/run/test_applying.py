"""A plan that is there is followed: nothing is timed, and what does not fit is refused."""

import dataclasses
import json

import pytest
import torch
from deployables import cnn, few_values_, gap, images, in_float64, mlp, prefer, race_by, vectors
from torch import nn

import tersor
from tersor.core.errors import ConfigError
from tersor.run import applying, deploy, plan_of, read_plan, reading
from tersor.run.layers import DeployedLinear
from tersor.run.packing import entries_of


def no_race(monkeypatch):
    def race(*_):
        raise AssertionError("something was timed")

    race_by(monkeypatch, race)


@pytest.mark.parametrize("kernels", [["sparse"], ["codes"], ["integers"], ["csr"], ["folded"], []])
@pytest.mark.parametrize("chains", [False, True])
@pytest.mark.parametrize(("make", "example"), [(mlp, vectors), (cnn, images)])
def test_a_plan_from_a_file_makes_the_same_model_and_times_nothing(
    monkeypatch, tmp_path, kernels, chains, make, example
):
    prefer(monkeypatch, *kernels, "pool", chains=chains)
    model, file = make(), tmp_path / "plan.json"
    first = deploy(model, example(), plan=file)
    no_race(monkeypatch)
    again = deploy(model, example(), plan=file)
    assert plan_of(again) == plan_of(first) == read_plan(file)
    assert [type(m) for m in again.modules()] == [type(m) for m in first.modules()]
    assert torch.equal(again(example(3)), first(example(3)))


def test_a_plan_that_is_given_is_followed_with_its_notes(monkeypatch):
    prefer(monkeypatch, "sparse", chains=True)
    first = deploy(mlp(), vectors())
    no_race(monkeypatch)
    again = deploy(mlp(), vectors(), plan=plan_of(first))
    assert plan_of(again) == plan_of(first)
    assert plan_of(again).notes
    other = dataclasses.replace(plan_of(first).machine, processor="abacus")
    plan = dataclasses.replace(plan_of(first), machine=other)
    notes = plan_of(deploy(mlp(), vectors(), plan=plan)).notes
    assert notes[:-1] == plan.notes
    assert "the plan was made on Machine(processor='abacus'" in notes[-1]


@pytest.mark.parametrize("option", [{"select": "0"}, {"ignore": "0"}, {"prefer": "memory"}])
def test_a_plan_that_is_followed_says_what_it_leaves_aside(monkeypatch, option):
    prefer(monkeypatch, "sparse")
    plan = plan_of(deploy(mlp(), vectors()))
    said = "a plan is followed: prefer, select and ignore are for a search"
    assert said in plan_of(deploy(mlp(), vectors(), plan=plan, **option)).notes
    assert said not in plan_of(deploy(mlp(), vectors(), plan=plan)).notes


def test_a_plan_of_another_machine_is_measured_anew_and_says_so(monkeypatch, tmp_path):
    prefer(monkeypatch, "codes")
    file = tmp_path / "plan.json"
    deploy(mlp(), vectors(), plan=file)
    parts = json.loads(file.read_text())
    parts["machine"]["processor"] = "abacus"
    file.write_text(json.dumps(parts))
    prefer(monkeypatch, "sparse")
    plan = plan_of(deploy(mlp(), vectors(), plan=file))
    assert plan.layer("0").kernel.startswith("sparse")
    assert (
        f"{file}: measured anew; the plan was made on Machine(processor='abacus'" in plan.notes[0]
    )
    assert read_plan(file) == plan
    assert read_plan(file).machine.processor != "abacus"


@pytest.mark.parametrize(("sizes", "anew"), [((1,), False), ((4, 1), False), ((1, 8), True)])
def test_a_plan_for_other_batch_sizes_is_measured_anew(monkeypatch, tmp_path, sizes, anew):
    prefer(monkeypatch, "codes")
    file = tmp_path / "plan.json"
    deploy(mlp(), vectors(), batch_sizes=(1, 4), plan=file)
    prefer(monkeypatch, "sparse")
    plan = plan_of(deploy(mlp(), vectors(), batch_sizes=sizes, plan=file))
    assert plan.layer("0").kernel.startswith("sparse" if anew else "codes")
    assert any("made for batch sizes 1, 4" in note for note in plan.notes) == anew


def test_a_damaged_plan_is_refused_and_left_as_it_is(monkeypatch, tmp_path):
    prefer(monkeypatch, "sparse")
    file = tmp_path / "plan.json"
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"plan\.json: no plan of a deployed model"):
        deploy(mlp(), vectors(), plan=file)
    assert file.read_text() == "{"


def edited(plan, index, **changes):
    layers = list(plan.layers)
    layers[index] = dataclasses.replace(layers[index], **changes)
    return dataclasses.replace(plan, layers=tuple(layers))


@pytest.mark.parametrize(
    ("index", "kernel"),
    [
        (0, "fast"),
        (0, ""),
        (0, "sparse"),
        (0, "sparse/"),
        (0, "sparse/0"),
        (0, "sparse/-4"),
        (0, "sparse/many"),
        (0, "sparse/99999999999999999999"),
        (0, "codes"),
        (0, "csr"),
        (0, "pool"),
        (1, "sparse/64"),
        (1, "codes"),
        (2, "folded"),
        (3, "pool"),
    ],
)
def test_a_kernel_that_a_layer_has_not_is_refused_by_name(monkeypatch, index, kernel):
    prefer(monkeypatch, "sparse", "pool")
    plan = edited(plan_of(deploy(cnn(), images())), index, kernel=kernel)
    name = plan.layers[index].name
    with pytest.raises(ConfigError, match=f"the plan lets '{name}' run on '{kernel}', which"):
        deploy(cnn(), images(), plan=plan)


@pytest.mark.parametrize(
    "changes",
    [{"name": "fc9"}, {"kind": "Conv2d"}],
)
def test_a_plan_of_another_model_is_refused(monkeypatch, changes):
    prefer(monkeypatch, "sparse")
    plan = edited(plan_of(deploy(mlp(), vectors())), 1, **changes)
    with pytest.raises(ConfigError, match=r"the plan has a layer .* which the model has not"):
        deploy(mlp(), vectors(), plan=plan)


@pytest.mark.parametrize("changes", [{"norm": "2"}, {"activation": "1"}, {"norm": "1"}])
def test_a_plan_of_other_followers_is_refused(monkeypatch, changes):
    prefer(monkeypatch, "sparse")
    plan = plan_of(deploy(cnn(), images()))
    plan = edited(plan, 2, **changes)  # the second convolution has no norm
    with pytest.raises(ConfigError, match="'4' is followed by other layers than the plan says"):
        deploy(cnn(), images(), plan=plan)


@pytest.mark.parametrize(
    "chain", [("0",), (), ("2", "0"), ("0", "4"), ("0", "nine"), ("0", "2", "4", "4")]
)
def test_a_chain_of_layers_that_do_not_follow_each_other_is_refused(monkeypatch, chain):
    prefer(monkeypatch, "sparse")
    plan = dataclasses.replace(plan_of(deploy(mlp(), vectors())), chains=(chain,))
    with pytest.raises(ConfigError, match=r"in one call, and in the model they do not follow"):
        deploy(mlp(), vectors(), plan=plan)


def test_a_chain_of_some_of_the_layers_is_followed(monkeypatch):
    prefer(monkeypatch, "sparse")
    plan = plan_of(deploy(mlp(), vectors()))
    for chain in (("0", "2"), ("2", "4"), ("0", "2", "4")):
        fast = deploy(mlp(), vectors(), plan=dataclasses.replace(plan, chains=(chain,)))
        assert gap(fast(vectors()), in_float64(mlp(), vectors())) < 3e-6


@pytest.mark.parametrize("layer", [{"kernel": "csr"}, {"activation": None}])
def test_a_chain_with_something_between_its_layers_is_refused(monkeypatch, layer):
    prefer(monkeypatch, "sparse", chains=True)
    layer = layer if "activation" in layer else {"activation": None, **layer}
    plan = edited(plan_of(deploy(mlp(), vectors())), 1, **layer)
    with pytest.raises(ConfigError, match=r"'0', '2', '4' in one call, and in the model"):
        deploy(mlp(), vectors(), plan=plan)


def test_a_kernel_that_other_values_do_not_allow_is_refused(monkeypatch):
    prefer(monkeypatch, "codes")
    plan = plan_of(deploy(mlp(), vectors()))
    model = mlp()
    with torch.no_grad():
        model[0].weight.normal_()
    with pytest.raises(ConfigError, match=r"'0' cannot run on codes.*its values are others"):
        deploy(model, vectors(), plan=plan)


def from_file(monkeypatch, tmp_path, model, make, example, **options):
    """A plan made from the model, then followed on a meta model by the weights of a file."""
    file, plan = tmp_path / "net.terse", tmp_path / "plan.json"
    tersor.save(model, file)
    first = deploy(model, example(), plan=plan, **options)
    no_race(monkeypatch)
    with torch.device("meta"):
        empty = make()
    with tersor.open_(file) as weights:
        return first, deploy(empty.eval(), example(), plan=plan, weights=weights, **options)


def untouched(make):
    """The architecture alone: what fills weights in is not run on the meta device."""

    def bare():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("deployables.few_values_", lambda model, **_: model)
            return make()

    return bare


@pytest.mark.parametrize("kernels", [["sparse"], ["codes"], ["integers"], ["csr"], ["folded"], []])
@pytest.mark.parametrize(("make", "example"), [(mlp, vectors), (cnn, images)])
def test_a_file_goes_into_kernels_through_a_model_without_memory(
    monkeypatch, tmp_path, kernels, make, example
):
    prefer(monkeypatch, *kernels, "pool", chains=True)
    model = make()
    first, again = from_file(monkeypatch, tmp_path, model, untouched(make), example)
    assert torch.equal(again(example(3)), first(example(3)))
    assert gap(again(example(3)), in_float64(model, example(3))) < 3e-6
    assert not any(t.is_meta for t in (*again.parameters(), *again.buffers()))


def test_no_dense_weight_is_made_on_the_way_from_a_file_to_a_kernel(monkeypatch, tmp_path):
    prefer(monkeypatch, "sparse")
    model = few_values_(nn.Sequential(nn.Linear(1000, 800), nn.ReLU(), nn.Linear(800, 4)), 0.02)
    x = vectors(2, 1000)
    file, plan = tmp_path / "net.terse", tmp_path / "plan.json"
    tersor.save(model, file)
    deploy(model, x, plan=plan)
    largest = []
    whole = reading._read
    monkeypatch.setattr(reading, "_read", lambda w, name: largest.append(name) or whole(w, name))
    monkeypatch.setattr(applying, "entries_of", lambda m: pytest.fail(f"dense {m.shape}"))
    packed_from = []
    stored = applying.stored_entries

    def entries(weights, name, shape):
        found = stored(weights, name, shape)
        packed_from.append((name, len(found.positions)))
        return found

    monkeypatch.setattr(applying, "stored_entries", entries)
    with torch.device("meta"):
        empty = nn.Sequential(nn.Linear(1000, 800), nn.ReLU(), nn.Linear(800, 4)).eval()
    with tersor.open_(file) as weights:
        made_dense = []
        normal = type(weights).__getitem__
        monkeypatch.setattr(
            type(weights), "__getitem__", lambda s, n: made_dense.append(n) or normal(s, n)
        )
        fast = deploy(empty, x, plan=plan, weights=weights)
    assert sorted(made_dense) == sorted(largest) == ["0.bias", "2.bias"]
    assert packed_from == [(f"{i}.weight", int(model[i].weight.count_nonzero())) for i in (0, 2)]
    assert isinstance(fast[0], DeployedLinear)
    assert gap(fast(x), in_float64(model, x)) < 3e-6


def test_minus_zeros_of_a_file_are_no_entries(monkeypatch, tmp_path):
    prefer(monkeypatch, "sparse")
    model = mlp()
    with torch.no_grad():
        model[0].weight.copy_(torch.where(model[0].weight == 0, -0.0, model[0].weight))
    first, again = from_file(monkeypatch, tmp_path, model, untouched(mlp), vectors)
    assert again[0].packed.numel() == first[0].packed.numel()
    assert torch.equal(again(vectors()), first(vectors()))


def test_weights_of_a_file_are_used_where_there_is_no_plan(monkeypatch, tmp_path):
    prefer(monkeypatch, "sparse")
    model, file = mlp(), tmp_path / "net.terse"
    tersor.save(model, file)
    with torch.device("meta"):
        empty = untouched(mlp)().eval()
    for start in (empty, mlp(seed=5)):
        with tersor.open_(file) as weights:
            fast = deploy(start, vectors(), weights=weights)
        assert torch.equal(fast[0].weight, model[0].weight)
        assert gap(fast(vectors()), in_float64(model, vectors())) < 3e-6


def test_a_model_without_memory_and_without_a_file_is_refused(monkeypatch):
    prefer(monkeypatch, "sparse")
    with torch.device("meta"):
        empty = nn.Sequential(nn.Linear(40, 8)).eval()
    with pytest.raises(ConfigError, match=r"'0\.weight' is on the meta device, and no file has"):
        deploy(empty, vectors())


class Positioned(nn.Module):
    """Adds numbers that are kept in no file."""

    def __init__(self):
        super().__init__()
        self.register_buffer("positions", torch.ones(40), persistent=False)
        self.out = nn.Linear(40, 4)

    def forward(self, x):
        return self.out(x + self.positions)


def test_numbers_that_no_file_has_are_missed_before_the_model_runs(monkeypatch, tmp_path):
    prefer(monkeypatch, "sparse")
    with pytest.raises(ConfigError, match="'positions' is on the meta device, and no file has"):
        from_file(monkeypatch, tmp_path, few_values_(Positioned()), Positioned, vectors)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 40)
        self.head = nn.Linear(40, 50, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(self.table(ids))


@pytest.mark.parametrize("kernels", [["sparse"], []])
def test_tied_weights_come_from_the_file_at_both_places(monkeypatch, tmp_path, kernels):
    prefer(monkeypatch, *kernels)
    model = few_values_(Tied())

    def ids(n=4):
        return torch.arange(n * 3).reshape(n, 3)

    first, again = from_file(monkeypatch, tmp_path, model, Tied, ids)
    assert torch.equal(again(ids()), first(ids()))
    assert torch.equal(entries_of(again.head.weight).dense(), model.head.weight)
    assert gap(again(ids()), in_float64(model, ids())) < 3e-6


def test_attention_and_an_encoder_come_from_a_file(monkeypatch, tmp_path):
    def make():
        layer = nn.TransformerEncoderLayer(40, 4, 16, batch_first=True)
        return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def tokens(n=2):
        return vectors(n * 5).reshape(n, 5, 40)

    prefer(monkeypatch, "sparse")
    model = few_values_(make())
    first, again = from_file(monkeypatch, tmp_path, model, make, tokens)
    assert {line.kind for line in plan_of(again).layers} == {"MultiheadAttention", "Linear"}
    assert torch.equal(again(tokens()), first(tokens()))
    assert gap(again(tokens()), in_float64(model, tokens())) < 3e-6
