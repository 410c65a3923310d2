import pytest

from tersor.core.errors import ConfigError
from tersor.prune.lottery import CONTROLS, TicketSettings


def test_the_hash_that_names_a_run_is_pinned():
    """Another value here means that runs of users are not found again: say so in the CHANGELOG."""
    assert TicketSettings(steps=50_000, rounds=16).digest() == "4c2ccfc69d14"
    decided_by = {"task": "mnist", "seed": 1}
    assert TicketSettings(steps=50_000, rounds=16).digest(decided_by) == "b0e3e6cc7f92"


@pytest.mark.parametrize(
    "other",
    [
        {"steps": 11},
        {"rounds": 3},
        {"drop_fraction": 0.21},
        {"output_drop_fraction": 0.2},
        {"layer_drop_fractions": {"fc1": 0.1}},
        {"allocation": "global"},
        {"criterion": "random"},
        {"strategy": "continue"},
        {"one_shot": True},
        {"rewind_step": 1},
        {"pruned": "initial"},
        {"log_every": 5},
        {"controls": CONTROLS[:1]},
        {"control_levels": (1,)},
        {"control_draws": 2},
        {"seed": 1},
    ],
)
def test_everything_that_decides_changes_the_hash(other):
    plain = {"steps": 10, "rounds": 2}
    assert TicketSettings(**(plain | other)).digest() != TicketSettings(**plain).digest()


def test_the_order_of_what_decides_does_not_change_the_hash():
    settings = TicketSettings(steps=10, rounds=2)
    assert settings.digest({"a": 1, "b": 2}) == settings.digest({"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps: 0; expected optimizer steps of one training, 1 or more"),
        ({"drop_fraction": 1.0}, "drop_fraction: 1.0; expected 0 < fraction < 1"),
        ({"layer_drop_fractions": {"fc1": 1.0}}, "layer_drop_fractions: .*0 <= fraction < 1"),
        ({"criterion": "magnitud"}, "criterion: 'magnitud'; expected one of: .*magnitude"),
        ({"strategy": "reset"}, "strategy: 'reset'; expected one of: rewind"),
        ({"pruned": "one"}, "pruned: 'one'; expected what becomes of pruned .*toward-zero"),
        ({"controls": ("random",)}, r"controls: \('random',\); expected a list of: random-mask"),
        ({"control_levels": (3,)}, r"control_levels: \(3,\); expected the levels .* 1 to rounds"),
        ({"rewind_step": 10}, "rewind_step: 10; expected a step before `steps`"),
        ({"strategy": "continue", "one_shot": True}, "one_shot: True; expected .*not with"),
        ({"one_shot_levels": (1,)}, r"one_shot_levels: \(1,\); expected .*only with one_shot"),
        ({"one_shot": True, "one_shot_levels": (0,)}, r"one_shot_levels: \(0,\); expected"),
        ({"drop": 0.2}, "unknown key 'drop'"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_right(wrong, message):
    with pytest.raises(ConfigError, match=f"TicketSettings.*{message}"):
        TicketSettings(**({"steps": 10, "rounds": 2} | wrong))


def test_one_shot_trains_only_the_levels_that_are_asked_for_and_the_dense_network():
    settings = TicketSettings(steps=10, rounds=9, one_shot=True, one_shot_levels=(7, 3, 7))
    assert settings.trained_levels == (0, 3, 7)
    assert TicketSettings(steps=10, rounds=2).trained_levels == (0, 1, 2)
