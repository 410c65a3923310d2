"""Deployed attention against nn.MultiheadAttention, with every mask and shape it takes."""

import itertools

import pytest
import torch
from deployables import few_values_, gap, in_float64, prefer
from torch import nn

from tersor.core.errors import ConfigError
from tersor.run import deploy, plan_of
from tersor.run.attention import DeployedAttention, why_not
from tersor.run.packing import entries_of
from tersor.run.sites import Site, weight_matrix, weights_of

WIDTH, HEADS, BATCH, LENGTH, KEYS = 24, 4, 3, 7, 5


def attention(**options):
    """One that is dense and one on kernels."""
    dense = few_values_(nn.MultiheadAttention(WIDTH, HEADS, **options), density=0.5)
    site = Site("att", dense, weights_of(dense))
    return dense, site.make("sparse/16", lambda name: entries_of(weight_matrix(dense, name)))


def tokens(length, width=WIDTH, *, batch=BATCH, batch_first=True, seed=0):
    x = torch.randn(batch, length, width, generator=torch.Generator().manual_seed(seed))
    return x if batch_first else x.transpose(0, 1)


def same(dense, fast, *inputs, **options):
    """Compare outputs and weights with those of the dense layer, which float64 computes."""

    def wide(value):
        floating = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.double() if floating else value

    with torch.no_grad():
        want = dense.double()(*map(wide, inputs), **{k: wide(v) for k, v in options.items()})
        got = fast(*inputs, **options)
    dense.float()
    assert got[0].shape == want[0].shape
    torch.testing.assert_close(got[0], want[0].float(), rtol=1e-5, atol=3e-6, equal_nan=True)
    assert (got[1] is None) == (want[1] is None)
    if want[1] is not None:
        assert got[1].shape == want[1].shape
        torch.testing.assert_close(got[1], want[1].float(), rtol=1e-5, atol=1e-6, equal_nan=True)


def masks(length, keys):
    generator = torch.Generator().manual_seed(1)
    some = torch.rand(BATCH * HEADS, length, keys, generator=generator) < 0.4
    some[..., 0] = False  # something is left to look at
    return {
        "none": None,
        "bool": some[0],
        "float": torch.randn(length, keys, generator=generator),
        "float with -inf": torch.zeros(length, keys).masked_fill(some[0], -torch.inf),
        "3-D bool": some,
        "3-D float": torch.randn(BATCH * HEADS, length, keys, generator=generator),
    }


def paddings(keys):
    left_out = torch.zeros(BATCH, keys, dtype=torch.bool)
    left_out[1, -2:] = True
    left_out[2, -1] = True
    return {
        "none": None,
        "bool": left_out,
        "float": torch.zeros(BATCH, keys).masked_fill(left_out, -torch.inf),
    }


WEIGHTS = [
    {"need_weights": False},
    {"need_weights": True},
    {"need_weights": True, "average_attn_weights": False},
]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_self_attention_with_every_pair_of_masks(weights, batch_first):
    dense, fast = attention(batch_first=batch_first)
    x = tokens(LENGTH, batch_first=batch_first)
    for mask, padding in itertools.product(
        masks(LENGTH, LENGTH).values(), paddings(LENGTH).values()
    ):
        if mask is not None and padding is not None and mask.dtype != padding.dtype:
            continue  # torch warns that it will not take both
        same(dense, fast, x, x, x, attn_mask=mask, key_padding_mask=padding, **weights)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("sides", [{}, {"kdim": 10}, {"vdim": 14}, {"kdim": 10, "vdim": 14}])
@pytest.mark.parametrize("bias", [True, False])
def test_cross_attention_of_other_widths(weights, batch_first, sides, bias):
    dense, fast = attention(batch_first=batch_first, bias=bias, **sides)
    query = tokens(LENGTH, batch_first=batch_first)
    key = tokens(KEYS, sides.get("kdim", WIDTH), batch_first=batch_first, seed=1)
    value = tokens(KEYS, sides.get("vdim", WIDTH), batch_first=batch_first, seed=2)
    for mask in masks(LENGTH, KEYS).values():
        same(dense, fast, query, key, value, attn_mask=mask, **weights)
    for padding in paddings(KEYS).values():
        same(dense, fast, query, key, value, key_padding_mask=padding, **weights)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_one_sequence_without_a_batch(weights):
    dense, fast = attention()
    query, key = tokens(LENGTH)[0], tokens(KEYS, seed=1)[0]
    same(dense, fast, query, query, query, **weights)
    same(dense, fast, query, key, key, key_padding_mask=paddings(KEYS)["bool"][1], **weights)
    for mask in (masks(LENGTH, KEYS)["bool"], masks(LENGTH, KEYS)["3-D float"][:HEADS]):
        same(dense, fast, query, key, key, attn_mask=mask, **weights)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_causal_mask(weights):
    dense, fast = attention(batch_first=True)
    x = tokens(LENGTH)
    mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
    same(dense, fast, x, x, x, attn_mask=mask, is_causal=True, **weights)
    with pytest.raises(ConfigError, match="att: is_causal needs attn_mask"):
        fast(x, x, x, is_causal=True)


