import copy
import math

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.prune.lottery import CONTROLS, MASK_CONTROLS, WEIGHT_CONTROLS, reset_parameters
from tersor.prune.lottery.controls import noisy


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 50), nn.ReLU(), nn.Linear(50, 4))


@pytest.fixture
def masks() -> MaskSet:
    """A quarter of the first weight, all but a few of the second."""
    return MaskSet({"0.weight": pattern((50, 40), 4) == 0, "2.weight": pattern((4, 50), 20) != 0})


def pattern(shape: tuple[int, int], period: int) -> torch.Tensor:
    return (torch.arange(math.prod(shape)) % period).view(shape)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counts(masks: MaskSet) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


def changed(net: nn.Module, name: str, masks: MaskSet, seed: int = 0) -> nn.Module:
    other = copy.deepcopy(net)
    WEIGHT_CONTROLS[name](other, masks, generator(seed), reset_parameters)
    return other


@pytest.mark.parametrize("name", CONTROLS)
def test_a_seed_decides_a_control_and_no_global_generator_moves(name, net, masks):
    torch.manual_seed(7)
    before = torch.get_rng_state()

    def result(seed: int) -> list[torch.Tensor]:
        model = copy.deepcopy(net)
        if name in MASK_CONTROLS:
            made = MASK_CONTROLS[name](model, masks, generator(seed))
            assert made.kept == masks.kept
            assert all(map(torch.equal, model.parameters(), net.parameters()))
            return list(made.values())
        WEIGHT_CONTROLS[name](model, masks, generator(seed), reset_parameters)
        assert not torch.equal(model[0].weight, net[0].weight)
        return list(model.parameters())

    assert all(map(torch.equal, result(0), result(0)))
    drawn = name not in ("magnitude-at-init", "signed-constant")
    assert drawn != all(map(torch.equal, result(0), result(1)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["random-mask", "magnitude-at-init"])
def test_masks_in_the_same_layer_counts_have_them(name, net, masks):
    made = MASK_CONTROLS[name](net, masks, generator())
    assert counts(made) == counts(masks) == {"0.weight": 500, "2.weight": 190}
    assert not torch.equal(made["0.weight"], masks["0.weight"])


def test_random_masks_keep_every_weight_equally_often(net, masks):
    times = torch.zeros(50, 40)
    for seed in range(400):
        times += MASK_CONTROLS["random-mask"](net, masks, generator(seed))["0.weight"]
    assert times.sum() == 400 * 500
    # Of 400 draws at 1/4: mean 100, standard deviation 8.7; of 2,000 weights none is 6 away.
    assert times.min() > 100 - 6 * 8.7
    assert times.max() < 100 + 6 * 8.7


def test_a_random_global_mask_has_the_same_share_everywhere(net, masks):
    kept = counts(MASK_CONTROLS["random-global"](net, masks, generator()))
    share = 690 / 2200
    assert sum(kept.values()) == 690
    assert abs(kept["0.weight"] - 2000 * share) < 50
    assert abs(kept["2.weight"] - 200 * share) < 50


def test_a_random_global_mask_that_leaves_a_layer_empty_is_refused(net):
    few = MaskSet({n: torch.zeros_like(net.get_parameter(n)) > 0 for n in ("0.weight", "2.weight")})
    few["0.weight"][0, 0] = True  # one weight for two layers
    with pytest.raises(ConfigError, match=r"random-global: '[02].weight' is left empty \(0 of 2"):
        MASK_CONTROLS["random-global"](net, few, generator())


def test_magnitude_at_init_keeps_the_largest_initial_weights(net, masks):
    made = MASK_CONTROLS["magnitude-at-init"](net, masks, generator())
    size = net[0].weight.detach().abs()
    assert size[made["0.weight"]].min() > size[~made["0.weight"]].max()


def test_a_new_start_has_the_distribution_of_the_first_one(net, masks):
    other = changed(net, "random-reinit", masks)
    bound = 1 / math.sqrt(40)  # nn.Linear: uniform in -bound to bound
    assert other[0].weight.abs().max() <= bound
    expected = bound / math.sqrt(3)
    # 2,000 draws: the standard deviation is known to about 1 %.
    assert other[0].weight.std().item() == pytest.approx(expected, rel=0.05)
    assert not torch.equal(other[0].bias, net[0].bias)


def test_a_new_start_is_what_pytorch_builds_after_the_same_seed(net):
    reset_parameters(net, generator(3))
    torch.manual_seed(int(torch.randint(2**62, (), generator=generator(3))))
    fresh = nn.Sequential(nn.Linear(40, 50), nn.ReLU(), nn.Linear(50, 4))
    assert all(map(torch.equal, net.parameters(), fresh.parameters()))


def test_a_module_that_cannot_be_reset_is_named():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(1))

    with pytest.raises(ConfigError, match=r"'0' \(Scaled\) has no reset_parameters"):
        reset_parameters(nn.Sequential(Scaled()), generator())


def test_redrawn_weights_are_kept_values_and_reshuffled_ones_are_the_same_values(net, masks):
    kept = net[0].weight.detach()[masks["0.weight"]]
    redrawn = changed(net, "redrawn", masks)[0].weight.detach()
    assert set(redrawn.flatten().tolist()) <= set(kept.tolist())
    assert len(redrawn[masks["0.weight"]].unique()) < 500  # with repetition
    reshuffled = changed(net, "reshuffled", masks)[0].weight.detach()
    assert torch.equal(reshuffled[masks["0.weight"]].sort().values, kept.sort().values)
    assert torch.equal(reshuffled[~masks["0.weight"]], net[0].weight[~masks["0.weight"]])


def test_signs_are_kept(net, masks):
    for name in ("sign-kept", "signed-constant"):
        other = changed(net, name, masks)[0].weight
        assert torch.equal(other.sign(), net[0].weight.sign())
    size = changed(net, "signed-constant", masks)[0].weight.detach().abs()
    spread = net[0].weight.detach().square().mean() - net[0].weight.detach().mean().square()
    torch.testing.assert_close(size, spread.sqrt().expand_as(size))
    assert len(changed(net, "sign-kept", masks)[0].weight.abs().unique()) > 1000


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0, 3.0])
def test_noise_has_the_stated_share_of_the_layers_spread(strength, net, masks):
    other = copy.deepcopy(net)
    noisy(other, masks, generator(), reset_parameters, strength=strength)
    noise = (other[0].weight - net[0].weight).detach()
    assert (noise.std() / net[0].weight.std()).item() == pytest.approx(strength, rel=0.05)
    assert noise.mean().abs() < 0.1 * noise.std()
    named = changed(net, f"noise-{strength:g}", masks)
    assert torch.equal(named[0].weight, other[0].weight)
    assert torch.equal(other[0].bias, net[0].bias)
