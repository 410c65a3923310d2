from fractions import Fraction

import pytest

from tersor.core.errors import ConfigError
from tersor.prune.lottery import scratch_b_steps, scratch_e_steps


def test_scratch_b_costs_what_the_dense_training_did():
    for dense, slim in ((266_200, 53_240), (10**9, 333_333_333), (5, 5)):
        steps = scratch_b_steps(9_000, dense_macs=dense, macs=slim)
        assert abs(Fraction(steps) * slim - Fraction(9_000) * dense) <= Fraction(slim, 2)


def test_scratch_b_can_be_held_to_a_multiple():
    assert scratch_b_steps(100, dense_macs=10, macs=1, at_most=2) == 200
    assert scratch_b_steps(100, dense_macs=10, macs=8, at_most=2) == 125


def test_scratch_e_takes_as_long_as_the_dense_training():
    assert scratch_e_steps(160) == 160


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "0 steps; expected 1 or more"),
        ({"macs": 0}, "macs 0; expected more than 0"),
        ({"macs": 11}, "macs 11; expected .* no more than the dense network's 10"),
        ({"at_most": 0.5}, "at_most 0.5; expected 1 or more"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    values = {"steps": 100, "dense_macs": 10, "macs": 5} | wrong
    with pytest.raises(ConfigError, match=message):
        scratch_b_steps(values.pop("steps"), **values)
    with pytest.raises(ConfigError, match="scratch_e_steps: 0 steps"):
        scratch_e_steps(0)
