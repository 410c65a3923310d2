"""Quantized layers deployed from their values: what runs them, and that nothing else changes."""

import pytest
import torch
from deployables import gap, in_float64, prefer, vectors
from torch import nn

from tersor.core.errors import ConfigError
from tersor.quantize import Affine, quantize_
from tersor.run import deploy, plan_of
from tersor.store import load, open_, save


def on_grid(layer, bits, group, *, density=1.0, asymmetric=False):
    """Let the weight of a layer be integers with a scale for each row and group."""
    weight = layer.weight.detach()
    rows, columns = weight.shape[0], weight[0].numel()
    group = group or columns
    generator = torch.Generator().manual_seed(bits)
    half = 1 << (bits - 1)
    integers = torch.randint(-half, half, (rows, columns), generator=generator)
    groups = -(-columns // group)
    if asymmetric:
        shift = torch.randint(1 - half, half, (rows, groups), generator=generator)
        integers += shift.repeat_interleave(group, 1)[:, :columns]
    integers *= torch.rand(rows, columns, generator=generator) < density
    scales = torch.rand(rows, groups, generator=generator) + 0.01
    scales /= 10 * half
    made = integers * scales.repeat_interleave(group, 1)[:, :columns]
    with torch.no_grad():
        layer.weight.copy_(made.view_as(weight))
    return layer


def with_row_books(layer):
    """Let each row have 16 values of its own."""
    rows, columns = layer.weight.shape
    generator = torch.Generator().manual_seed(0)
    books = torch.randn(rows, 16, generator=generator)
    codes = torch.randint(16, (rows, columns), generator=generator)
    with torch.no_grad():
        layer.weight.copy_(books.gather(1, codes))
    return layer


def linear(make, *args, **options):
    first, second = nn.Linear(200, 150), nn.Linear(150, 40)
    return nn.Sequential(make(first, *args, **options), nn.ReLU(), make(second, *args, **options))


CASES = {
    "int8": lambda: linear(on_grid, 8, None),
    "int4": lambda: linear(on_grid, 4, None, asymmetric=True),
    "int2": lambda: linear(on_grid, 2, None),
    "int8 group 32": lambda: linear(on_grid, 8, 32, asymmetric=True),
    "int4 group 64": lambda: linear(on_grid, 4, 64),
    "int4 group 128": lambda: linear(on_grid, 4, 128, asymmetric=True),
    "row codes": lambda: linear(with_row_books),
    "scaled/256": lambda: linear(on_grid, 8, None, density=0.3),
}


@pytest.fixture(params=CASES)
def case(request, monkeypatch):
    """The kernel, the model, and it deployed on that kernel."""
    model = CASES[request.param]().eval()
    prefer(monkeypatch, request.param)
    return request.param, model, deploy(model, vectors(3, 200))


def test_the_plan_names_the_grid_and_sums_differ_in_order_alone(case):
    kernel, model, fast = case
    assert [layer.kernel for layer in plan_of(fast).layers] == [kernel] * 2
    x = vectors(3, 200, seed=1)
    assert gap(fast(x), in_float64(model, x)) < 2e-6
    for plain, made in zip(model[::2], [fast[0], fast[2]], strict=True):
        assert torch.equal(made.weight, plain.weight)


@pytest.mark.parametrize(
    ("quantizer", "kernel"),
    [
        (Affine(8, granularity="channel"), "int8"),
        (Affine(4, granularity="channel", symmetric=False), "int4"),
        (Affine(4, granularity="group", group=64), "int4 group 64"),
        (Affine(2, granularity="group", group=32), "int2 group 32"),
    ],
)
def test_what_quantize_makes_is_recognised(monkeypatch, quantizer, kernel):
    prefer(monkeypatch, kernel)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(192, 80), nn.ReLU(), nn.Linear(80, 40)).eval()
    quantize_(model, quantizer)
    fast = deploy(model, vectors(3, 192))
    assert [layer.kernel for layer in plan_of(fast).layers] == [kernel] * 2
    assert torch.equal(fast[0].weight, model[0].weight)


def test_memory_is_that_of_the_codes_and_tables(case):
    kernel, model, fast = case
    dense = 4 * model[0].weight.numel()
    shares = {"int8": 3, "int8 group 32": 2.5, "int2": 8, "scaled/256": 4, "row codes": 4}
    assert fast[0].weight_bytes < dense / shares.get(kernel, 4.5)


def test_a_plan_is_followed_and_a_state_dict_loaded(case):
    _, model, fast = case
    again = deploy(model, vectors(3, 200), plan=plan_of(fast))
    x = vectors(3, 200, seed=1)
    assert torch.equal(again(x), fast(x))
    with torch.no_grad():
        for buffer in again.buffers():
            if buffer.is_floating_point():
                buffer.fill_(7)
    again.load_state_dict(fast.state_dict())
    assert torch.equal(again(x), fast(x))


def test_weights_come_from_a_file(case, tmp_path):
    _, model, fast = case
    save(model, tmp_path / "model.terse")
    x = vectors(3, 200, seed=1)
    with torch.device("meta"):
        empty = CASES["int8"]()
    with open_(tmp_path / "model.terse") as file:
        again = deploy(empty, vectors(3, 200), plan=plan_of(fast), weights=file)
    assert torch.equal(again(x), fast(x))
    assert torch.equal(load(tmp_path / "model.terse")["0.weight"], model[0].weight)


def test_bytes_of_another_matrix_are_refused(case):
    _, _, fast = case
    state = fast.state_dict()
    for place, wrong in ((0, 1), (8, 200), (16, 1), (24, 3), (24, 16)):
        state["0.packed"] = fast[0].packed.clone()
        state["0.packed"][place] = wrong
        with pytest.raises(RuntimeError, match=r"0\.packed: "):
            fast.load_state_dict(state)


def test_a_plan_for_other_integers_is_refused(monkeypatch):
    prefer(monkeypatch, "int4 group 64")
    plan = plan_of(deploy(linear(on_grid, 4, 64).eval(), vectors(3, 200)))
    with pytest.raises(ConfigError, match="'0' cannot run on int4 group 64 as the plan says"):
        deploy(linear(on_grid, 4, 32).eval(), vectors(3, 200), plan=plan)


def test_a_scale_for_each_row_goes_with_a_folded_norm(monkeypatch):
    prefer(monkeypatch, "scaled/256")
    norm = nn.BatchNorm2d(40)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.copy_(torch.randn(40, generator=generator))
    layer = on_grid(nn.Conv2d(20, 40, 3, groups=2, bias=False), 8, None, density=0.4)
    model = nn.Sequential(layer, norm, nn.ReLU()).eval()
    x = torch.randn(2, 20, 9, 9, generator=generator)
    fast = deploy(model, x)
    assert plan_of(fast).layers[0].kernel == "scaled/256"
    assert gap(fast(x), in_float64(model, x)) < 2e-6
    assert torch.equal(fast[0].weight, layer.weight)
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(x), fast(x))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("batch", [1, 5])
def test_recurrent_layers_run_on_integers_of_groups(monkeypatch, kind, batch):
    prefer(monkeypatch, "integers")
    layer = kind(70, 33).eval()
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name.startswith("weight"):
                like = nn.Linear(weight.shape[1], weight.shape[0])
                weight.copy_(on_grid(like, 4, 32, asymmetric=True).weight)
    model = nn.Sequential(layer)
    x = torch.randn(6, batch, 70, generator=torch.Generator().manual_seed(0))
    fast = deploy(model, x)
    assert plan_of(fast).layers[0].kernel == "integers"
    assert gap(fast(x)[0], in_float64(model, x)[0]) < 2e-6