def test_a_key_that_is_the_query_and_one_that_only_equals_it_are_alike():
    dense, fast = attention()
    x = tokens(LENGTH, batch_first=False)
    same(dense, fast, x, x, x)
    same(dense, fast, x, x.clone(), x)
    same(dense, fast, x, x.clone(), x.clone())


def test_inputs_that_do_not_fit_are_refused_by_name():
    fast = attention(batch_first=True)[1]
    x = tokens(LENGTH)
    with pytest.raises(ConfigError, match=r"^att\.in_proj_weight: input of torch\.float64"):
        fast(x.double(), x, x)
    with pytest.raises(ConfigError, match=r"^att\.in_proj_weight: input of shape .*\(\*, 24\)"):
        fast(x, tokens(LENGTH, 20), x)
    with pytest.raises(ConfigError, match="att: a deployed layer cannot be trained"):
        fast.train()


def test_keys_with_a_bias_or_a_zero_position_stay_as_they_are():
    assert why_not(nn.MultiheadAttention(8, 2)) == ""
    for options in ({"add_bias_kv": True}, {"add_zero_attn": True}):
        dense = nn.MultiheadAttention(8, 2, **options)
        assert why_not(dense) == "keys with a bias or a zero position"


def encoder(layers=2, **options):
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 32, batch_first=True, activation=options.pop("activation", "relu"), **options
    )
    return few_values_(
        nn.TransformerEncoder(layer, layers, enable_nested_tensor=not options.get("norm_first"))
    )


@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"activation": "gelu"}])
@pytest.mark.parametrize("kernels", [["sparse"], ["codes"]])
def test_an_encoder_whose_fast_path_would_take_dense_weights(monkeypatch, options, kernels):
    prefer(monkeypatch, *kernels)
    model = encoder(**options)
    x = tokens(LENGTH)
    fast = deploy(model, x)
    taken = [layer for layer in plan_of(fast).layers if layer.kernel != "dense"]
    assert [layer.kind for layer in taken] == ["MultiheadAttention", "Linear", "Linear"] * 2
    assert gap(fast(x), in_float64(model, x)) < 3e-6
    causal = nn.Transformer.generate_square_subsequent_mask(LENGTH)
    assert gap(fast(x, mask=causal), in_float64_with(model, x, mask=causal)) < 3e-6


def in_float64_with(model, x, **options):
    with torch.no_grad():
        wide = {k: v.double() if v.is_floating_point() else v for k, v in options.items()}
        out = model.double()(x.double(), **wide)
    model.float()
    return out


@pytest.mark.parametrize("only", [None, ["layers.0.linear1", "layers.0.linear2"]])
def test_an_encoder_with_padded_sequences(monkeypatch, only):
    prefer(monkeypatch, "sparse")
    model = encoder()
    x, padding = tokens(LENGTH), paddings(LENGTH)["bool"]
    fast = deploy(model, x, select=only)
    got = fast(x, src_key_padding_mask=padding)
    model.use_nested_tensor = False  # with it, padded positions are zeros, and torch warns
    want = in_float64_with(model, x, src_key_padding_mask=padding)
    assert gap(got, want) < 3e-6


def test_a_decoder_with_cross_attention(monkeypatch):
    prefer(monkeypatch, "sparse")
    model = few_values_(nn.Transformer(WIDTH, HEADS, 1, 1, 32, batch_first=True))
    source, target = tokens(LENGTH), tokens(KEYS, seed=1)
    fast = deploy(model, (source, target))
    attentions = [m for m in fast.modules() if isinstance(m, DeployedAttention)]
    assert len(attentions) == 3
    assert gap(fast(source, target), in_float64(model, source, target)) < 3e-6


def test_the_projections_are_parts_of_the_stored_weight():
    dense, fast = attention()
    parts = [fast.query.weight, fast.key.weight, fast.value.weight]
    assert torch.equal(torch.cat(parts), dense.in_proj_weight)
    assert torch.equal(fast.out_proj.weight, dense.out_proj.weight)
