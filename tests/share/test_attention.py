import copy
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tersor
from tersor.core.errors import ConfigError
from tersor.share import (
    AttentionSource,
    SharedAttention,
    attention_similarity,
    map_divergence,
    neighbour_groups,
    rebuild_,
    share_attention_,
    structure,
    tie_,
)
from tersor.tasks.networks.language import transformer_lm


def encoder(layers: int = 4, **options) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    given = {"batch_first": True, "dropout": 0.0, "norm_first": True, **options}
    layer = nn.TransformerEncoderLayer(8, 2, 16, **given)
    model = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).double()
    for parameter in model.parameters():  # torch starts all layers alike
        nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture
def batch() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 5, 8, dtype=torch.float64)


def test_the_divergence_is_that_of_scipy():
    torch.manual_seed(0)
    p, q = (torch.randn(20, 7, dtype=torch.float64).mul(4).softmax(-1) for _ in range(2))
    expected = [jensenshannon(a, b) ** 2 for a, b in zip(p.numpy(), q.numpy(), strict=True)]
    torch.testing.assert_close(map_divergence(p, q), torch.tensor(expected, dtype=torch.float64))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=6))
def test_the_divergence_is_symmetric_from_zero_to_log_two(pairs):
    p, q = (torch.tensor(side, dtype=torch.float64) + 1e-3 for side in zip(*pairs, strict=True))
    p, q = p / p.sum(), q / q.sum()
    found = map_divergence(p, q)
    assert found == map_divergence(q, p)
    assert 0 <= found <= math.log(2)
    assert map_divergence(p, p) == 0


def test_distributions_apart_are_log_two_apart():
    one = torch.tensor([0.5, 0.5, 0.0, 0.0])
    assert map_divergence(one, one.flip(0)).item() == pytest.approx(math.log(2))


def test_similarity_is_one_less_the_mean_divergence_of_the_maps_that_torch_tells(batch):
    model = encoder(2)
    maps, hidden = [], batch
    for layer in model.layers:
        normed = layer.norm1(hidden)
        maps.append(layer.self_attn(normed, normed, normed, average_attn_weights=False)[1])
        hidden = layer(hidden)
    names, found = attention_similarity(model, [batch[:2], batch[2:]])
    assert names == ["layers.0.self_attn", "layers.1.self_attn"]
    expected = 1 - map_divergence(*maps).mean()  # of all 3 samples, 2 heads and 5 queries
    assert found[0, 1].item() == pytest.approx(expected.item())
    assert found[1, 0].item() == pytest.approx(expected.item())
    torch.testing.assert_close(found.diagonal(), torch.ones(2, dtype=torch.float64))


def test_looking_leaves_no_trace(batch):
    model = encoder(2, dropout=0.5)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    attention_similarity(model, [batch])
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))  # noqa: B905
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_groups_grow_while_the_mean_over_all_pairs_exceeds_the_threshold():
    s = torch.tensor([[1, 0.9, 0.6, 0], [0.9, 1, 0.96, 0], [0.6, 0.96, 1, 0.9], [0, 0, 0.9, 1]])
    assert neighbour_groups(s, 0.85) == [0, 0, 1, 1]  # (0.9 + 0.6 + 0.96) / 3 = 0.82
    assert neighbour_groups(s, 0.8) == [0, 0, 0, 1]
    assert neighbour_groups(s, 0.95) == [0, 1, 1, 2]
    assert neighbour_groups(s, 0.0) == [0, 0, 0, 0]


