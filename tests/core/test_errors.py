import pytest

from tersor.core import errors
from tersor.core.errors import TersorError, did_you_mean

FAMILY = {
    "ConfigError": ValueError,
    "FormatError": ValueError,
    "DataError": Exception,
    "TrainingError": Exception,
    "StorageError": OSError,
    "MissingExtraError": ImportError,
}


def test_every_error_of_the_module_is_in_the_family():
    found = {n for n, kind in vars(errors).items() if isinstance(kind, type)} - {"TersorError"}
    assert {n for n in found if issubclass(getattr(errors, n), Exception)} == set(FAMILY)


@pytest.mark.parametrize("name", FAMILY)
def test_an_error_is_caught_as_tersors_and_as_pythons_own(name):
    kind = getattr(errors, name)
    error = kind("f", "p", "train") if name == "MissingExtraError" else kind("a message")
    assert isinstance(error, TersorError)
    assert isinstance(error, FAMILY[name])


def test_a_missing_extra_says_what_to_install():
    message = str(errors.MissingExtraError("training", "accelerate", "train"))
    assert "'accelerate'" in message
    assert "pip install 'tersor[train]'" in message


def test_a_near_miss_is_offered_else_all_that_is_known():
    assert did_you_mean("denisty", ["bits", "density"]) == "did you mean 'density'?"
    assert did_you_mean("zzz", {"b", "a"}) == "known: a, b"
