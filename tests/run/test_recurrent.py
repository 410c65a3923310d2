"""Deployed LSTM and GRU layers against torch's in float64."""

import copy
import io
import warnings

import pytest
import torch
from deployables import few_values_, gap, in_float64, prefer
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from tersor import _native
from tersor.core.errors import ConfigError
from tersor.run import deploy, plan_of
from tersor.run.packing import entries_of, pack_codes, pack_sparse
from tersor.run.recurrent import DeployedRecurrent, why_not

MODES = ["LSTM", "GRU"]
INPUTS, HIDDEN = 13, 21


@pytest.fixture(params=_native.isa_names())
def isa(request):
    _native.force_isa(request.param)
    yield request.param
    _native.force_isa("")


def plain(mode, seed=0, **options):
    """A layer whose weights have 15 values and zero."""
    generator = torch.Generator().manual_seed(seed)
    layer = getattr(nn, mode)(INPUTS, HIDDEN, **options).eval()
    with torch.no_grad():
        for name, p in layer.named_parameters():
            drawn = torch.randn(p.shape, generator=generator)
            if name.startswith("weight"):
                drawn = drawn.mul(4).round().clamp(-7, 7).add(0.0) / 8  # no -0.0
            p.copy_(drawn)
    return layer


def deployed(layer, kinds=("sparse",)):
    """The layer on the kernels, its matrices being of these kinds in turn."""
    made = iter(range(1000))

    def pack(name):
        entries = entries_of(layer.get_parameter(name))
        kind = kinds[next(made) % len(kinds)]
        return kind, pack_codes(entries) if kind == "codes" else pack_sparse(entries, tile=64)

    return DeployedRecurrent("rnn", "test", layer, pack)


def state(mode, *shape, seed=1):
    drawn = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    return (drawn[0], drawn[1]) if mode == "LSTM" else drawn[0]


def x_of(*shape, seed=2):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flat(result):
    out, after = result
    return [out, *(after if isinstance(after, tuple) else (after,))]


def double(value):
    if isinstance(value, tuple):
        return tuple(v.double() for v in value)
    return None if value is None else value.double()


def check(layer, x, hx=None, kinds=("sparse",)):
    """That outputs and states have torch's shapes, and its values to 1e-5 of the largest."""
    with torch.no_grad():
        right = flat(copy.deepcopy(layer).double()(x.double(), double(hx)))
    got = flat(deployed(layer, kinds)(x, hx))
    assert len(got) == len(right)
    for a, b in zip(got, right, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-5 * b.abs().max())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_every_form_gives_what_torch_gives(mode, num_layers, bidirectional, batch_first, bias):
    layer = plain(
        mode,
        num_layers=num_layers,
        bidirectional=bidirectional,
        batch_first=batch_first,
        bias=bias,
    )
    states = num_layers * (2 if bidirectional else 1)
    for steps, batch in ((1, 1), (5, 1), (7, 3), (5, 5), (9, 17)):
        x = x_of(*((batch, steps) if batch_first else (steps, batch)), INPUTS)
        check(layer, x)
        check(layer, x, state(mode, states, batch, HIDDEN))
    check(layer, x_of(6, INPUTS))
    check(layer, x_of(6, INPUTS), state(mode, states, HIDDEN))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kinds", [("codes",), ("codes", "sparse"), ("sparse", "codes")])
def test_every_kind_of_matrix_on_every_instruction_set(isa, mode, kinds):
    layer = plain(mode, num_layers=2, bidirectional=True)
    for batch in (1, 6):
        check(layer, x_of(5, batch, INPUTS), kinds=kinds)


@pytest.mark.parametrize("mode", MODES)
def test_inputs_need_not_be_contiguous(mode):
    layer = plain(mode)
    wide = x_of(5, 4, 2 * INPUTS)[..., ::2]
    h = state(mode, 1, 1, HIDDEN)
    spread = tuple(s.expand(1, 4, -1) for s in h) if mode == "LSTM" else h.expand(1, 4, -1)
    check(layer, wide, spread)


