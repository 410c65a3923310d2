import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor.core.errors import ConfigError, FormatError
from tersor.store import csr_index, relative_index
from tersor.store.relative import positions_of

# The worked matrix of the lecture that the conventions come from.
MATRIX = np.zeros((4, 6), int)
for _row, _columns in enumerate([{0: 10, 1: 20}, {1: 30, 5: 40}, {2: 50, 3: 60, 4: 70}, {5: 80}]):
    for _column, _value in _columns.items():
        MATRIX[_row, _column] = _value
VALUES = MATRIX[MATRIX != 0]


@st.composite
def masks(draw):
    shape = draw(st.tuples(st.integers(0, 6), st.integers(0, 60)))
    density = draw(st.sampled_from([0.0, 0.03, 0.2, 0.7, 1.0]))
    return np.random.default_rng(draw(st.integers(0, 2**32))).random(shape) < density


def arrays(index):
    return index.spread(VALUES).tolist(), index.codes.tolist(), index.row_pointers.tolist()


def test_the_worked_matrix_as_csr():
    columns, rows = csr_index(MATRIX != 0)
    assert columns.tolist() == [0, 1, 1, 5, 2, 3, 4, 5]
    assert rows.tolist() == [0, 2, 4, 7, 8]


def test_the_worked_matrix_with_relative_columns():
    index = relative_index(MATRIX != 0, bits=3, convention="gap", layout="row")
    assert index.codes.tolist() == [0, 1, 1, 4, 2, 1, 1, 5]


def test_the_worked_matrix_in_two_bits_by_gaps():
    index = relative_index(MATRIX != 0, bits=2, convention="gap", layout="row")
    assert arrays(index) == (
        [10, 20, 30, 0, 40, 50, 60, 70, 0, 80],
        [0, 1, 1, 3, 1, 2, 1, 1, 3, 2],
        [0, 2, 5, 8, 10],
    )


def test_the_worked_matrix_in_two_bits_by_gaps_minus_one():
    index = relative_index(MATRIX != 0, bits=2, convention="gap1", layout="row")
    assert arrays(index) == (
        [10, 20, 30, 40, 50, 60, 70, 0, 80],
        [0, 0, 1, 3, 2, 0, 0, 3, 1],
        [0, 2, 4, 7, 9],
    )


@pytest.mark.parametrize(
    ("convention", "codes", "filler_at"), [("gap", [1, 3, 7, 4], 11), ("gap1", [1, 2, 7, 2], 12)]
)
def test_the_row_of_the_slide_in_three_bits(convention, codes, filler_at):
    row = np.zeros(16, bool)
    row[[1, 4, 15]] = True
    index = relative_index(row, bits=3, convention=convention)
    assert index.codes.tolist() == codes
    assert index.spread([3.4, 0.9, 1.7]).tolist() == [3.4, 0.9, 0.0, 1.7]
    steps = np.cumsum(index.codes + (convention == "gap1")) - (convention == "gap1")
    assert steps[2] == filler_at


@settings(deadline=None, max_examples=200)
@given(
    mask=masks(),
    bits=st.integers(1, 9),
    convention=st.sampled_from(["gap1", "gap"]),
    layout=st.sampled_from(["flat", "row"]),
)
def test_masks_come_back(mask, bits, convention, layout):
    index = relative_index(mask, bits=bits, convention=convention, layout=layout)
    assert (index.mask() == mask).all()
    assert index.codes.max(initial=0) < 2**bits
    assert (~index.fillers).sum() == mask.sum()
    if layout == "row":
        assert len(index.row_pointers) == len(mask) + 1
        assert index.row_pointers[-1] == len(index.codes)


@settings(deadline=None)
@given(mask=masks(), bits=st.integers(1, 8), layout=st.sampled_from(["flat", "row"]))
def test_gap1_never_needs_more_fillers(mask, bits, layout):
    gap1, gap = (
        relative_index(mask, bits=bits, convention=c, layout=layout).fillers.sum()
        for c in ("gap1", "gap")
    )
    assert gap1 <= gap


@settings(deadline=None)
@given(mask=masks())
def test_csr_is_that_of_scipy(mask):
    columns, rows = csr_index(mask)
    theirs = scipy.sparse.csr_matrix(mask)
    assert columns.tolist() == theirs.indices.tolist()
    assert rows.tolist() == theirs.indptr.tolist()


@pytest.mark.parametrize(("density", "bits"), [(0.04, 4), (0.04, 5), (0.08, 3), (0.25, 2)])
def test_fillers_of_random_masks_are_as_many_as_theory_says(density, bits):
    mask = np.random.default_rng(7).random(2_000_000) < density
    index = relative_index(mask, bits=bits)
    q = (1 - density) ** (2**bits)
    # A geometric number of fillers before each entry: mean q / (1 - q), variance q / (1 - q)^2.
    sigma = np.sqrt(q / (1 - q) ** 2 / mask.sum())
    assert index.fillers.sum() / mask.sum() == pytest.approx(q / (1 - q), abs=5 * sigma)


@pytest.mark.parametrize(
    ("mask", "options", "match"),
    [
        (np.ones(3), {"bits": 2}, "mask of dtype float64 and 1 sides, expected bool"),
        (np.array(True), {"bits": 2}, "and 0 sides"),
        (np.ones(3, bool), {"bits": 0}, "bits 0, expected 1 to 16"),
        (np.ones(3, bool), {"bits": 17}, "bits 17, expected 1 to 16"),
        (np.ones(3, bool), {"bits": 2, "convention": "g1"}, "convention 'g1', expected 'gap1' or"),
        (np.ones(3, bool), {"bits": 2, "layout": "col"}, "layout 'col', expected 'flat' or 'row'"),
    ],
)
def test_arguments_out_of_range_are_refused(mask, options, match):
    with pytest.raises(ConfigError, match=match):
        relative_index(mask, **options)


def test_as_many_values_as_kept_entries_are_spread():
    with pytest.raises(ConfigError, match=r"values of shape \(2,\), expected \(3,\)"):
        relative_index(np.ones(3, bool), bits=2).spread([1, 2])


@pytest.mark.parametrize(
    ("codes", "fillers", "convention", "match"),
    [
        ([3, 3, 1], [1, 1, 0], "gap1", "position 9, but there are 9"),
        ([1, 0], [0, 0], "gap", "a position comes twice"),
        ([2, 0], [1, 0], "gap1", "a filler does not have the largest index code"),
    ],
)
def test_codes_that_no_mask_gives_are_refused(codes, fillers, convention, match):
    with pytest.raises(FormatError, match=match):
        positions_of(np.array(codes, np.uint16), np.array(fillers, bool), 2, convention, 9)
