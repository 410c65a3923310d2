import math
from collections.abc import Callable

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from tersor.core import HeldMasks, MaskSet
from tersor.core.errors import ConfigError, FormatError

BITS = {torch.float64: torch.int64, torch.float32: torch.int32}
BITS |= {torch.float16: torch.int16, torch.bfloat16: torch.int16}

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.01, weight_decay=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, weight_decay=0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.01, weight_decay=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, 0.01, weight_decay=0.01),
    "Adamax": lambda p: torch.optim.Adamax(p, 0.01, weight_decay=0.01),
    "ASGD": lambda p: torch.optim.ASGD(p, 0.01, weight_decay=0.01),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.01),
    "Adadelta": lambda p: torch.optim.Adadelta(p, 1.0, weight_decay=0.01),
    "Adafactor": lambda p: torch.optim.Adafactor(p, 0.01, weight_decay=0.01),
    "LBFGS": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=3),
    "Muon": lambda p: torch.optim.Muon(p, 0.01, weight_decay=0.01),
}


def bits_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(BITS[tensor.dtype])


def some_mask(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.4


def train(model: nn.Module, optimizer: Optimizer, steps: int = 100) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x, y = (torch.randn(8, n, generator=generator) for n in (6, 4))

        def closure(x=x, y=y) -> torch.Tensor:
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)


@pytest.fixture
def net() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 4, bias=False)


@pytest.mark.parametrize("dtype", BITS, ids=str)
def test_what_is_not_kept_becomes_plus_zero_to_the_bit_and_the_rest_stays(dtype):
    values = [-1.0, math.nan, math.inf, -math.inf, -0.0, 1e-7, 2.0, 3.0]
    model = nn.Linear(2, 8, bias=False, dtype=dtype)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([values, values]).T)
    before = bits_of(model.weight)
    mask = torch.tensor([[False, True]] * 8)
    MaskSet({"weight": mask}).apply(model)
    after = bits_of(model.weight)
    assert after[:, 0].tolist() == [0] * 8
    assert torch.equal(after[:, 1], before[:, 1])


def test_channels_last_and_transposed_weights_are_masked_in_place():
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    linear = nn.Linear(5, 3)
    linear.weight = nn.Parameter(torch.randn(5, 3).T)
    model = nn.ModuleDict({"conv": conv, "linear": linear})
    assert not conv.weight.is_contiguous()
    assert not linear.weight.is_contiguous()
    masks = {f"{n}.weight": some_mask(m.weight.shape) for n, m in model.items()}
    expected = {
        n: torch.where(masks[n], w, 0.0) for n, w in model.state_dict().items() if n in masks
    }
    strides = conv.weight.stride()
    MaskSet(masks).apply(model)
    for name, values in expected.items():
        assert torch.equal(model.state_dict()[name], values)
    assert conv.weight.stride() == strides


