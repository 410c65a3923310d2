"""The operators as torch's tools see them: opcheck, compile, export, and the functions alone."""

import warnings

import pytest
import torch
from deployables import cnn, few_values_, gap, images, in_float64, mlp, prefer, vectors
from torch import nn
from torch.library import opcheck

from tersor import _native
from tersor.core.errors import ConfigError
from tersor.run import deploy
from tersor.run.calls import Call, chain, linear, max_pool, out_sides, rows_of
from tersor.run.layers import CsrLinear
from tersor.run.operators import traced
from tersor.run.packing import entries_of, pack_codes, pack_sparse

OPS = torch.ops.tersor


def weight(rows, columns, seed=0):
    return few_values_(nn.Linear(columns, rows), seed=seed).weight.detach()


def packed(matrix, *, codes=False, row_block=None):
    entries = entries_of(matrix)
    return pack_codes(entries) if codes else pack_sparse(entries, tile=16, row_block=row_block)


def csr(matrix):
    made = CsrLinear("fc", matrix, None)
    return made.packed_values, made.packed_columns, made.packed_starts


CALLS = {
    "sparse_linear": lambda: (vectors(3), packed(weight(8, 40)), 8, 40, None, torch.ones(8), 2),
    "codes_linear": lambda: (
        vectors(3),
        packed(weight(8, 40), codes=True),
        8,
        40,
        torch.ones(8),
        None,
        0,
    ),
    "sparse_convolution": lambda: (
        images(2),
        packed(weight(5, 27)),
        5,
        27,
        [3, 3],
        [2, 1],
        [1, 0],
        [1, 2],
        torch.ones(5),
        torch.ones(5),
        1,
    ),
    "sparse_rows": lambda: (
        torch.tensor([[1, 2], [0, 6]]),
        packed(weight(7, 12), row_block=1),
        7,
        12,
    ),
    "csr_linear": lambda: (vectors(3), *csr(weight(8, 40)), 40, torch.ones(8)),
    "max_pool": lambda: (images(2), [3, 2], [2, 2], [1, 1]),
}


@pytest.mark.parametrize("name", CALLS)
def test_operators_are_what_torch_expects_of_them(name):
    opcheck(getattr(OPS, name).default, CALLS[name]())


@pytest.mark.parametrize("name", ["sparse_linear", "codes_linear"])
def test_operators_of_linear_layers_are_the_functions(name):
    x, *rest = CALLS[name]()
    want = linear(x, Call.of(name.partition("_")[0], *rest))
    assert torch.equal(getattr(OPS, name)(x, *rest), want)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(30, 40)
        self.body = mlp()

    def forward(self, ids):
        return self.body(self.table(ids))


MODELS = {
    "mlp": (mlp, vectors),
    "cnn": (cnn, images),
    "tagger": (
        lambda: few_values_(Tagger()),
        lambda n: (torch.arange(n * 6).reshape(n, 6) * 7) % 30,
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chains", [False, True])
def test_a_deployed_model_is_compiled_as_one_graph(monkeypatch, name, chains):
    make, example = MODELS[name]
    prefer(monkeypatch, "sparse", "pool", chains=chains)
    fast = deploy(make(), example(2))
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad():
        for batch in (2, 5):
            assert torch.equal(compiled(example(batch)), fast(example(batch)))


@pytest.mark.parametrize("name", MODELS)
def test_a_deployed_model_is_exported_for_any_batch(monkeypatch, name):
    make, example = MODELS[name]
    prefer(monkeypatch, "sparse", "pool", chains=True)
    fast = deploy(make(), example(2))
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(fast, (example(3),), dynamic_shapes=({0: batch},))
    targets = {str(node.target) for node in program.graph.nodes}
    assert any("tersor.sparse" in target for target in targets)
    for size in (2, 7):
        assert torch.equal(program.module()(example(size)), fast(example(size)))


@pytest.mark.parametrize("kernel", ["codes", "integers", "csr"])
def test_every_kernel_of_linear_layers_is_compiled(monkeypatch, kernel):
    prefer(monkeypatch, kernel)
    fast = deploy(few_values_(nn.Sequential(nn.Linear(40, 8)), density=0.5), vectors())
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(vectors(3)), fast(vectors(3)))


def test_a_compiled_model_still_tells_wrong_widths(monkeypatch):
    prefer(monkeypatch, "sparse")
    fast = deploy(mlp(), vectors())
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"expected \(\*, 40\)"):
        compiled(vectors(width=39))


