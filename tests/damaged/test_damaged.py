"""Files that are wrong on purpose, each with checksums that fit; found cases are added here."""

from pathlib import Path

import pytest

from tersor.core.errors import FormatError
from tersor.store import load

EXPECTED = {
    "codebook_code_beyond_its_end": "code 3, but the codebook has 3 entries",
    "entry_tied_to_itself": "'tied' is 0, which is no stored tensor before it",
    "filler_count_lies": "0 words are zero, expected 1",
    "header_inflates_for_ever": "inflates to more than 67108864 bytes",
    "header_nested_deeply": "the header is not JSON",
    "huffman_lengths_incomplete": "Huffman table is incomplete",
    "huffman_lengths_over_subscribed": "Huffman table is over-subscribed",
    "mask_count_lies": "mask of 3 words, expected 1",
    "mask_padding": "padding after the mask is not zero",
    "more_memory_than_there_is": "tensors of 1152921504606846976 bytes cannot be allocated",
    "newer_version": "Update tersor",
    "number_of_many_digits": "the header is not JSON",
    "position_outside": "position 255, but there are 4",
    "position_twice": "a position comes twice",
    "shape_of_a_million_large_sides": "overflows",
}


def test_every_file_is_expected():
    assert {path.stem for path in Path(__file__).parent.glob("*.terse")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_damaged_file_is_refused(name):
    path = Path(__file__).with_name(f"{name}.terse")
    with pytest.raises(FormatError, match=EXPECTED[name]) as caught:
        load(path)
    assert f"{name}.terse" in str(caught.value)