def test_the_table_has_every_dense_optimizer_of_torch():
    known = {
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, Optimizer)
    }
    assert known - {"Optimizer", "SparseAdam"} <= set(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masks_hold_through_100_steps_of_every_optimizer(name, net):
    if not hasattr(torch.optim, name):
        pytest.skip(f"this torch has no {name}")
    masks = MaskSet({"weight": some_mask((4, 6))})
    optimizer = OPTIMIZERS[name]([net.weight])
    before = net.weight.detach().clone()
    with masks.attach(net, optimizer):
        assert not net.weight[~masks["weight"]].any()  # from the start
        train(net, optimizer)
    dead = ~masks["weight"]
    assert bits_of(net.weight)[dead].tolist() == [0] * int(dead.sum())
    assert (net.weight != before)[masks["weight"]].all()  # the others have learned
    train(net, optimizer, steps=1)
    assert net.weight[dead].any()  # nothing holds them any more: so something did


def test_momentum_alone_would_move_a_pruned_weight(net):
    masks = MaskSet({"weight": some_mask((4, 6))})
    optimizer = OPTIMIZERS["AdamW"]([net.weight])
    train(net, optimizer, steps=3)
    optimizer.zero_grad()
    net.weight.grad = torch.zeros_like(net.weight)
    masks.apply(net)
    optimizer.step()
    assert net.weight[~masks["weight"]].any()
    with masks.attach(net, optimizer):
        optimizer.step()
        assert not net.weight[~masks["weight"]].any()


def test_an_optimizer_wrapped_by_accelerate_is_accompanied(net):
    masks = MaskSet({"weight": some_mask((4, 6))})
    model, optimizer = Accelerator(cpu=True).prepare(net, torch.optim.Adam([net.weight], 0.1))
    with masks.attach(net, optimizer):
        train(model, optimizer, steps=3)
    assert not net.weight[~masks["weight"]].any()
    train(model, optimizer, steps=1)
    assert net.weight[~masks["weight"]].any()


def test_detach_removes_the_hooks_also_after_an_error_and_twice(net):
    masks = MaskSet({"weight": torch.zeros(4, 6, dtype=torch.bool)})
    optimizer = torch.optim.SGD([net.weight], 0.1)
    attachment = masks.attach(net, optimizer)
    with pytest.raises(KeyError), attachment:
        raise KeyError
    attachment.detach()
    train(net, optimizer, steps=1)
    assert net.weight.all()


def test_an_optimizer_of_another_model_is_refused(net):
    other = nn.Linear(6, 4)
    masks = MaskSet({"weight": some_mask((4, 6))})
    before = net.weight.detach().clone()
    with pytest.raises(ConfigError, match=r"optimizer does not have 'weight'"):
        masks.attach(net, torch.optim.SGD(other.parameters(), 0.1))
    assert torch.equal(net.weight, before)


def test_a_frozen_weight_needs_no_optimizer(net):
    model = nn.Sequential(net, nn.Linear(4, 4))
    net.weight.requires_grad_(False)
    masks = MaskSet({"0.weight": some_mask((4, 6))})
    with masks.attach(model, torch.optim.SGD(model[1].parameters(), 0.1)):
        assert not net.weight[~masks["0.weight"]].any()


def test_a_live_zero_stays_live(net):
    with torch.no_grad():
        net.weight.zero_()
    masks = MaskSet({"weight": some_mask((4, 6))})
    optimizer = torch.optim.SGD([net.weight], 0.1)
    with masks.attach(net, optimizer):
        train(net, optimizer, steps=1)
    assert torch.equal(net.weight != 0, masks["weight"])


def test_tied_weights_can_be_masked_by_either_name():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    mask = some_mask((3, 3))
    MaskSet({"b.weight": mask}).apply(model)
    assert torch.equal(model["a"].weight != 0, mask)


def test_counts_are_over_all_masks():
    masks = MaskSet({"a": torch.tensor([True, False]), "b": torch.ones(6, dtype=torch.bool)})
    assert (masks.kept, masks.total, masks.density) == (7, 8, 7 / 8)
    assert len(masks) == 2
    assert list(masks) == ["a", "b"]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"wieght": torch.ones(4, 6, dtype=torch.bool)}, r"'wieght'.*Linear has no such weight"),
        ({"weight": torch.ones(6, 4, dtype=torch.bool)}, r"'weight'.*\(6, 4\).*\(4, 6\)"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_and_nothing_is_changed(net, masks, message):
    before = net.weight.detach().clone()
    good = {"weight": torch.zeros(4, 6, dtype=torch.bool)}
    with pytest.raises(ConfigError, match=message):
        MaskSet(good | masks).apply(net)
    assert torch.equal(net.weight, before)


def test_a_mask_of_numbers_is_refused():
    with pytest.raises(ConfigError, match=r"'weight': dtype torch.float32, expected torch.bool"):
        MaskSet({"weight": torch.ones(2)})


def test_masks_come_back_from_a_file(tmp_path):
    masks = MaskSet({"a.weight": some_mask((4, 6)), "empty": torch.ones(0, dtype=torch.bool)})
    masks.save(tmp_path / "masks")
    back = MaskSet.load(tmp_path / "masks")
    assert list(back) == list(masks)
    assert all(torch.equal(back[name], mask) for name, mask in masks.items())


def test_every_truncation_of_a_file_of_masks_is_a_format_error(tmp_path):
    MaskSet({"a.weight": some_mask((4, 6))}).save(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for size in range(0, len(whole), 7):
        (tmp_path / "part").write_bytes(whole[:size])
        with pytest.raises(FormatError, match="part"):
            MaskSet.load(tmp_path / "part")


@pytest.mark.parametrize("state", [{"step": 3}, {"weight": torch.ones(2)}])
def test_a_checkpoint_of_something_else_holds_no_masks(tmp_path, state):
    torch.save(state, tmp_path / "other")
    with pytest.raises(FormatError, match=r"other: a checkpoint, but not one of masks"):
        MaskSet.load(tmp_path / "other")


def test_held_masks_are_a_method_that_a_loop_can_attach():
    model = nn.Linear(4, 4)
    masks = MaskSet({"weight": torch.eye(4, dtype=torch.bool)})
    method = HeldMasks(model, masks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    with method.attach(optimizer):
        for _ in range(3):
            model(torch.ones(1, 4)).square().sum().backward()
            optimizer.step()
    assert method.finished
    assert torch.equal(model.weight != 0, masks["weight"])
    other = HeldMasks(model, MaskSet({"weight": torch.ones(4, 4, dtype=torch.bool)}))
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.state_dict()["weight"], masks["weight"])
    with pytest.raises(ConfigError, match="mask 'bias': shape"):
        HeldMasks(model, MaskSet({"bias": torch.ones(2, dtype=torch.bool)}))