@pytest.mark.parametrize("mode", MODES)
def test_the_state_that_is_given_stays_as_it_is(mode):
    layer = deployed(plain(mode))
    hx = state(mode, 1, 3, HIDDEN)
    before = copy.deepcopy(hx)
    layer(x_of(4, 3, INPUTS), hx)
    for a, b in zip(hx, before, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch", [1, 8])
def test_a_sequence_in_two_parts_gives_the_same(mode, batch):
    layer = deployed(plain(mode, num_layers=2))
    x = x_of(9, batch, INPUTS)
    whole, end = layer(x)
    first, middle = layer(x[:4])
    second, last = layer(x[4:], middle)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(last, end)


@pytest.mark.parametrize("mode", MODES)
def test_two_threads_give_the_bits_of_one(mode):
    layer = deployed(plain(mode, num_layers=2, bidirectional=True))
    x = x_of(40, 70, INPUTS)  # enough that the steps are shared, too
    one = flat(layer(x))
    torch.set_num_threads(2)
    try:
        two = flat(layer(x))
    finally:
        torch.set_num_threads(1)
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.view(torch.int32), b.view(torch.int32))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kinds", [("sparse",), ("codes",)])
def test_weights_come_back_bit_for_bit_under_their_names(mode, kinds):
    layer = plain(mode, num_layers=2, bidirectional=True)
    weights = deployed(layer, kinds).weights()
    named = {n: p for n, p in layer.named_parameters() if n.startswith("weight")}
    assert weights.keys() == named.keys()
    for name, p in named.items():
        assert torch.equal(weights[name].view(torch.int32), p.view(torch.int32)), name


def test_of_a_negative_zero_the_sign_is_lost():
    layer = plain("GRU")
    with torch.no_grad():
        layer.weight_hh_l0[0, 0] = -0.0
    back = deployed(layer).weights()["weight_hh_l0"]
    assert torch.equal(back, layer.weight_hh_l0)
    assert not torch.signbit(back[0, 0])


def test_dropout_is_inactive():
    check(plain("LSTM", num_layers=2, dropout=0.5), x_of(4, 2, INPUTS))


def test_a_batch_of_none_gives_none():
    out, (h, c) = deployed(plain("LSTM", num_layers=2))(torch.zeros(4, 0, INPUTS))
    assert out.shape == (4, 0, HIDDEN)
    assert h.shape == c.shape == (2, 0, HIDDEN)


def test_a_copy_runs_after_the_layer_is_gone():
    layer = deployed(plain("GRU"))
    x = x_of(4, 2, INPUTS)
    wanted, _ = layer(x)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    copied, loaded = copy.deepcopy(layer), torch.load(file, weights_only=False)
    del layer
    assert torch.equal(copied(x)[0], wanted)
    assert torch.equal(loaded(x)[0], wanted)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["sparse", "codes"])
def test_loaded_weights_are_used_from_the_next_call_on(mode, kind):
    plain_layer = plain(mode, num_layers=2)
    layer = deployed(plain_layer, (kind,))
    with torch.no_grad():
        for p in plain_layer.parameters():  # the same positions, with other values
            p.neg_().add_(0.0)
    source = deployed(plain_layer, (kind,))
    x = x_of(5, 3, INPUTS)
    assert not torch.equal(layer(x)[0], source(x)[0])
    layer.load_state_dict(source.state_dict())
    assert torch.equal(layer(x)[0], source(x)[0])


def test_models_may_flatten_parameters():
    layer = deployed(plain("GRU"))
    x = x_of(4, 2, INPUTS)
    before, _ = layer(x)
    layer.flatten_parameters()
    assert torch.equal(layer(x)[0], before)


