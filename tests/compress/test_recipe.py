from __future__ import annotations

import pytest

from tersor.compress import Prune, Quantize, Recipe, Train, read_recipe, recipe_for, recipe_names
from tersor.core.errors import ConfigError
from tersor.tasks import MODELS, TASKS

GOOD = """
name: small
batch_size: 32
steps:
  - train: {epochs: 1}
  - prune: {density: 0.5}
  - quantize: {bits: 4}
"""


def test_a_file_is_read_with_the_defaults_filled_in(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(GOOD)
    assert read_recipe(path) == Recipe(
        (Train(epochs=1), Prune(density=0.5), Quantize(bits=4)), "small", 32
    )


@pytest.mark.parametrize("name", recipe_names())
def test_yaml_with_and_without_defaults_reads_back_as_the_same_recipe(name, tmp_path):
    recipe = read_recipe(name)
    for defaults in (True, False):
        path = tmp_path / "again.yaml"
        path.write_text(recipe.to_yaml(defaults=defaults))
        assert read_recipe(path) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("density", "denisty"),
            r"bad\.yaml, prune: unknown key 'denisty'; did you mean 'density'",
        ),
        (("0.5", "2.0"), r"bad\.yaml, prune\.density: 2\.0; expected 0 < density <= 1"),
        (("0.5", "0"), r"prune\.density: 0; expected 0 < density <= 1"),
        (("0.5", "{fc1: 1.5}"), r"prune\.density: {'fc1': 1\.5}; expected 0 < density <= 1"),
        (("0.5", ".nan"), r"prune\.density: nan; expected 0 < density <= 1"),
        (("0.5", "low"), r"prune\.density: 'low'; expected 0 < density <= 1"),
        (("epochs: 1", "epochs: 0"), r"train\.epochs: 0; expected .* 1 or more"),
        (("epochs: 1", "optimizer: adam"), r"train: 'epochs' is missing; expected a whole number"),
        (("0.5", "0.5, pattern: 2of4"), r"prune\.pattern: '2of4'; expected element, row"),
        (("0.5", "0.5, repair: obz"), r"prune\.repair: 'obz'; expected one of: "),
        (("0.5", "0.5, batches: 0"), r"prune\.batches: 0; expected training batches"),
        (("bits: 4", "bits: 17"), r"quantize\.bits: 17; expected bits of a code, 1 to 16"),
        (("bits: 4", "method: afine"), r"quantize\.method: 'afine'; expected one of: kmeans"),
        (("bits: 4", "settings: 3"), r"quantize\.settings: 3; expected a mapping"),
        (("- prune", "- prnue"), r"step 2: unknown step 'prnue'; did you mean 'prune'"),
        (
            ("- prune: {density: 0.5}", "- 7"),
            r"step 2: 7; expected one of train, prune, quantize, share",
        ),
        (("steps", "stesp"), r"unknown key 'stesp'; did you mean 'steps'"),
        (("batch_size: 32", "batch_size: 0"), r"batch_size: 0; expected 1 or more"),
        (("batch_size: 32", "batch_size: many"), r"batch_size: 'many'; expected a int"),
        (("name: small", "name: a\nname: b"), r"the key 'name' is given twice"),
        (("name: small", "name: [small"), r"not valid YAML"),
        (("name: small", "name: !!python/name:os.system"), r"not valid YAML"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_file_key_and_what_is_right(change, message, tmp_path):
    path = tmp_path / "bad.yaml"
    assert change[0] in GOOD
    path.write_text(GOOD.replace(*change))
    with pytest.raises(ConfigError, match=message):
        read_recipe(path)


def test_a_misspelt_key_gives_one_line_not_its_consequences(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(GOOD.replace("density", "denisty"))
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "steps", [(), (Train(epochs=1), Train(epochs=1)), (Prune(density=0.5), Prune(density=0.2))]
)
def test_there_is_a_step_and_train_and_prune_come_once(steps):
    with pytest.raises(ConfigError, match="train and prune at most once"):
        Recipe(steps)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match="did you mean 'deep-compression'"):
        read_recipe("deep-compresion")


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"'no/such\.yaml' cannot be read"):
        read_recipe("no/such.yaml")


def test_every_task_and_model_has_a_recipe():
    for task in TASKS:
        for model in MODELS:
            assert recipe_for(task, model) in recipe_names()
    assert recipe_for("digits", "lenet-300-100") == "digits-lenet-300-100"


def test_the_digest_names_what_decides_a_run_and_is_pinned():
    recipe = Recipe((Prune(density=0.5),))
    digests = {
        recipe.digest(seed=0),
        recipe.digest(seed=1),
        Recipe((Prune(density=0.25),)).digest(seed=0),
    }
    assert len(digests) == 3
    # A run that was interrupted under an older version is found by this name.
    assert recipe.digest(seed=0) == Recipe((Prune(density=0.5),)).digest(seed=0)


def test_without_training_drops_just_that_step():
    recipe = read_recipe("deep-compression")
    assert [type(step) for step in recipe.without_training().steps] == [Prune, Quantize]
    with pytest.raises(ConfigError, match="the steps are none"):
        Recipe((Train(epochs=1),)).without_training()
