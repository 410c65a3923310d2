import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.share.mixing import signed_codes, split_mix

MASK = 2**64 - 1


def reference(seed: int, index: int) -> int:
    """SplitMix64 in Python's integers, after splitmix64.c."""
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_the_hash_is_split_mix_64_as_others_publish_it():
    published = [  # seed 1234567, the first five, as Rosetta Code and xoshiro's tests have them
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [value % 2**64 for value in split_mix(1234567, 0, 5).tolist()] == published


@given(st.integers(0, MASK), st.integers(0, 2**40))
def test_the_hash_is_that_of_integers_without_end(seed, start):
    found = [value % 2**64 for value in split_mix(seed, start, start + 3).tolist()]
    assert found == [reference(seed, start + i) for i in range(3)]


def test_codes_are_the_high_half_as_bucket_and_the_lowest_bit_as_sign():
    seed, buckets = 99, 37
    expected = []
    for index in range(500):
        mixed = reference(seed, index)
        expected.append(((mixed >> 32) * buckets >> 32) + buckets * (mixed & 1))
    assert signed_codes(500, buckets, seed).tolist() == expected


def test_codes_do_not_change_between_versions():  # what old files were written with
    assert signed_codes(8, 5, 7).tolist() == [6, 0, 4, 7, 2, 6, 2, 1]
    assert signed_codes(8, 5, 7, even=True).tolist() == [5, 2, 1, 5, 1, 8, 2, 4]


def test_chunks_make_no_seam():
    count = (1 << 20) + 5
    codes = signed_codes(count, 1000, 3)
    mixed = [reference(3, i) for i in range(count - 10, count)]
    expected = [((m >> 32) * 1000 >> 32) + 1000 * (m & 1) for m in mixed]
    assert codes[-10:].tolist() == expected


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**63 - 1))
def test_even_codes_give_each_bucket_its_share(count, buckets, seed):
    sizes = torch.bincount(
        signed_codes(count, buckets, seed, even=True) % buckets, minlength=buckets
    )
    assert int(sizes.max() - sizes.min()) <= 1
    assert int(sizes.sum()) == count


def test_codes_are_spread_as_by_chance():
    count, buckets = 100_000, 10
    codes = signed_codes(count, buckets, 0).long()
    sizes = torch.bincount(codes, minlength=2 * buckets).double()
    expected = count / (2 * buckets)
    chi_square = float(((sizes - expected) ** 2 / expected).sum())
    assert 5 < chi_square < 45  # 19 degrees of freedom: beyond 0.1 % and 99.9 %


@pytest.mark.parametrize("seeds", [(0, 1), (5, 6)])
def test_another_seed_is_another_hash(seeds):
    a, b = (signed_codes(10_000, 100, seed) % 100 for seed in seeds)
    assert 50 < int((a == b).sum()) < 160  # a hundredth of them by chance