@pytest.mark.parametrize("mask", ["none", "causal", "bool", "padding", "each head"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_source_does_what_torchs_attention_does(mask, batch_first, bias):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first, bias=bias).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    masks = {
        "none": {},
        "causal": {
            "attn_mask": torch.full((5, 5), -torch.inf).triu(1).double(),
            "is_causal": True,
        },
        "bool": {"attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1)},
        "padding": {
            "key_padding_mask": torch.tensor([[False] * 5, [False] * 5, [False] * 3 + [True] * 2])
        },
        "each head": {"attn_mask": torch.randn(6, 5, 5, dtype=torch.float64)},
    }[mask]
    inputs = x if batch_first else x.transpose(0, 1)
    for options in ({}, {"average_attn_weights": False}, {"need_weights": False}):
        ours = AttentionSource(attention)(inputs, inputs, inputs, **masks, **options)
        theirs = attention(inputs, inputs, inputs, **masks, **options)
        torch.testing.assert_close(ours[0], theirs[0])
        torch.testing.assert_close(ours[1], theirs[1])
    if mask == "none":
        one = x[0]
        ours = AttentionSource(attention)(one, one, one)
        torch.testing.assert_close(ours, attention(one, one, one))


def test_a_follower_gives_its_own_values_under_the_map_of_its_source(batch):
    model = encoder(2)
    first, second = (copy.deepcopy(layer) for layer in model.layers)
    share_attention_(model, [0, 0])
    hidden = first(batch)
    normed = first.norm1(batch)
    weights = first.self_attn(normed, normed, normed, average_attn_weights=False)[1]
    values = second.norm1(hidden) @ second.self_attn.in_proj_weight[16:].T
    values = values + second.self_attn.in_proj_bias[16:]
    heads = [weights[:, h] @ values[..., 4 * h : 4 * h + 4] for h in range(2)]
    hidden = hidden + second.self_attn.out_proj(torch.cat(heads, dim=-1))
    expected = hidden + second._ff_block(second.norm2(hidden))
    torch.testing.assert_close(model(batch), expected)
    model.eval()  # where torch would take its fused form
    with torch.no_grad():
        torch.testing.assert_close(model(batch), expected)


def test_equal_layers_with_equal_inputs_may_share_and_nothing_changes(batch):
    attention = encoder(1).layers[0].self_attn
    model = nn.ModuleDict({"one": attention, "two": copy.deepcopy(attention)})
    expected = attention(batch, batch, batch)[0]
    share_attention_(model, [0, 0])
    model["one"](batch, batch, batch)
    torch.testing.assert_close(model["two"](batch, batch, batch)[0], expected)


def products(model: nn.Module, batch: torch.Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        model(batch)
    flops = counter.get_flop_counts()["Global"]
    # Q K^T and map V: each 2 * N * heads * T * T * d = 2 * 3 * 5 * 5 * 8
    return flops[torch.ops.aten.bmm] // (2 * 3 * 5 * 5 * 8)


@pytest.mark.parametrize("groups", [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 1, 2]])
def test_as_many_maps_are_computed_as_there_are_groups_and_queries_and_keys_go(groups, batch):
    model = encoder()
    before = sum(p.numel() for p in model.parameters())
    report = share_attention_(model, groups)
    maps = len(set(groups))
    own = [groups.count(g) == 1 for g in groups].count(True)  # these stay torch's, fused
    assert products(model, batch) == (maps - own) + (4 - own)
    assert report.summary["maps"] == maps
    gone = (4 - maps) * 2 * (8 * 8 + 8)
    assert before - sum(p.numel() for p in model.parameters()) == gone
    assert report.summary["parameters before"] - report.summary["parameters after"] == gone


def test_gradients_reach_the_source_through_its_followers(batch):
    model = encoder(2)
    share_attention_(model, [0, 0])
    torch.autograd.gradcheck(lambda x: model(x), batch[:1, :3].requires_grad_())
    model(batch.detach())[..., 0].sum().backward()
    assert model.layers[0].self_attn.in_proj.weight.grad.abs().sum() > 0
    assert model.layers[0].self_attn._map is None  # the last has used it


def test_groups_found_on_data_are_those_of_the_similarity(batch):
    model = encoder()
    names, similarity = attention_similarity(model, [batch])
    threshold = float(similarity[1, 2]) - 1e-6
    expected = neighbour_groups(similarity, threshold)
    assert 1 < len(set(expected)) < 4
    report = share_attention_(model, data=[batch], threshold=threshold)
    assert {row["name"] for row in report.rows} == {
        n for n, g, before in zip(names, expected, [None, *expected], strict=False) if g == before
    }
    assert all(row["similarity"] > threshold for row in report.rows)


def test_groups_grow_when_layers_are_compared_again(batch):
    model = encoder()
    share_attention_(model, [0, 0, 1, 1])
    names, _ = attention_similarity(model, [batch])
    assert names == ["layers.0.self_attn", "layers.2.self_attn"]
    report = share_attention_(model, data=[batch], threshold=0.0)
    assert report.summary["maps"] == 1
    assert all(layer.self_attn.source is model.layers[0].self_attn for layer in model.layers[1:])
    assert products(model, batch) == 1 + 4
    assert model(batch).isfinite().all()


def test_nothing_alike_is_a_finding(batch):
    model = encoder(3)
    report = share_attention_(model, data=[batch], threshold=0.9999)
    assert report.rows == []
    assert "No two neighbours are more alike than 0.9999" in report.notes[0]
    assert all(type(layer.self_attn) is nn.MultiheadAttention for layer in model.layers)


def test_a_file_tells_what_is_shared(tmp_path):
    def network() -> nn.Module:
        return transformer_lm((6,), 20, width=8, hidden=16, layers=3)

    model, again = network(), network()
    share_attention_(model, [0, 0, 1])
    tie_(model, {"fc": "embed"})
    tersor.save(model, tmp_path / "net.terse", metadata={"structure": structure(model)})
    rebuild_(again, json.loads(json.dumps(structure(model))))
    tersor.load(tmp_path / "net.terse", into=again)
    tokens = torch.randint(20, (2, 6))
    assert torch.equal(again(tokens), model(tokens))
    assert structure(again) == structure(model)
    twin = copy.deepcopy(model)  # a copy follows its own source
    followers = [m for m in twin.modules() if isinstance(m, SharedAttention)]
    assert followers[0].source is twin.encoder["layer1"].self_attn


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ["layers.0.self_attn", "layers.9.self_attn"]}, "'layers.9.self_attn' is no"),
        ({"layers": ["layers.0.self_attn"]}, "expected two or more, with as many heads"),
        ({"layers": ["layers.0.self_attn", "layers.1.linear1"]}, "'layers.1.linear1' is no att"),
    ],
)
def test_records_that_do_not_fit_are_refused(change, message):
    model, again = encoder(2), encoder(2)
    share_attention_(model, [0, 0])
    with pytest.raises(ConfigError, match=message):
        rebuild_(again, [structure(model)[0] | change])
    assert structure(again) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected groups, or data to find them on"),
        ({"groups": [0, 0]}, "groups: 2 numbers for 4 layers: layers.0.self_attn"),
        ({"groups": [0, 1, 2, 3]}, "expected two layers or more in one of them"),
        ({"groups": [0, 1, 0, 0]}, "expected neighbours alone in a group"),
        ({"data": [], "threshold": 1.5}, "threshold: 1.5; expected 0 <= threshold < 1"),
        ({"groups": [0, 0], "layers": ["layers.1.self_atn", "b"]}, "'layers.1.self_atn'.*did you"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    model = encoder()
    with pytest.raises(ConfigError, match=message):
        share_attention_(model, **arguments)
    assert structure(model) == []


def test_attention_that_cannot_take_part_is_skipped_with_the_reason():
    model = nn.ModuleDict(
        {
            "one": nn.MultiheadAttention(8, 2),
            "two": nn.MultiheadAttention(8, 2),
            "wide": nn.MultiheadAttention(8, 2, kdim=4),
            "more": nn.MultiheadAttention(8, 2, add_bias_kv=True),
            "tied": nn.MultiheadAttention(8, 2),
            "other": nn.MultiheadAttention(8, 2),
        }
    )
    tie_(model, {"tied": "other"})
    report = share_attention_(model, [0, 0])
    assert set(report.skipped) == {"wide", "more", "tied", "other"}
    assert "another width" in report.skipped["wide"]
    assert "is tied" in report.skipped["tied"]
    heads = nn.ModuleDict({"a": nn.MultiheadAttention(8, 2), "b": nn.MultiheadAttention(8, 4)})
    with pytest.raises(ConfigError, match=r"num_heads differs: .*'b': 4"):
        share_attention_(heads, [0, 0])


def test_the_attention_of_a_decoder_to_its_encoder_is_left_alone():
    torch.manual_seed(0)
    model = nn.Transformer(8, 2, 2, 2, 16, batch_first=True)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x, x[:, :3])

    report = share_attention_(Both(), data=[torch.randn(2, 5, 8)], threshold=0.0)
    assert {row["name"]: row["map of"] for row in report.rows} == {
        "inner.encoder.layers.1.self_attn": "inner.encoder.layers.0.self_attn",
        "inner.decoder.layers.1.self_attn": "inner.decoder.layers.0.self_attn",
    }
    assert "inner.decoder.layers.0.multihead_attn" in report.skipped


def test_calls_that_have_no_map_are_refused(batch):
    model = encoder(2)
    share_attention_(model, [0, 0])
    first, second = (layer.self_attn for layer in model.layers)
    with pytest.raises(ConfigError, match="the map of its source is none"):
        second(batch, batch, batch)
    first(batch, batch, batch)
    with pytest.raises(ConfigError, match=r"inputs \(N, T\) = \(2, 5\), but the map"):
        second(batch[:2], batch[:2], batch[:2])
    with pytest.raises(ConfigError, match="expected one sequence as query, key and value"):
        first(batch, batch[:, :2], batch[:, :2])
    with pytest.raises(ConfigError, match="is_causal needs attn_mask"):
        first(batch, batch, batch, is_causal=True)
