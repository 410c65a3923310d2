import hashlib
import sys

import pytest
import torch
from sklearn.datasets import load_digits

from tersor.core.errors import MissingExtraError
from tersor.tasks import load_task
from tersor.tasks.digits import split_indices


def test_the_parts_are_the_whole_of_scikit_learns_digits():
    task = load_task("digits")
    parts = [loader.dataset for loader in (task.train, task.validation, task.test)]
    assert [len(part) for part in parts] == [1197, 300, 300]
    rows = {
        (*image.flatten().mul(0.3761).add(0.3053).mul(16).round().int().tolist(), label.item())
        for part in parts
        for image, label in zip(part.inputs, part.targets, strict=True)
    }
    pixels, labels = load_digits(return_X_y=True)
    assert rows == {
        (*row, label) for row, label in zip(pixels.astype(int).tolist(), labels, strict=True)
    }


def test_images_are_standardised_and_keep_their_shape():
    task = load_task("digits")
    images = torch.cat([part.dataset.inputs for part in (task.train, task.validation, task.test)])
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype is torch.float32
    assert abs(images.mean().item()) < 1e-3
    assert abs(images.std().item() - 1) < 1e-3


def test_the_split_is_pinned_whatever_the_seed():
    torch.manual_seed(1)
    digests = [hashlib.sha256(p.numpy().tobytes()).hexdigest()[:16] for p in split_indices()]
    assert digests == ["12389f4763ec6a96", "03d13a05f9dccc72", "99d1c0ce8e484289"]


def test_every_class_is_in_every_part():
    task = load_task("digits")
    for loader in (task.train, task.validation, task.test):
        assert loader.dataset.targets.bincount(minlength=10).min() >= 20


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"digits needs .*'scikit-learn'.*tersor\[train\]"):
        load_task("digits")
