import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.prune.lottery import PRUNED, Frozen

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
}


def test_what_becomes_of_a_pruned_weight():
    initial = torch.tensor([0.5, -0.5, 0.5, -0.5, 0.5])
    trained = torch.tensor([0.1, -0.1, 0.9, 0.6, 0.5])
    assert PRUNED["zero"](initial, trained).tolist() == [0] * 5
    assert PRUNED["initial"](initial, trained).tolist() == initial.tolist()
    # Towards zero is about the size, not the sign; what did not move stays as well.
    assert PRUNED["toward-zero"](initial, trained).tolist() == [0, 0, 0.5, -0.5, 0.5]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_weights_do_not_move_and_the_others_do(optimizer):
    torch.manual_seed(0)
    net = nn.Linear(6, 3)
    before = net.weight.detach().clone()
    masks = MaskSet({"weight": torch.arange(18).view(3, 6) % 3 == 0})
    values = {"weight": torch.arange(18.0).view(3, 6)}
    built = OPTIMIZERS[optimizer](net.parameters())
    with Frozen(net, masks, values).attach(built):
        for _ in range(20):
            built.zero_grad()
            (net(torch.ones(2, 6)) - 1).square().sum().backward()
            built.step()
            dead = ~masks["weight"]
            assert torch.equal(net.weight[dead], values["weight"][dead])
    assert not torch.isclose(net.weight, before)[masks["weight"]].any()


def test_a_frozen_state_can_be_loaded_before_it_is_attached():
    net = nn.Linear(2, 1)
    masks = MaskSet({"weight": torch.tensor([[True, False]])})
    one = Frozen(net, masks, {"weight": torch.tensor([[1.0, 2.0]])})
    other = Frozen(
        net, MaskSet({"weight": torch.tensor([[False, False]])}), {"weight": torch.ones(1, 2)}
    )
    other.load_state_dict(one.state_dict())
    with other.attach(torch.optim.SGD(net.parameters(), 0.1)):
        assert net.weight[0, 1] == 2.0
        assert net.weight[0, 0] != 1.0
    assert other.finished


def test_an_optimizer_of_another_model_and_a_mask_of_another_shape_are_refused():
    net = nn.Linear(2, 1)
    masks = MaskSet({"weight": torch.tensor([[True, False]])})
    frozen = Frozen(net, masks, {"weight": torch.zeros(1, 2)})
    with pytest.raises(ConfigError, match="does not have 'weight'"):
        frozen.attach(torch.optim.SGD(nn.Linear(2, 1).parameters(), 0.1))
    with pytest.raises(ConfigError, match=r"mask 'weight': shape \(1, 2\)"):
        Frozen(nn.Linear(3, 1), masks, {"weight": torch.zeros(1, 2)})