class Tagger(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(HIDDEN, 3)

    def forward(self, x):
        out, after = self.layer(x)
        h = after[0] if isinstance(after, tuple) else after
        return self.head(out), h


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kernel", ["sparse", "codes", "integers"])
def test_deploy_puts_the_layer_on_the_fastest_kernel(monkeypatch, mode, kernel):
    model = few_values_(Tagger(getattr(nn, mode)(INPUTS, HIDDEN, num_layers=2)))
    prefer(monkeypatch, kernel)
    x = x_of(5, 3, INPUTS)
    made = deploy(model, x)
    assert isinstance(made.layer, DeployedRecurrent)
    line = plan_of(made).layers[0]
    assert (line.name, line.kind, line.kernel.split("/")[0]) == ("layer", mode, kernel)
    followed = deploy(model, x, plan=plan_of(made))
    for got, again, right in zip(made(x), followed(x), in_float64(model, x), strict=True):
        assert gap(got, right) < 1e-5
        assert torch.equal(got, again)


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")  # of torch itself
def test_deploy_says_why_a_layer_stays(monkeypatch):
    prefer(monkeypatch, "sparse")
    made = deploy(few_values_(nn.Sequential(nn.LSTM(8, 6, proj_size=3))), x_of(5, 3, 8))
    assert isinstance(made[0], nn.LSTM)
    assert "proj_size=3: a projected state has no kernel" in str(plan_of(made))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch_first", [False, True])
def test_compiled_and_exported_models_give_the_same(mode, batch_first):
    model = Tagger(deployed(plain(mode, num_layers=2, batch_first=batch_first))).eval()
    x = x_of(4, 3, INPUTS)
    steps = torch.export.Dim("steps", min=2, max=64)
    with torch.no_grad():
        wanted = model(x)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
        shapes = {"x": {1 if batch_first else 0: steps}}
        program = torch.export.export(model, (x,), dynamic_shapes=shapes)
        exported = program.module()(x)
        longer = x_of(*((4, 9) if batch_first else (9, 3)), INPUTS)
        for got, right in ((compiled, wanted), (exported, wanted)):
            torch.testing.assert_close(got, right, rtol=0, atol=0)
        torch.testing.assert_close(program.module()(longer), model(longer), rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(5, 3, INPUTS), (5, INPUTS)])