def test_calls_are_traced_only_where_torch_looks_on():
    assert not traced(torch.zeros(1))
    assert traced(nn.Parameter(torch.zeros(1)))
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit.trace, in newer torch
        torch.jit.trace(lambda x: (seen.append(traced(x)), x)[1], torch.zeros(1), check_trace=False)
    assert seen == [True]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit(monkeypatch, threads):
    matrix, x = weight(400, 400), vectors(40, 400)
    call = Call.of("sparse", packed(matrix), 400, 400, None, None, 0)
    want = linear(x, call)
    seen = []
    native = _native.sparse_linear
    monkeypatch.setattr(_native, "sparse_linear", lambda *a: (seen.append(a[-1]), native(*a)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert torch.equal(linear(x, call), want)
    assert seen == [threads]


def test_a_call_keeps_the_memory_it_points_to():
    matrix = weight(8, 40)
    bias = torch.ones(8)
    call = Call.of("sparse", packed(matrix), 8, 40, None, bias, 0)
    want = linear(vectors(), call)
    bias.set_(torch.empty(0))
    _ = [torch.full((8,), 99.0) for _ in range(100)]  # would take the place of what was freed
    assert torch.equal(linear(vectors(), call), want)


def test_layers_in_one_call_are_those_one_by_one():
    matrices = [weight(20, 40), weight(9, 20, seed=1)]
    calls = [
        Call.of("sparse", packed(matrices[0]), 20, 40, None, None, 1),
        Call.of("codes", packed(matrices[1], codes=True), 9, 20, None, None, 0),
    ]
    x = vectors(6)
    got = chain(x, calls)
    assert torch.equal(got, linear(linear(x, calls[0]), calls[1]))
    assert gap(got, (x.double() @ matrices[0].double().T).relu() @ matrices[1].double().T) < 2e-6


def test_sides_of_outputs_are_torchs():
    for side in range(1, 9):
        for kernel in (1, 2, 3):
            for stride in (1, 2, 3):
                for padding in (0, 1, 2):
                    for dilation in (1, 2):
                        if side + 2 * padding < dilation * (kernel - 1) + 1:
                            continue
                        layer = nn.Conv2d(1, 1, kernel, stride, padding, dilation)
                        want = list(layer(torch.zeros(1, side, side)).shape[-2:])
                        pairs = ((v, v) for v in (kernel, stride, padding, dilation))
                        assert out_sides((side, side), *pairs) == want


def test_a_kernel_larger_than_the_padded_image_is_refused():
    message = r"an image of \(2, 9\) pixels, padded by \(1, 1\), is smaller than the kernel's 5"
    with pytest.raises(ConfigError, match=message):
        out_sides((2, 9), (3, 3), (1, 1), (1, 1), (2, 2))
    with pytest.raises(ConfigError, match="is smaller than the kernel's 3"):
        max_pool(torch.zeros(1, 1, 2, 9), (3, 3), (1, 1), (0, 0))


def test_empty_batches_give_empty_outputs():
    assert linear(
        torch.zeros(0, 40), Call.of("sparse", packed(weight(8, 40)), 8, 40, None, None, 0)
    ).shape == (0, 8)
    assert max_pool(torch.zeros(0, 3, 8, 8), (2, 2), (2, 2), (0, 0)).shape == (0, 3, 4, 4)
    table = packed(weight(7, 12), row_block=1)
    assert rows_of(
        torch.zeros(0, dtype=torch.int64), Call.of("sparse", table, 7, 12, None, None, 0)
    ).shape == (0, 12)


def test_outputs_of_a_compiled_model_are_those_of_float64(monkeypatch):
    prefer(monkeypatch, "sparse", "pool")
    model = cnn()
    compiled = torch.compile(deploy(model, images()), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert gap(compiled(images(3)), in_float64(model, images(3))) < 2e-6


@pytest.mark.parametrize("sides", [(16, 24), (8, 32)])
def test_bytes_of_another_matrix_are_refused(sides):
    packed = pack_sparse(entries_of(torch.ones(16, 32)), tile=32)
    with pytest.raises(ConfigError, match=r"packed weight of \(16, 32\), expected"):
        torch.ops.tersor.sparse_linear(torch.zeros(1, sides[1]), packed, *sides, None, None, 0)
    with pytest.raises(ConfigError, match=r"packed weight of \(16, 32\), expected"):
        torch.ops.tersor.sparse_rows(torch.zeros(1, dtype=torch.int64), packed, *sides)
    with pytest.raises(ConfigError, match="packed weight: code matrix"):
        torch.ops.tersor.codes_linear(torch.zeros(1, 32), packed, 16, 32, None, None, 0)


@pytest.mark.parametrize(
    ("scale", "bias", "message"),
    [
        (torch.ones(15), None, r"scale of torch.float32, \(15,\), expected torch.float32, \(16,\)"),
        (None, torch.ones(16, 1), r"bias of torch.float32, \(16, 1\), expected"),
        (None, torch.ones(16).double(), r"bias of torch.float64, \(16,\), expected"),
    ],
)
def test_a_scale_or_bias_of_another_shape_or_dtype_is_refused(scale, bias, message):
    packed = pack_sparse(entries_of(torch.ones(16, 32)), tile=32)
    with pytest.raises(ConfigError, match=message):
        OPS.sparse_linear(torch.zeros(1, 32), packed, 16, 32, scale, bias, 0)
    geometry = ((1, 1), (1, 1), (0, 0), (1, 1))
    with pytest.raises(ConfigError, match=message):
        OPS.sparse_convolution(torch.zeros(1, 32, 2, 2), packed, 16, 32, *geometry, scale, bias, 0)
