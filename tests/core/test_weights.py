from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from tersor.core import prunable, survey
from tersor.core.errors import ConfigError


class Conv1D(nn.Module):
    """As Hugging Face transformers has it: a linear layer with a weight (in, out)."""

    def __init__(self, out: int, into: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(into, out))
        self.bias = nn.Parameter(torch.zeros(out))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)
        self.fc2 = nn.Linear(3, 2)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.encoder = Encoder()
        self.head = nn.Linear(2, 2)


def names(model: nn.Module, **selectors) -> list[str]:
    return [weight.name for weight in prunable(model, **selectors)]


@pytest.mark.parametrize(
    ("module", "kind", "expected"),
    [
        (nn.Linear(3, 2), "linear", ["weight"]),
        (nn.Bilinear(3, 2, 4), "linear", ["weight"]),
        (Conv1D(3, 2), "linear", ["weight"]),
        (nn.Conv1d(1, 2, 3), "conv", ["weight"]),
        (nn.Conv2d(1, 2, 3), "conv", ["weight"]),
        (nn.Conv3d(1, 2, 3), "conv", ["weight"]),
        (nn.ConvTranspose1d(1, 2, 3), "conv_transposed", ["weight"]),
        (nn.ConvTranspose2d(1, 2, 3), "conv_transposed", ["weight"]),
        (nn.ConvTranspose3d(1, 2, 3), "conv_transposed", ["weight"]),
        (nn.Embedding(5, 2), "embedding", ["weight"]),
        (nn.EmbeddingBag(5, 2), "embedding", ["weight"]),
        (nn.LSTM(2, 3), "recurrent", ["weight_ih_l0", "weight_hh_l0"]),
        (nn.GRU(2, 3), "recurrent", ["weight_ih_l0", "weight_hh_l0"]),
        (
            nn.LSTM(2, 3, proj_size=1),
            "recurrent",
            ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"],
        ),
        (nn.GRUCell(2, 3), "recurrent", ["weight_ih", "weight_hh"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_the_matrices_of_a_layer_are_weights_and_its_biases_are_not(module, kind, expected):
    weights, skipped = survey(module)
    assert [w.name for w in weights] == expected
    assert {w.kind for w in weights} == {kind}
    rest = {name for name, _ in module.named_parameters()} - set(expected)
    assert {name: "bias" in reason for name, reason in skipped.items()} == dict.fromkeys(rest, True)


def test_a_module_of_another_kind_says_which_of_its_parameters_are_weights():
    class Buckets(nn.Module):
        weight_kinds: ClassVar = {"buckets": "hashed"}

        def __init__(self) -> None:
            super().__init__()
            self.buckets = nn.Parameter(torch.ones(5))
            self.scale = nn.Parameter(torch.ones(1))

    weights, skipped = survey(nn.Sequential(Buckets(), nn.Linear(2, 2)))
    assert [(w.name, w.kind) for w in weights] == [("0.buckets", "hashed"), ("1.weight", "linear")]
    assert skipped["0.scale"] == "of Buckets, whose parameters are no weights"
    assert names(nn.Sequential(Buckets(), nn.Linear(2, 2)), select="Buckets") == ["0.buckets"]


def test_a_weight_is_the_very_tensor_of_the_module_in_torchs_layout():
    net = Net()
    weight = prunable(net)[0]
    assert weight.parameter is net.conv.weight
    assert weight.module is net.conv
    assert weight.shape == (2, 1, 3, 3)


def test_multihead_attention_gives_its_projections():
    packed = [(w.name, w.kind) for w in prunable(nn.MultiheadAttention(4, 2))]
    assert packed == [("in_proj_weight", "attention"), ("out_proj.weight", "linear")]
    parts = names(nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True))
    assert parts == ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]


def test_biases_norms_and_unknown_modules_are_skipped_with_a_reason():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), Own())
    weights, skipped = survey(model)
    assert [w.name for w in weights] == ["0.weight"]
    assert skipped == {
        "0.bias": "a bias",
        "1.weight": "of BatchNorm2d, whose parameters are no weights",
        "1.bias": "a bias",
        "2.weight": "of Own, whose parameters are no weights",
    }


def test_tied_weights_come_once_with_their_other_names():
    class LanguageModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 3)
            self.body = nn.Linear(3, 3)
            self.head = nn.Linear(3, 7, bias=False)
            self.head.weight = self.embedding.weight

    model = LanguageModel()
    weights = prunable(model)
    assert [(w.name, w.kind, w.aliases) for w in weights] == [
        ("embedding.weight", "embedding", ("head.weight",)),
        ("body.weight", "linear", ()),
    ]
    assert weights[0].module is model.embedding
    assert names(model, select="head") == ["embedding.weight"]  # found by its alias
    assert names(model, ignore="re:head") == ["body.weight"]


def test_a_module_that_is_used_twice_comes_once():
    shared = nn.Linear(2, 2)
    weights = prunable(nn.Sequential(shared, nn.ReLU(), shared))
    assert [(w.name, w.aliases) for w in weights] == [("0.weight", ("2.weight",))]