def test_compiled_and_traced_layers_take_inputs_with_and_without_batch(mode, shape):
    layer = deployed(plain(mode, num_layers=2), ("sparse", "codes"))
    x = x_of(*shape)
    wanted = flat(layer(x))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jit.trace is deprecated
        jitted = torch.jit.trace(layer, (x,))
    for other in (compiled, jitted):
        for got, right in zip(flat(other(x)), wanted, strict=True):
            torch.testing.assert_close(got, right, rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_the_operator_keeps_torchs_rules(mode):
    layer = deployed(plain(mode, num_layers=2, bidirectional=True), ("sparse", "codes"))
    hx = state(mode, 4, 3, HIDDEN)
    h, c = hx if mode == "LSTM" else (hx, None)
    arguments = (x_of(5, 3, INPUTS), h, c, *layer._arguments(), HIDDEN)
    torch.library.opcheck(torch.ops.tersor.recurrent.default, arguments)


def test_the_operator_refuses_tensors_of_other_sizes():
    rest = (*deployed(plain("GRU"))._arguments(), HIDDEN)
    x, h = x_of(5, 3, INPUTS), torch.zeros(1, 3, HIDDEN)
    run = torch.ops.tersor.recurrent
    with pytest.raises(ValueError, match=r"5 inputs and 21 units, expected 13 and 21"):
        run(x[..., :5], h, None, *rest)
    with pytest.raises(ConfigError, match=r"h of shape \(1, 2, 21\), expected \(1, 3, 21\)"):
        run(x, h[:, :2], None, *rest)
    with pytest.raises(ConfigError, match=r"x of torch.float64"):
        run(x.double(), h, None, *rest)
    with pytest.raises(ConfigError, match=r"x of shape \(3, 13\), expected \(T, N, inputs\)"):
        run(x[0], h, None, *rest)


def test_the_operator_refuses_what_would_leave_memory():
    packed, biases, coded, cell, _ = deployed(plain("LSTM"))._arguments()
    x, h = x_of(5, 3, INPUTS), torch.zeros(1, 3, HIDDEN)

    def run(packed=packed, biases=biases, coded=coded, *, cell=cell, c=h, bidirectional=False):
        torch.ops.tersor.recurrent(x, h, c, packed, biases, coded, cell, bidirectional, HIDDEN)

    with pytest.raises(ConfigError, match="LSTM without c"):
        run(c=None)
    with pytest.raises(ConfigError, match="GRU with c"):
        run(cell=1)
    with pytest.raises(ConfigError, match=r"c of shape \(1, 3, 20\), expected \(1, 3, 21\)"):
        run(c=h[..., :20])
    with pytest.raises(ConfigError, match=r"bias of shape \(5,\), expected \(84,\)"):
        run(biases=[b[:5] for b in biases])
    with pytest.raises(ConfigError, match=r"bias of torch\.float64"):
        run(biases=[b.double() for b in biases])
    with pytest.raises(ConfigError, match="2 matrices of 2 kinds with 1 biases"):
        run(biases=biases[:1])
    with pytest.raises(ConfigError, match="2 matrices of 1 kinds"):
        run(coded=coded[:1])
    with pytest.raises(ConfigError, match=r"2 matrices .* expected 4 of each for a layer"):
        run(bidirectional=True)
    with pytest.raises(ConfigError, match="0 matrices"):
        run([], [], [])
    with pytest.raises(ValueError, match="matrix: the bytes hold none"):
        run(coded=[1 - k for k in coded])


X = torch.zeros(4, 2, INPUTS)
H = torch.zeros(1, 2, HIDDEN)


@pytest.mark.parametrize(
    ("mode", "x", "hx", "message"),
    [
        ("LSTM", X.double(), None, r"rnn: input of torch.float64 on cpu, expected torch.float32"),
        ("LSTM", X.to("meta"), None, r"rnn: input of torch.float32 on meta"),
        ("GRU", X[..., :5], None, r"rnn: input of shape \(4, 2, 5\), expected \(T, N, 13\)"),
        ("GRU", X[0, 0], None, r"rnn: input of shape \(13,\)"),
        ("LSTM", X[:0], None, r"rnn: input of shape \(0, 2, 13\), expected at least one step"),
        ("LSTM", X.clone().requires_grad_(), None, r"rnn: x needs a gradient"),
        ("GRU", X, H.clone().requires_grad_(), r"rnn: .*needs a gradient"),
        ("GRU", X, H.double(), r"rnn: h of torch.float64"),
        ("GRU", X, H[:, :1], r"rnn: h of shape \(1, 1, 21\), expected \(1, 2, 21\)"),
        ("LSTM", X, (H, H[0]), r"rnn: c of shape \(2, 21\), expected \(1, 2, 21\)"),
        ("LSTM", X[:, 0], (H, H), r"rnn: h of shape \(1, 2, 21\), expected \(1, 21\)"),
        ("LSTM", X, H, r"rnn: a state of 1 tensors, expected \(h, c\)"),
        ("GRU", X, (H, H), r"rnn: a state of 2 tensors, expected h"),
        ("LSTM", pack_sequence([X[:, 0]]), None, r"rnn: a PackedSequence, expected a tensor"),
    ],
)
def test_what_the_kernels_cannot_take_is_refused_by_name(mode, x, hx, message):
    layer = deployed(plain(mode))
    with pytest.raises(ConfigError, match=message):
        layer(x, hx)


def test_a_layer_that_was_cast_is_refused():
    layer = deployed(plain("GRU"))
    layer(X)
    with pytest.raises(ConfigError, match=r"rnn: .*torch\.float64 on cpu"):
        layer.double()(X)


def test_a_projected_state_is_refused():
    layer = nn.LSTM(8, 6, proj_size=3)
    assert why_not(layer) == "proj_size=3: a projected state has no kernel"
    assert why_not(nn.GRU(8, 6)) == ""
    with pytest.raises(ConfigError, match=r"rnn: proj_size=3"):
        deployed(layer)
