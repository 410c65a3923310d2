import pytest

from tersor.core.errors import ConfigError
from tersor.core.tables import look_up


def test_a_name_is_looked_up_and_anything_else_is_taken_as_it_is():
    assert look_up("start", "one", {"one": 1}) == 1
    assert look_up("start", len, {"one": 1}) is len


def test_an_unknown_name_is_told_with_what_it_is_for_and_the_nearest():
    with pytest.raises(ConfigError, match="start 'oen': did you mean 'one'"):
        look_up("start", "oen", {"one": 1, "second": 2})
