from __future__ import annotations

import pytest
from torch import nn

from tersor.compress import Factorize, Prune, Quantize, Share, Train
from tersor.compress.order import REFUSED, Structures, check_order, does, leaves
from tersor.core.errors import ConfigError
from tersor.share import SHARINGS


@pytest.fixture
def network():
    return nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4))


HALF = Prune(density=0.5)
HASH = Share(method="hash", settings={"density": 0.5})

GOOD = [
    (Train(epochs=1), HALF, Quantize(bits=4)),
    (HALF, Train(epochs=1)),
    (Train(epochs=1), Factorize(), HALF, Quantize(bits=4, epochs=1)),
    (HASH, Train(epochs=1), HALF, Quantize(bits=4)),
    (Factorize(), HASH, Quantize(bits=2)),
    # one after the other undo each other, but not on different layers
    (Prune(density=0.5, select=["0"]), Factorize(select=["1"]), Quantize(bits=4)),
    (Quantize(bits=4, ignore=["2"]), Quantize(bits=8, select=["2"])),
    (Quantize(bits=4), HALF),  # without training no value moves
    (Factorize(select=["0"]), HALF),
]

BAD = [
    ((HALF, Factorize()), "factorize: '0.weight' was left with zeros .* factorize first"),
    ((HALF, HASH), "share: '0.weight' was left with zeros .* hash first"),
    ((Quantize(bits=4), Train(epochs=1)), "train: '0.weight' was left with values .* train first"),
    ((Quantize(bits=4), Prune(density=0.5, epochs=1)), "prune: .* left with values .* moves"),
    ((Quantize(bits=4), Factorize()), "factorize: .* values .* quantize the factors"),
    ((Quantize(bits=4), Quantize(bits=8)), "quantize: .* give each weight to one step"),
    ((HASH, Factorize()), "factorize: .* buckets .* no matrix of its own"),
    ((Factorize(), Factorize()), "factorize: .* factorized already"),
    (
        (HALF, Train(epochs=1), Factorize(select=["1"])),
        "'1.weight' was left with zeros .* Or leave it out by select or ignore",
    ),
]


@pytest.mark.parametrize("steps", GOOD)
def test_steps_that_keep_what_others_have_left_are_taken(network, steps):
    check_order(network, steps)


@pytest.mark.parametrize(("steps", "message"), BAD)
def test_a_step_that_would_undo_another_is_refused_with_the_weight_and_the_reason(
    network, steps, message
):
    with pytest.raises(ConfigError, match=message):
        check_order(network, steps)


def test_what_takes_the_place_of_a_layer_has_its_structure():
    left = Structures()
    left.add(Factorize(), ["fc1.weight"])
    left.check(HALF, ["fc1.0.weight", "fc10.weight"])
    left.check(Factorize(), ["fc10.weight"])
    with pytest.raises(ConfigError, match=r"'fc1\.1\.weight' was left with factors"):
        left.check(Factorize(), ["fc1.1.weight"])
    left.add(Factorize(), ["lstm.weight_ih_l0"])
    left.check(Factorize(), ["lstm.weight_hh_l0"])
    with pytest.raises(ConfigError, match="left with factors"):
        left.check(Factorize(), ["lstm.weight_ih_l0.factor1"])


def test_attention_is_shared_before_its_weights_are_pruned_or_tied():
    model = nn.Sequential(*[nn.TransformerEncoderLayer(8, 2, 8) for _ in range(2)])
    sharing = Share(method="attention")
    check_order(model, (Prune(density=0.5, select=["Linear"]), sharing, HALF, Quantize(bits=4)))
    with pytest.raises(ConfigError, match=r"'0\.self_attn\.in_proj_weight' .* zeros .* first"):
        check_order(model, (HALF, sharing))
    ties = Share(method="tie", settings={"ties": {"1.self_attn": "0.self_attn"}})
    with pytest.raises(ConfigError, match=r"left with ties .* it would put another tensor"):
        check_order(model, (ties, sharing))


def test_weights_of_one_module_are_told_apart():
    left = Structures()
    left.add(Quantize(bits=4), ["lstm.weight_ih_l0"])
    left.check(Quantize(bits=4), ["lstm.weight_hh_l0"])
    with pytest.raises(ConfigError, match="left with values"):
        left.check(Quantize(bits=4), ["lstm.weight_ih_l0"])


def test_plain_data_gives_the_same_structures_back():
    left = Structures()
    left.add(HALF, ["a.weight"])
    left.add(Quantize(bits=4), ["a.weight", "b.weight"])
    again = Structures(left.to_dict())
    assert again.having("values") == ["a.weight", "b.weight"]
    assert again.having("zeros") == ["a.weight"]


def test_every_word_of_the_table_is_one_that_a_step_has():
    steps = [Train(epochs=1), HALF, Prune(density=0.5, epochs=1), Quantize(bits=4), Factorize()]
    steps += [Share(method=method) for method in SHARINGS]
    assert {a for a, _ in REFUSED} == {leaves(step) for step in steps} - {None}
    assert {b for _, b in REFUSED} <= {does(step) for step in steps}
