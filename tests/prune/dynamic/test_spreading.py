import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersor.core.errors import ConfigError
from tersor.prune.dynamic.spreading import spread

places = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(1e-6, 1e6)),
        st.integers(0, 40),
    ),
    min_size=1,
    max_size=6,
)


@given(places, st.floats(0, 1))
def test_the_total_is_exact_and_no_place_gets_more_than_its_room(found, part):
    shares = {str(i): share for i, (share, _) in enumerate(found)}
    room = {str(i): room for i, (_, room) in enumerate(found)}
    total = round(part * sum(room.values()))
    counts = spread(total, shares, room)
    assert sum(counts.values()) == total
    assert all(0 <= counts[name] <= room[name] for name in room)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(0, 1000))
def test_with_room_for_all_each_gets_its_part_rounded_up_or_down(found, total):
    shares = {str(i): share for i, share in enumerate(found)}
    counts = spread(total, shares, dict.fromkeys(shares, 10**6))
    for name, share in shares.items():
        exact = total * share / sum(found)
        assert exact - 1 - 1e-9 < counts[name] < exact + 1 + 1e-9


def test_what_does_not_fit_goes_to_the_others_in_their_proportion():
    # By hand: 60 in parts 30, 20, 10; "a" takes 6, the other 54 in parts 2 to 1; then "b" takes
    # 20 of 36 and "c" the rest.
    shares = {"a": 3.0, "b": 2.0, "c": 1.0}
    assert spread(60, shares, {"a": 6, "b": 99, "c": 99}) == {"a": 6, "b": 36, "c": 18}
    assert spread(60, shares, {"a": 6, "b": 20, "c": 99}) == {"a": 6, "b": 20, "c": 34}


def test_shares_that_are_whole_numbers_of_this_total_come_back():
    counts = {"a": 7, "b": 0, "c": 123_457}
    assert spread(sum(counts.values()), counts, {"a": 7, "b": 3, "c": 10**6}) == counts


def test_without_shares_the_room_counts():
    assert spread(6, {"a": 0.0, "b": 0.0}, {"a": 2, "b": 10}) == {"a": 1, "b": 5}


def test_more_than_there_is_room_for_is_refused():
    with pytest.raises(ConfigError, match="spread: 5 on 4 places"):
        spread(5, {"a": 1.0}, {"a": 4})
