import dataclasses
import hashlib
import re

import pytest
import torch

from tersor.core.errors import DataError
from tersor.tasks import load_task, network_for
from tersor.tasks.text import (
    END,
    PTB,
    TINY_SHAKESPEARE,
    TOKENS,
    UNKNOWN,
    load_text_set,
    samples,
    vocabulary_of,
    words,
)


def written(source, folder, texts):
    """A set of texts of our own in the place of a known one."""
    (folder / "text" / source.name).mkdir(parents=True)
    sums = {}
    for name, text in zip(source.sha256, texts, strict=True):
        data = text if isinstance(text, bytes) else text.encode()
        (folder / "text" / source.name / name).write_bytes(data)
        sums[name] = hashlib.sha256(data).hexdigest()
    return dataclasses.replace(source, sha256=sums)


def all_of(loader):
    inputs, targets = (torch.cat(parts) for parts in zip(*loader, strict=True))
    return inputs, targets


def test_each_target_is_the_token_after_its_input(tmp_path):
    texts = ["".join(f"w{i % 7} " for i in range(100)) + "\n", "w0 w1 \n" * 30, "w2 w6 \n" * 30]
    source = written(PTB, tmp_path, texts)
    task = load_text_set(dataclasses.replace(source, vocabulary=20), tmp_path, 2)
    inputs, targets = all_of(task.validation)
    assert inputs.shape == targets.shape == (89 // TOKENS, TOKENS)
    assert torch.equal(inputs.flatten()[1:], targets.flatten()[:-1])
    assert task.perplexity
    assert next(iter(task.train))[0].shape == (2, TOKENS)


def test_the_vocabulary_is_that_of_the_training_text_alone(tmp_path):
    source = written(PTB, tmp_path, ["a b a c " * 20 + "\n", "a zz \n" * 40, "d \n" * 40])
    task = load_text_set(dataclasses.replace(source, vocabulary=3), tmp_path)
    # <unk>, then a (40) and b (20); c (20) and the end of the one line have no place left
    inputs, _ = all_of(task.validation)
    assert inputs[0, :6].tolist() == [1, 0, 0, 1, 0, 0]
    assert all_of(task.test)[0].unique().tolist() == [0]
    assert sorted(all_of(task.train)[0].unique().tolist()) == [0, 1, 2]


def test_a_token_that_the_training_text_lacks_is_refused_where_all_are_known():
    with pytest.raises(DataError, match="token 'z' is not in the training text"):
        samples("abz", {"a": 0, "b": 1})


def test_a_vocabulary_that_holds_all_needs_no_unknown():
    assert vocabulary_of("abca", 3) == {"a": 0, "b": 1, "c": 2}
    assert vocabulary_of(["x", UNKNOWN, UNKNOWN, UNKNOWN], 3) == {UNKNOWN: 0, "x": 1}


def test_words_are_parted_by_blanks_and_lines_end():
    assert words(" \n = A b = \n") == [END, "=", "A", "b", "=", END]


def test_what_is_left_of_a_text_is_no_sample():
    numbers = {"a": 0, "b": 1}
    assert samples("ab" * 16, numbers)[0].shape == (0, TOKENS)  # the last target is missing
    inputs, targets = samples("ab" * 16 + "b", numbers)
    assert inputs.shape == (1, TOKENS)
    assert targets[0, -1] == 1


def test_one_text_is_parted_by_its_length(tmp_path):
    text = "ab" * 1000
    source = written(TINY_SHAKESPEARE, tmp_path, [text])
    task = load_text_set(source, tmp_path)
    assert [all_of(part)[0].numel() // TOKENS for part in (task.train, task.validation)] == [56, 3]


def test_a_missing_file_is_named_with_its_place(tmp_path):
    message = f"WikiText-2: 'train.txt' is not in '{tmp_path / 'text' / 'wikitext-2'}'"
    with pytest.raises(DataError, match=re.escape(message)):
        load_task("wikitext-2", data_dir=tmp_path)


def test_a_text_that_is_another_one_or_no_text_is_refused(tmp_path):
    source = written(TINY_SHAKESPEARE, tmp_path, [b"\xff\xfe"])
    with pytest.raises(DataError, match=r"input\.txt: not UTF-8"):
        load_text_set(source, tmp_path)
    with pytest.raises(DataError, match="SHA-256 is"):
        load_text_set(TINY_SHAKESPEARE, tmp_path)


@pytest.mark.parametrize(
    ("name", "tokens", "vocabulary"),
    [("wikitext-2", 2_088_628, 10_000), ("ptb", 929_589, 10_000), ("tinyshakespeare", 0, 65)],
)
def test_the_real_texts(name, tokens, vocabulary, data_dir):
    if not (data_dir / "text" / name).is_dir():
        pytest.skip(f"no data: text/{name} is not in the data folder")
    task = load_task(name, data_dir=data_dir)
    inputs = task.train.dataset.inputs
    assert int(inputs.max()) == vocabulary - 1
    if tokens:  # as published, the ends of lines counted
        assert len(inputs) == (tokens - 1) // TOKENS
    logits = network_for(name, "transformer-lm")(task.example_input)
    assert logits.shape == (1, vocabulary, TOKENS)
