import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.prune.initial import sculpt_


def mlp(width: int, depth: int = 2) -> nn.Sequential:
    torch.manual_seed(width)
    hidden = [m for _ in range(depth - 1) for m in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(12, width), nn.ReLU(), *hidden, nn.Linear(width, 4))


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(16, 12), torch.arange(16) % 4)]


def live(model: nn.Module) -> int:
    return sum(int((p != 0).sum()) for p in model.parameters() if p.dim() > 1)


@pytest.mark.parametrize(("criterion", "rounds"), [("snip", 1), ("random", 3), ("synflow", 4)])
@pytest.mark.parametrize("kept", [99, 200, 257])
def test_networks_of_every_shape_keep_exactly_the_same_number(criterion, rounds, kept):
    models = {"narrow": mlp(10), "wide": mlp(40), "deep": mlp(15, depth=4)}
    masks, report = sculpt_(models, kept, criterion=criterion, rounds=rounds, data=data())
    assert {name: live(model) for name, model in models.items()} == dict.fromkeys(models, kept)
    assert {name: found.kept for name, found in masks.items()} == dict.fromkeys(models, kept)
    assert [row["kept"] for row in report.rows] == [kept] * 3
    assert [row["weights"] for row in report.rows] == [260, 2240, 915]
    assert len(report.sections) == 3


def test_a_network_that_is_too_small_is_named_before_any_is_changed():
    models = {"wide": mlp(40), "narrow": mlp(10)}
    before = models["wide"][0].weight.detach().clone()
    with pytest.raises(ConfigError, match="300 weights to keep of 'narrow'; expected 1 to 260"):
        sculpt_(models, 300, data=data())
    with pytest.raises(ConfigError, match="0 weights to keep of 'wide'"):
        sculpt_(models, 0, data=data())
    assert torch.equal(models["wide"][0].weight, before)


def test_a_selection_counts_what_is_selected_alone():
    model = mlp(10)
    sculpt_({"one": model}, 30, criterion="magnitude", ignore="0")
    assert live(model) == 120 + 30
