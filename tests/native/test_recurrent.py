"""The kernel of recurrent layers against torch's LSTM and GRU in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from tersor import _native
from tersor.run.packing import entries_of, pack_codes, pack_integers, pack_sparse

GATES = {"LSTM": 4, "GRU": 3}


@pytest.fixture(params=_native.isa_names(), autouse=True)
def isa(request):
    _native.force_isa(request.param)
    yield request.param
    _native.force_isa("")


def few_values(shape, density, seed):
    """A matrix of 14 values and zero."""
    rng = np.random.default_rng(seed)
    values = np.linspace(-0.6, 0.5, 14, dtype=np.float32)[rng.integers(0, 14, shape)]
    return torch.from_numpy(np.where(rng.random(shape) < density, values, np.float32(0)))


def many_values(shape, density, seed):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape).astype(np.float32) * np.float32(0.4)
    return torch.from_numpy(np.where(rng.random(shape) < density, values, np.float32(0)))


def integers(shape, density, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(-6, 7, shape).astype(np.float32) * np.float32(1 / 16)
    return torch.from_numpy(np.where(rng.random(shape) < density, values, np.float32(0)))


# How a matrix is made, how it is packed, and whether its bytes are codes.
SPARSE = (few_values, lambda e: pack_sparse(e, tile=16), False)
VALUES = (many_values, lambda e: pack_sparse(e, tile=4096), False)
CODES = (few_values, pack_codes, True)
INTEGERS = (integers, pack_integers, True)


class Case:
    """One layer with random weights, and an input and a state for it."""

    def __init__(self, mode, steps, batch, inputs, hidden, kinds, *, bias=True):
        self.mode, self.steps, self.batch, self.hidden = mode, steps, batch, hidden
        self.layer = getattr(nn, mode)(inputs, hidden, bias=bias).double()
        rows = GATES[mode] * hidden
        self.packed = []
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for seed, (name, columns) in enumerate((("ih", inputs), ("hh", hidden))):
                make, pack, coded = kinds[seed]
                weight = make((rows, columns), 0.4, seed)
                getattr(self.layer, f"weight_{name}_l0").copy_(weight)
                self.packed.append((pack(entries_of(weight)), coded))
            for bias_name in ("bias_ih_l0", "bias_hh_l0") if bias else ():
                drawn = torch.randn(rows, generator=generator)
                getattr(self.layer, bias_name).copy_(drawn)
        self.x = torch.randn(steps, batch, inputs, generator=generator)
        self.state = [torch.randn(batch, hidden, generator=generator) for _ in range(2)]

    def expected(self, *, reverse=False):
        """Outputs and the states after the last step, of torch."""
        x = self.x.flip(0) if reverse else self.x
        h, c = (s.double()[None] for s in self.state)
        with torch.no_grad():
            out, after = self.layer(x.double(), (h, c) if self.mode == "LSTM" else h)
        after = after if self.mode == "LSTM" else (after,)
        return (out.flip(0) if reverse else out), [s[0] for s in after]

    def run(self, *, reverse=False, threads=1, gap=0):
        """The same, of the kernel; outputs lie `gap` floats apart, which must not be written."""
        h, c = (s.clone() for s in self.state)
        out = torch.full((self.steps, self.batch, self.hidden + gap), 7.0)
        biases = [0, 0]
        if self.layer.bias:
            kept = [self.layer.bias_ih_l0.float(), self.layer.bias_hh_l0.float()]
            biases = [b.data_ptr() for b in kept]
        _native.recurrent(
            0 if self.mode == "LSTM" else 1,
            reverse,
            *(v for p, coded in self.packed for v in (p.data_ptr(), p.numel(), coded)),
            *biases,
            self.x.data_ptr(),
            self.steps,
            self.batch,
            self.x.shape[2],
            self.hidden,
            h.data_ptr(),
            c.data_ptr() if self.mode == "LSTM" else 0,
            out.data_ptr(),
            self.hidden + gap,
            threads,
        )
        assert (out[..., self.hidden :] == 7.0).all()
        return out[..., : self.hidden], [h, c] if self.mode == "LSTM" else [h]

    def check(self, **options):
        out, after = self.run(**options)
        wanted, wanted_after = self.expected(reverse=options.get("reverse", False))
        for got, right in zip([out, *after], [wanted, *wanted_after], strict=True):
            torch.testing.assert_close(got.double(), right, rtol=0, atol=1e-5 * right.abs().max())


@pytest.mark.parametrize("mode", GATES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 16, 33, 70])
def test_sparse_layers_give_what_torch_gives(mode, batch, reverse):
    Case(mode, 7, batch, 19, 23, (SPARSE, SPARSE)).check(reverse=reverse)


@pytest.mark.parametrize("mode", GATES)
@pytest.mark.parametrize("batch", [1, 3, 35])
@pytest.mark.parametrize("ih", [SPARSE, VALUES, CODES, INTEGERS])
@pytest.mark.parametrize("hh", [SPARSE, VALUES, CODES, INTEGERS])
def test_matrices_of_each_kind_go_together(mode, batch, ih, hh):
    Case(mode, 5, batch, 37, 21, (ih, hh)).check(reverse=True)


@pytest.mark.parametrize("mode", GATES)
@pytest.mark.parametrize("hh", [SPARSE, CODES])
@pytest.mark.parametrize("steps", [1, 2, 45])
@pytest.mark.parametrize(("inputs", "hidden"), [(1, 1), (3, 16), (600, 5)])
def test_sides_at_the_ends_of_vectors_and_windows(mode, hh, steps, inputs, hidden):
    for batch in (1, 4, 8):
        case = Case(mode, steps, batch, inputs, hidden, (SPARSE, hh))
        case.check()
        case.check(reverse=True)


@pytest.mark.parametrize("mode", GATES)
@pytest.mark.parametrize("batch", [1, 6])
def test_a_layer_may_lack_biases(mode, batch):
    Case(mode, 4, batch, 9, 11, (SPARSE, SPARSE), bias=False).check()


@pytest.mark.parametrize("mode", GATES)
@pytest.mark.parametrize("kind", [SPARSE, CODES])
@pytest.mark.parametrize("batch", [1, 6])
def test_outputs_of_a_wider_row_leave_the_rest_of_it(mode, kind, batch):
    Case(mode, 4, batch, 9, 21, (kind, kind)).check(gap=21)


@pytest.mark.parametrize("mode", GATES)
@pytest.mark.parametrize("kind", [SPARSE, CODES])
@pytest.mark.parametrize("batch", [1, 40])
def test_two_threads_give_the_bits_of_one(mode, kind, batch):
    case = Case(mode, 4, batch, 150, 130, (kind, kind))
    one, two = case.run(threads=1), case.run(threads=2)
    for a, b in zip([one[0], *one[1]], [two[0], *two[1]], strict=True):
        assert torch.equal(a.view(torch.int32), b.view(torch.int32))


@pytest.mark.parametrize("mode", GATES)
def test_saturated_gates_stay_finite(mode):
    case = Case(mode, 6, 5, 8, 9, (SPARSE, SPARSE))
    case.x *= 1e4
    out, after = case.run()
    assert all(torch.isfinite(t).all() for t in [out, *after])
    case.check()


def test_a_sample_that_is_nan_leaves_the_others():
    case = Case("LSTM", 3, 6, 8, 9, (SPARSE, SPARSE))
    clean, _ = case.run()
    case.x[:, 2] = torch.nan
    out, _ = case.run()
    assert out[:, 2].isnan().all()
    others = [0, 1, 3, 4, 5]
    assert torch.equal(out[:, others], clean[:, others])


def test_matrices_that_do_not_fit_are_refused():
    case = Case("LSTM", 2, 1, 8, 6, (SPARSE, SPARSE))
    case.mode = "GRU"
    with pytest.raises(ValueError, match=r"24 rows .* 24 x 6, expected 3 rows for each"):
        case.run()


def test_an_input_or_a_state_of_another_width_is_refused():
    case = Case("LSTM", 2, 1, 8, 6, (SPARSE, SPARSE))
    case.x = case.x[..., :7].contiguous()
    with pytest.raises(ValueError, match=r"7 inputs and 6 units, expected 8 and 6"):
        case.run()