def test_lazy_modules_are_skipped_until_a_batch_has_gone_through():
    model = nn.Sequential(nn.Linear(4, 3), nn.LazyLinear(2))
    weights, skipped = survey(model)
    assert [w.name for w in weights] == ["0.weight"]
    assert "run one batch" in skipped["1.weight"]
    model(torch.ones(1, 4))
    assert names(model) == ["0.weight", "1.weight"]


def test_parametrised_and_torch_pruned_weights_are_skipped_with_what_to_do():
    normed = parametrizations.weight_norm(nn.Linear(2, 2))
    masked = prune.random_unstructured(nn.Linear(2, 2), "weight", 0.5)
    weights, skipped = survey(nn.Sequential(nn.Linear(2, 2), normed, masked))
    assert [w.name for w in weights] == ["0.weight"]
    for part in "0", "1":
        name = f"1.parametrizations.weight.original{part}"
        assert "remove_parametrizations" in skipped[name]
    assert "prune.remove" in skipped["2.weight_orig"]
    prune.remove(masked, "weight")
    assert names(nn.Sequential(masked)) == ["0.weight"]


def test_old_spectral_norm_is_not_taken_for_a_pruning_mask():
    layer = torch.nn.utils.spectral_norm(nn.Linear(2, 2))
    reason = survey(nn.Sequential(nn.Linear(2, 2), layer))[1]["1.weight_orig"]
    assert reason == "of Linear, whose parameters are no weights"


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("conv.weight", ["conv.weight"]),
        ("encoder", ["encoder.fc1.weight", "encoder.fc2.weight"]),
        ("encoder.fc1", ["encoder.fc1.weight"]),
        ("Linear", ["encoder.fc1.weight", "encoder.fc2.weight", "head.weight"]),
        (nn.Linear, ["encoder.fc1.weight", "encoder.fc2.weight", "head.weight"]),
        (nn.Module, ["conv.weight", "encoder.fc1.weight", "encoder.fc2.weight", "head.weight"]),
        ("re:.*fc", ["encoder.fc1.weight", "encoder.fc2.weight"]),
        (r"re:encoder\.fc1\.weight$", ["encoder.fc1.weight"]),
        (["conv", "head"], ["conv.weight", "head.weight"]),
        ((nn.Conv2d, "re:.*fc2"), ["conv.weight", "encoder.fc2.weight"]),
    ],
)
def test_selectors_are_names_prefixes_class_names_patterns_and_types(select, expected):
    assert names(Net(), select=select) == expected
    if len(expected) < 4:
        rest = [name for name in names(Net()) if name not in expected]
        assert names(Net(), ignore=select) == rest


def test_a_prefix_ends_at_a_dot_and_a_pattern_begins_at_the_start():
    model = nn.ModuleDict({"fc1": nn.Linear(2, 2), "fc10": nn.Linear(2, 2)})
    assert names(model, select="fc1") == ["fc1.weight"]
    assert names(model, select="re:fc1") == ["fc1.weight", "fc10.weight"]
    with pytest.raises(ConfigError, match=r"'re:c1'"):
        prunable(model, select="re:c1")


def test_ignore_wins_over_select_and_both_leave_a_reason():
    weights, skipped = survey(Net(), select=["encoder", "head"], ignore="encoder.fc1")
    assert [w.name for w in weights] == ["encoder.fc2.weight", "head.weight"]
    assert skipped["encoder.fc1.weight"] == "ignored"
    assert skipped["conv.weight"] == "not selected"


@pytest.mark.parametrize("where", ["select", "ignore"])
def test_a_selector_that_matches_nothing_is_an_error_with_the_near_miss(where):
    with pytest.raises(ConfigError, match=r"'encodr'.*no weight of Net.*did you mean 'encoder'"):
        prunable(Net(), **{where: ["conv", "encodr"]})


def test_the_near_miss_of_a_class_name_is_a_class_name():
    with pytest.raises(ConfigError, match=r"'Liner'.*did you mean 'Linear'"):
        prunable(Net(), select="Liner")


def test_a_type_that_matches_nothing_is_named():
    with pytest.raises(ConfigError, match=r"selector LSTM: no weight of Net"):
        prunable(Net(), select=nn.LSTM)


def test_a_broken_pattern_is_named():
    with pytest.raises(ConfigError, match=r"'re:\(': not a regular expression"):
        prunable(Net(), select="re:(")


@pytest.mark.parametrize("model", [nn.BatchNorm1d(3), nn.ReLU()])
def test_a_model_without_weights_is_an_error(model):
    with pytest.raises(ConfigError, match=f"{type(model).__name__} has no weights"):
        prunable(model)


def test_weights_that_are_all_ignored_are_an_error_that_says_so():
    with pytest.raises(ConfigError, match=r"no weights.*head.weight: ignored"):
        prunable(nn.ModuleDict({"head": nn.Linear(2, 2)}), ignore="Linear")
