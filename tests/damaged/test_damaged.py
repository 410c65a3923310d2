"""Files that are wrong on purpose, each with checksums that fit; found cases are added here."""

from pathlib import Path

import pytest
import torch

from tersor.core.errors import FormatError
from tersor.store import load, open_

EXPECTED = {
    "byte_plane_with_bytes_left": "rANS stream of 136 bytes, but 134 are read",
    "byte_planes_of_a_zero": "1 words are zero, expected 0",
    "byte_planes_of_too_few_bytes": "rANS stream is cut short",
    "byte_planes_too_few": "3 byte planes, but words have 4 bytes",
    "codebook_code_beyond_its_end": "code 3, but the codebook has 3 entries",
    "context_code_beyond_its_codebook": "code 3, but the codebook has 3 entries",
    "context_codebook_does_not_ascend": "the codebook does not ascend",
    "context_stream_ends_in_zero": "a context stream ends in zero",
    "context_stream_too_long": "context stream of 12 bytes, but 9 are read",
    "context_with_a_relative_index": "codes by context with a relative index",
    "difference_to_a_base_of_another_shape": "the base has another dtype or shape there",
    "difference_to_a_base_without_it": "difference to a base, which has no such tensor",
    "difference_to_another_base": "another one: checksum 927de62d, expected 2b17c258",
    "difference_without_a_base": "difference to a base, and none is given",
    "entry_tied_to_itself": "'tied' is 0, which is no stored tensor before it",
    "filler_count_lies": "0 words are zero, expected 1",
    "header_inflates_for_ever": "inflates to more than 67108864 bytes",
    "header_nested_deeply": "the header is not JSON",
    "header_refers_before_its_beginning": "the header cannot be inflated",
    "huffman_lengths_incomplete": "Huffman table is incomplete",
    "huffman_lengths_over_subscribed": "Huffman table is over-subscribed",
    "lag_without_context": "lag 28, expected 0 to 0",
    "map_count_lies": "mask of 37 words, expected 38",
    "map_cut_short": "mask of 46 words, expected 37",
    "map_ends_in_zero": "a context stream ends in zero",
    "map_of_nothing_with_endless_columns": "context stream of 5 bytes, but 4 are read",
    "map_of_nothing_with_endless_rows": "context stream of 5 bytes, but 4 are read",
    "map_with_bytes_left": "context stream of 24 bytes, but 21 are read",
    "mask_count_lies": "mask of 3 words, expected 1",
    "mask_padding": "padding after the mask is not zero",
    "more_memory_than_there_is": "tensors of 1152921504606846976 bytes cannot be allocated",
    "newer_version": r"version 3, but this tersor reads up to version 2\. Update tersor",
    "number_of_many_digits": "the header is not JSON",
    "parts_of_a_small_tensor": "'parts', but a tensor of this shape has only one",
    "parts_too_few": "not the 2 parts of its shape",
    "parts_too_many": "not the 2 parts of its shape",
    "position_outside": "position 255, but there are 4",
    "position_twice": "a position comes twice",
    "rans_frequencies_do_not_sum": "rANS frequencies sum to 257, expected 256",
    "rans_in_version_1": "'rans' in a file of version 1",
    "rans_length_out_of_range": "rANS table: a length of 10, expected at most 9",
    "rans_precision_out_of_range": "rANS precision of 15 bits, expected 8 to 14",
    "rans_state_too_small": "rANS state is out of range",
    "rans_stream_cut_short": "rANS stream is cut short",
    "rans_stream_does_not_end_where_it_began": "rANS stream does not end where it began",
    "rans_stream_too_long": "rANS stream of 50 bytes, but 48 are read",
    "rans_stream_without_states": "rANS stream is cut short",
    "rans_table_cut_short": "rANS table is cut short",
    "rans_table_padding": "padding in the rANS table is not zero",
    "shape_of_a_million_large_sides": "overflows",
    "unknown_key": "tensor 'w': unknown key 'colour'",
    "unknown_key_of_a_codec": "tensor 'w': map: unknown key 'order'",
}
BASES = {
    "difference_to_a_base_of_another_shape": {"w": torch.arange(100).float().view(10, 10)},
    "difference_to_a_base_without_it": {"v": torch.arange(100.0)},
    "difference_to_another_base": {"w": torch.arange(1, 101.0)},
}


def test_every_file_is_expected():
    assert {path.stem for path in Path(__file__).parent.glob("*.terse")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_damaged_file_is_refused(name):
    path = Path(__file__).with_name(f"{name}.terse")
    with pytest.raises(FormatError, match=EXPECTED[name]) as caught:
        load(path, base=BASES.get(name))
    assert f"{name}.terse" in str(caught.value)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_damaged_file_is_refused_by_its_entries(name):
    path = Path(__file__).with_name(f"{name}.terse")

    def read():
        with open_(path, base=BASES.get(name)) as file:
            for tensor in file:
                list(file.entries(tensor))

    # What needs more memory than there is is told tensor by tensor.
    with pytest.raises(FormatError, match=EXPECTED[name].removeprefix("tensors of ")) as caught:
        read()
    assert f"{name}.terse" in str(caught.value)


def test_a_difference_is_read_with_its_own_base():
    path = Path(__file__).with_name("difference_to_another_base.terse")
    state = load(path, base={"w": torch.arange(100.0)})
    torch.testing.assert_close(state["w"], torch.arange(100.0) * (1 + 1e-6))
