import copy
import json

import pytest
import torch
from torch import nn

import tersor
from tersor.core.errors import ConfigError
from tersor.share import (
    HashedLinear,
    hash_,
    rebuild_,
    share_layers_,
    share_templates_,
    structure,
    tie_,
)


def network() -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "embed": nn.Embedding(20, 6),
            "one": nn.Linear(6, 6),
            "two": nn.Linear(6, 6),
            "stack": nn.Sequential(*[nn.Conv1d(6, 6, 1) for _ in range(4)]),
            "head": nn.Linear(6, 20, bias=False),
        }
    )


def shared() -> nn.ModuleDict:
    model = network()
    hash_(model, 0.5, seed=3, select=["one", "two"], even=True)
    tie_(model, {"two.buckets": "one.buckets", "head": "embed"})
    share_templates_(model, 2, select="stack")
    return model


def test_a_network_as_it_was_built_takes_the_structure_and_then_the_state(tmp_path):
    torch.manual_seed(0)
    model = shared()
    tersor.save(model, tmp_path / "net.terse", metadata={"structure": structure(model)})
    again = network()
    rebuild_(again, json.loads(json.dumps(structure(model))))
    tersor.load(tmp_path / "net.terse", into=again)
    assert structure(again) == structure(model)
    for name in ("embed", "one", "two", "stack.0", "stack.3", "head"):
        ours, theirs = again.get_submodule(name), model.get_submodule(name)
        assert type(ours) is type(theirs)
        assert torch.equal(ours.weight, theirs.weight)
    assert again["two"].buckets is again["one"].buckets
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in model.named_parameters()]


def test_shared_layers_are_ties():
    model, again = (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 4)
        for _ in range(2)
    )
    share_layers_(model, "layers", 2, own=nn.LayerNorm)
    rebuild_(again, structure(model))
    again.load_state_dict(model.state_dict())
    assert structure(again) == structure(model)
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())


def test_a_plain_network_has_no_records():
    assert structure(network()) == []


def test_one_module_under_two_names_is_rebuilt():
    layer = nn.Linear(4, 4)
    model = nn.ModuleList([layer, layer])
    hash_(model, 0.5)
    other = nn.Linear(4, 4)
    for again in (nn.ModuleList([other, other]), nn.ModuleList([other, nn.Linear(4, 4)])):
        rebuild_(again, structure(model))
        again.load_state_dict(model.state_dict())
        assert type(again[1]) is HashedLinear
        assert torch.equal(again[0].weight, again[1].weight)
        assert again[0].buckets is again[1].buckets


HASH = {"name": "one", "kind": "hashed", "buckets": 9, "seed": 1, "even": False}
BANK = {"name": "one", "kind": "templates", "layers": ["one", "two"], "templates": 1}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (HASH | {"kind": "hased"}, r"record 1: kind 'hased'; did you mean 'hashed'"),
        (HASH | {"name": "ones"}, r"record 1 .hashed.: ModuleDict has no 'ones'; did you mean"),
        (HASH | {"name": "stack"}, "'stack' is a Sequential; expected Linear"),
        (HASH | {"buckets": 37}, "'one': 37 buckets; expected 1 to 36"),
        (HASH | {"seed": -1}, "seed -1"),
        ({"name": "one", "kind": "hashed", "seed": 1, "even": False}, "lacks the key 'buckets'"),
        (BANK | {"layers": ["one", "head"]}, r"'head' has shape \(20, 6\), but 'one' \(6, 6\)"),
        (BANK | {"layers": ["one", "embed"]}, "'embed' is a Embedding"),
        (BANK | {"templates": 3}, "3 templates; expected 1 to 2"),
        ({"name": "embed.weight", "kind": "tied", "names": ["one.weight"]}, "has shape"),
        (
            {"name": "embed.weight", "kind": "tied", "names": ["no.weight"]},
            "has no parameter 'no.w",
        ),
    ],
)
def test_records_that_do_not_fit_are_refused_and_nothing_is_changed(record, message):
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=message):
        rebuild_(model, [HASH | {"name": "stack.0"}, record])
    assert type(model["stack"][0]) is nn.Conv1d
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
