import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.prune import prune_
from tersor.prune.initial import transfer_


def net(classes: int = 3, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, classes))


def masks_of(model: nn.Module, density: float = 0.4) -> MaskSet:
    return prune_(model, density)[0]


def test_another_draw_of_the_same_network_takes_the_masks_as_they_are():
    masks = masks_of(net())
    other = net(seed=1)
    before = [p.detach().clone() for p in other.parameters()]
    held, report = transfer_(other, masks)
    assert all(torch.equal(held[name], masks[name]) for name in masks)
    assert torch.equal(other[0].weight, before[0] * masks["0.weight"])
    assert torch.equal(other[0].bias, before[1])
    assert report.summary == {"density": held.density, "kept": round(0.4 * 66)}
    assert [row["kept"] for row in report.rows] == [int(m.sum()) for m in masks.values()]


def test_an_output_layer_of_another_size_stays_dense_if_it_is_ignored():
    masks = masks_of(net(classes=3))
    other = net(classes=5)
    last = other[2].weight.detach().clone()
    held, report = transfer_(other, masks, ignore="2")
    assert list(held) == ["0.weight"]
    assert torch.equal(other[2].weight, last)
    assert report.skipped["2.weight"] == "ignored"


@pytest.mark.parametrize(
    ("model", "masks", "message"),
    [
        (net(5), {}, r"'0.weight' has no mask. .* ignore="),
        (
            net(5),
            {"0.weight": (6, 8), "2.weight": (3, 6)},
            r"'2.weight' has shape \(5, 6\), but its mask \(3, 6\)",
        ),
        (
            net(3),
            {"0.weight": (6, 8), "2.weight": (3, 6), "4.weight": (1,)},
            "a mask '4.weight', but no weight of this name",
        ),
    ],
)
def test_masks_that_do_not_fit_are_named_and_nothing_changes(model, masks, message):
    before = [p.detach().clone() for p in model.parameters()]
    wrong = MaskSet({name: torch.zeros(shape).bool() for name, shape in masks.items()})
    with pytest.raises(ConfigError, match=message):
        transfer_(model, wrong)
    assert all(map(torch.equal, model.parameters(), before))
