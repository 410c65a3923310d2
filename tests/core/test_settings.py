from typing import Literal

import pytest
from pydantic import Field, ValidationError

from tersor.core.errors import ConfigError
from tersor.core.settings import Settings


class Inner(Settings):
    bits: int = Field(default=5, ge=1, le=8, description="1 to 8")


class Prune(Settings):
    density: float = Field(gt=0, le=1, description="0 < density <= 1, the share that is kept")
    kind: Literal["a", "b"] = Field(default="a", description="one of: a, b")
    steps: int = Field(default=10, description="a whole number")
    inner: Inner = Field(default_factory=Inner, description="a mapping with bits")
    plain: int = 0


def test_good_values_are_taken_and_numbers_are_numbers():
    read = Prune.read({"density": 1, "inner": {"bits": 3}}, where="r.yaml, prune")
    assert read == Prune(density=1.0, inner=Inner(bits=3))
    assert isinstance(read.density, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"density": 2.0}, r"^r.yaml, prune.density: 2.0; expected 0 < density <= 1, the share"),
        ({"density": 0}, r"^r.yaml, prune.density: 0; expected 0 < density"),
        ({"density": "much"}, r"^r.yaml, prune.density: 'much'; expected 0 < density"),
        ({"density": float("nan")}, r"^r.yaml, prune.density: nan; expected 0 < density"),
        ({"density": None}, r"^r.yaml, prune.density: None; expected 0 < density"),
        ({}, r"^r.yaml, prune: 'density' is missing; expected 0 < density <= 1"),
        (
            {"density": 0.1, "denisty": 0.1},
            r"^r.yaml, prune: unknown key 'denisty'; did you mean 'density'\?$",
        ),
        ({"density": 0.1, "zzz": 1}, r"unknown key 'zzz'; known: density, inner, kind, plain"),
        ({"density": 0.1, "kind": "c"}, r"^r.yaml, prune.kind: 'c'; expected one of: a, b$"),
        ({"density": 0.1, "steps": 1.5}, r"^r.yaml, prune.steps: 1.5; expected a whole number$"),
        ({"density": 0.1, "plain": "x"}, r"^r.yaml, prune.plain: 'x'; expected .*integer"),
        ([0.1], r"^r.yaml, prune: \[0.1\]; expected a mapping"),
        (None, r"^r.yaml, prune: None; expected a mapping"),
    ],
)
def test_a_wrong_value_is_named_with_place_key_value_and_range(values, message):
    with pytest.raises(ConfigError, match=message):
        Prune.read(values, where="r.yaml, prune")


@pytest.mark.parametrize("inner", [{"bits": 9}, {"bit": 3}])
def test_a_wrong_value_further_in_is_named_with_its_key(inner):
    with pytest.raises(ConfigError, match=rf"^r.yaml, prune.inner.*{next(iter(inner.values()))}"):
        Prune.read({"density": 0.1, "inner": inner}, where="r.yaml, prune")


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        Prune.read({"density": 2, "kind": "c"}, where="r")
    lines = str(caught.value).splitlines()
    assert [line.split(";")[0] for line in lines] == ["r.density: 2", "r.kind: 'c'"]


def test_python_arguments_are_checked_alike():
    with pytest.raises(ConfigError, match=r"^Prune.density: 2.0; expected 0 < density"):
        Prune(density=2.0)
    with pytest.raises(ConfigError, match=r"^Prune: unknown key 'denisty'; did you mean"):
        Prune(density=1.0, denisty=2.0)


def test_settings_do_not_change():
    settings = Prune(density=0.5)
    with pytest.raises(ValidationError, match="frozen"):
        settings.density = 0.7
