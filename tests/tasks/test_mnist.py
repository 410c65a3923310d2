import dataclasses
import gzip
import hashlib
import re
import struct

import pytest
import torch

from tersor.core.errors import DataError
from tersor.tasks import load_task
from tersor.tasks.mnist import (
    FASHION_MNIST,
    MNIST,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    load_idx_set,
    split_indices,
)


@pytest.fixture
def small(tmp_path):
    """A tiny set in the form of MNIST; image i is filled with the value i, its label is i % 10."""
    sums = {}
    (tmp_path / "mnist").mkdir()
    for images, labels, count in ((TRAIN_IMAGES, TRAIN_LABELS, 20), (TEST_IMAGES, TEST_LABELS, 8)):
        pixels = b"".join(bytes([i]) * 784 for i in range(count))
        contents = {
            images: struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28) + pixels,
            labels: struct.pack(">4BI", 0, 0, 8, 1, count) + bytes(i % 10 for i in range(count)),
        }
        for name, data in contents.items():
            packed = gzip.compress(data)
            (tmp_path / "mnist" / name).write_bytes(packed)
            sums[name] = hashlib.sha256(packed).hexdigest()
    source = dataclasses.replace(MNIST, sha256=sums, train=20, held_out=5, test=8)
    return source, tmp_path


def filled_with(loader) -> list[int]:
    """The raw value of each image that a loader gives, in order."""
    images = torch.cat([inputs for inputs, _ in loader])
    assert images.shape[1:] == (1, 28, 28)
    assert (images == images[:, :, :1, :1]).all()
    return ((images[:, 0, 0, 0] * 0.3081 + 0.1307) * 255).round().int().tolist()


def test_training_files_are_parted_and_the_test_files_are_left_whole(small):
    task = load_idx_set(*small)
    train, validation = filled_with(task.train), filled_with(task.validation)
    assert (len(train), len(validation)) == (15, 5)
    assert sorted(train + validation) == list(range(20))
    assert filled_with(task.test) == list(range(8))


def test_labels_stay_with_their_images(small):
    task = load_idx_set(*small)
    for loader in (task.train, task.validation, task.test):
        labels = torch.cat([targets for _, targets in loader])
        assert labels.dtype is torch.int64
    assert labels.tolist() == [i % 10 for i in range(8)]
    (images, labels), *_ = task.validation
    raw = ((images[:, 0, 0, 0] * 0.3081 + 0.1307) * 255).round().long()
    assert (raw % 10).tolist() == labels.tolist()


def test_files_may_lie_in_the_folder_itself_or_be_found_by_the_environment(small, monkeypatch):
    source, folder = small
    monkeypatch.setenv("TERSOR_DATA", str(folder))
    assert len(filled_with(load_idx_set(source).test)) == 8
    assert len(filled_with(load_idx_set(source, folder / "mnist").test)) == 8
    monkeypatch.setenv("TERSOR_DATA", str(folder / "nowhere"))
    assert len(filled_with(load_idx_set(source, folder).test)) == 8


def test_a_missing_file_is_named_with_folder_and_remedy(monkeypatch, tmp_path):
    monkeypatch.delenv("TERSOR_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    message = (
        "MNIST: 'train-images-idx3-ubyte.gz' is not in 'data/mnist'. "
        "Put it there, or say where: --data-dir, TERSOR_DATA"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        load_task("mnist")
    with pytest.raises(DataError, match=r"Fashion-MNIST: .* is not in 'here/fashion-mnist'"):
        load_task("fashion-mnist", data_dir="here")


def test_a_damaged_file_is_named(small):
    source, folder = small
    path = folder / "mnist" / TEST_LABELS
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match=f"{TEST_LABELS}: SHA-256 is .*, expected {'.' * 64}"):
        load_idx_set(source, folder)


def test_the_files_of_the_other_set_are_refused(small):
    _, folder = small
    expected = FASHION_MNIST.sha256[TRAIN_IMAGES]
    with pytest.raises(DataError, match=f"{TRAIN_IMAGES}: SHA-256 is .*, expected {expected}"):
        load_task("fashion-mnist", data_dir=folder / "mnist")


@pytest.mark.parametrize(
    ("source", "digests"),
    [
        (MNIST, ["390c90a588b8ea3a", "5aeff43c567b146e"]),
        (FASHION_MNIST, ["902cc6f66d91ac9e", "d2f3be7f22dd8e45"]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_split_is_pinned_whatever_the_seed(source, digests):
    torch.manual_seed(1)
    parts = split_indices(source)
    assert [len(part) for part in parts] == [55_000, 5_000]
    assert [hashlib.sha256(p.numpy().tobytes()).hexdigest()[:16] for p in parts] == digests


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_real_files_give_standardised_images(name, data_dir):
    task = load_task(name, data_dir=data_dir)
    parts = [loader.dataset for loader in (task.train, task.validation, task.test)]
    assert [len(part) for part in parts] == [55_000, 5_000, 10_000]
    images = torch.cat([part.inputs for part in parts[:2]])
    assert images.dtype is torch.float32
    # The constants have four digits, the standard deviation is about a third.
    assert abs(images.mean().item()) < 2e-3
    assert abs(images.std().item() - 1) < 2e-3
    classes = torch.cat([part.targets for part in parts]).bincount()
    assert len(classes) == 10
    assert classes.min() > 6_000


def test_mnist_has_its_known_number_of_test_images_a_class(data_dir):
    # LeCun et al. 1998; the counts are those of the original files.
    counts = load_task("mnist", data_dir=data_dir).test.dataset.targets.bincount().tolist()
    assert counts == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
