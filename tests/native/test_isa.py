"""The choice of the instruction set, the order in which sums are added, and the activations."""

import platform
from fractions import Fraction

import numpy as np
import pytest
import torch
from native_calls import ACTIVATIONS, TRUTHS, linear, numbers, sparse_matrix

from tersor import _native
from tersor.run.packing import entries_of, pack_sparse

WIDTHS = {"plain": 4, "avx2": 8, "avx512": 16, "avx512_vnni": 16}


def test_a_forced_instruction_set_is_used_until_the_force_is_taken_away():
    names = _native.isa_names()
    assert names[-1] == "plain"
    try:
        for name in names:
            _native.force_isa(name)
            assert _native.isa() == name
    finally:
        _native.force_isa("")
    assert _native.isa() == names[0]


def test_an_unknown_instruction_set_is_refused_and_those_there_are_named():
    with pytest.raises(ValueError, match=r"instruction set 'sse9', expected one of .*plain"):
        _native.force_isa("sse9")
    assert _native.isa() == _native.isa_names()[0]


def nearest(exact):
    """The float32 nearest to a fraction, ties to the even one."""
    about = np.float32(float(exact))
    around = [
        np.nextafter(about, np.float32(-np.inf)),
        about,
        np.nextafter(about, np.float32(np.inf)),
    ]
    return min(around, key=lambda f: (abs(Fraction(float(f)) - exact), int(f.view(np.uint32)) & 1))


def added(total, weight, x, fused):
    if fused:
        return nearest(Fraction(float(weight)) * Fraction(float(x)) + Fraction(float(total)))
    return np.float32(total + np.float32(weight * x))


def fused(isa):
    """Whether a product is added as it is, and not rounded first, as a row of two entries tells.

    (1 + e) * (1 + e) - 1 has e * e as its last digit, which the product alone has no place for.
    """
    e = 2.0**-12
    row = torch.ones(1, 17)
    row[0, 16] = 1 + e
    x = torch.zeros(1, 17)
    x[0, 0], x[0, 16] = -1, 1 + e
    got = linear(pack_sparse(entries_of(row), tile=32), x, 1).item()
    assert got in (2 * e, 2 * e + e * e)
    found = got != 2 * e
    if platform.machine() in ("x86_64", "AMD64"):  # elsewhere plain loops do as the compiler likes
        assert found == (isa != "plain")
    return found


def runs(row, tile):
    """The entries of a row, tile by tile."""
    for first in range(0, len(row), tile):
        part = row[first : first + tile]
        yield [(first + c, part[c]) for c in np.flatnonzero(part)]


@pytest.mark.parametrize("values", [16, 30, 250, None])
def test_a_dot_product_adds_sixteen_chains_in_pairs(isa, values):
    matrix = sparse_matrix(9, 150, density=0.6, values=values)
    x = numbers(2, 150)
    got = linear(pack_sparse(entries_of(matrix), tile=64), x, 9).numpy()
    for sample, out in zip(x.numpy(), got, strict=True):
        for row, sum_ in zip(matrix.numpy(), out, strict=True):
            chains = np.zeros(16, np.float32)
            for run in runs(row, 64):
                for i, (column, weight) in enumerate(run):
                    chains[i % 16] = added(chains[i % 16], weight, sample[column], fused(isa))
            while len(chains) > 1:
                chains = chains[: len(chains) // 2] + chains[len(chains) // 2 :]
            assert sum_ == chains[0]


@pytest.mark.parametrize("batch", [5, 7, 11, 17, 33])
@pytest.mark.parametrize("values", [16, 30, None])
def test_samples_side_by_side_add_as_many_chains_as_few_vectors_leave_free(isa, values, batch):
    vectors = 1
    while vectors * WIDTHS[isa] < batch:
        vectors *= 2
    chains = max(1, 4 // vectors)
    matrix = sparse_matrix(5, 70, density=0.5, values=values)
    x = numbers(batch, 70)
    got = linear(pack_sparse(entries_of(matrix), tile=32), x, 5).numpy()
    for sample, out in list(zip(x.numpy(), got, strict=True))[:: max(1, batch // 3)]:
        for row, sum_ in zip(matrix.numpy(), out, strict=True):
            total = np.float32(0)
            for run in runs(row, 32):
                parts = np.array([total] + [0] * (chains - 1), np.float32)
                for i, (column, weight) in enumerate(run):
                    k = i % chains
                    parts[k] = added(parts[k], weight, sample[column], fused(isa))
                while len(parts) > 1:
                    parts = parts[: len(parts) // 2] + parts[len(parts) // 2 :]
                total = parts[0]
            assert sum_ == total


def activated(values, activation):
    """Of each value as a sample of its own, with 1 as the weight."""
    one = pack_sparse(entries_of(torch.ones(1, 1)), tile=1)
    return linear(one, values[:, None].contiguous(), 1, activation=activation)[:, 0]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_float64s_to_a_millionth(isa, activation):
    x = torch.cat(
        [
            torch.linspace(-20, 20, 40_003),
            torch.linspace(-1e-3, 1e-3, 1001),
            -torch.logspace(0, 38, 500),
            torch.tensor([0.0, -0.0, 1e-40, -1e-40, -87.0, -88.0, -88.5, -89.0, -104.0]),
        ]
    )
    want = TRUTHS[activation](x.double())
    # From 8 on a unit in the last place of the result is itself about a millionth.
    bound = 1e-6 + torch.finfo(torch.float32).eps * want.abs()
    assert ((activated(x, activation).double() - want).abs() <= bound).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_of_large_and_special_numbers_are_those_of_float64(isa, activation):
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0])
    x = torch.cat([torch.logspace(1.5, 38, 200), special])
    got, want = activated(x, activation), TRUTHS[activation](x.double()).float()
    torch.testing.assert_close(got, want, rtol=2e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("rows", [1, 3, 4, 7, 8, 15, 16, 17, 33])
def test_an_activation_touches_the_rows_of_its_layer_and_no_others(isa, rows):
    packed, x = pack_sparse(entries_of(torch.ones(rows, 1)), tile=1), torch.tensor([-1.0])
    out = -torch.ones(rows + 1)
    where = (packed.data_ptr(), packed.numel(), x.data_ptr(), 1, out.data_ptr(), 0, 0)
    _native.sparse_linear(*where, ACTIVATIONS.index("relu"), 1)
    assert out.tolist() == [0.0] * rows + [-1.0]


def test_an_unknown_activation_is_refused():
    packed, x = pack_sparse(entries_of(torch.ones(1, 1)), tile=1), torch.zeros(1)
    where = (packed.data_ptr(), packed.numel(), x.data_ptr(), 1, x.data_ptr(), 0, 0)
    for number in (-1, 5):
        with pytest.raises(ValueError, match=f"activation {number}"):
            _native.sparse_linear(*where, number, 1)
