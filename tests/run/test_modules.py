"""The copy that is deployed: what it shares with the model, and how its modules are replaced."""

import pytest
import torch
from deployables import cnn, gap, images, in_float64, mlp
from torch import nn

from tersor.core.call_order import order_of_calls
from tersor.run.following import followings
from tersor.run.modules import copied, folded, own, put
from tersor.run.sites import sites


def test_a_copy_shares_tensors_until_it_owns_them():
    model = cnn().train()
    work = copied(model)
    pairs = list(zip(model.parameters(), work.parameters(), strict=True))
    assert all(a.data_ptr() == b.data_ptr() for a, b in pairs)
    assert all(b.requires_grad for _, b in pairs)
    assert all(a.requires_grad for a, _ in pairs)
    assert not any(m.training for m in work.modules())
    own(work)
    for a, b in zip(
        (*model.parameters(), *model.buffers()), (*work.parameters(), *work.buffers()), strict=True
    ):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()


def test_tied_weights_stay_tied():
    model = mlp()
    model[2] = nn.Linear(32, 32)
    model[4] = nn.Linear(32, 32)
    model[4].weight = model[2].weight
    work = copied(model)
    own(work)
    assert work[4].weight is work[2].weight
    assert work[4].weight.data_ptr() != model[4].weight.data_ptr()


def test_a_module_is_put_at_every_name_of_the_one_before():
    shared = nn.Linear(2, 2)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.ReLU())})
    new = nn.Linear(2, 2)
    put(model, "b.0", new)
    assert model["a"] is new
    assert model["b"][0] is new


@pytest.mark.parametrize("name", ["0", "7"])
def test_a_folded_norm_gives_the_outputs_of_both(name):
    model = cnn()
    found = sites(model, followings(model, order_of_calls(model)))[0]
    site = next(site for site in found if site.name == name)
    x = images() if name == "0" else torch.randn(4, 54)
    before = site.layer.weight.clone()
    assert gap(folded(site)(x), in_float64(nn.Sequential(site.layer, site.norm).eval(), x)) < 3e-6
    assert torch.equal(site.layer.weight, before)


def test_linear_layers_that_stay_take_turned_sequences_as_one_matrix():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            return self.head(x.transpose(0, 1))

    model = Turned()
    x = torch.randn(3, 5, 8)
    work = copied(model)
    assert work.head.weight.requires_grad  # while it is timed: torch's way depends on it
    own(work)
    assert not any(p.requires_grad for p in work.parameters())
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        want = model(x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        got = work(x)
    seen = {event.key for event in profile.key_averages()}
    assert torch.equal(got, want)
    assert "aten::bmm" not in seen
    assert torch.equal(torch.export.export(work, (x,)).module()(x), want)
