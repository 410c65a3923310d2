import dataclasses
import hashlib
import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tersor.core.errors import DataError, MissingExtraError
from tersor.tasks import load_task
from tersor.tasks.cifar import (
    CIFAR10,
    MEAN,
    STD,
    TEST_LABELS,
    TEST_SHEET,
    TRAIN_LABELS,
    TRAIN_SHEETS,
    SheetSet,
    load_sheet_set,
    split_indices,
    standardised,
)


def picture(first: int, side: int = 2, mode: str = "RGB") -> Image.Image:
    """A sheet of `side` x `side` tiles: image i is filled with i in red, 8 i in green, 100."""
    pixels = np.zeros((32 * side, 32 * side, 3), np.uint8)
    for number in range(side * side):
        row, column = divmod(number, side)
        i = first + number
        pixels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = (i, 8 * i, 100)
    return Image.fromarray(pixels).convert(mode)


def packed(image: Image.Image, name: str) -> bytes:
    out = io.BytesIO()
    if name.endswith(".webp"):
        image.save(out, "WEBP", lossless=True, exact=True)
    else:
        image.save(out, "JPEG", quality=100, subsampling=0)
    return out.getvalue()


def npy(labels: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, labels)
    return out.getvalue()


@pytest.fixture
def small(tmp_path):
    """A tiny set in the form of CIFAR-10: 20 and 4 images; labels are i % 10."""
    folder = tmp_path / "cifar10"
    folder.mkdir()
    files = {name: packed(picture(4 * n), name) for n, name in enumerate(TRAIN_SHEETS)}
    files[TRAIN_LABELS] = npy(np.arange(20, dtype=np.uint8) % 10)
    files[TEST_SHEET] = packed(picture(20), TEST_SHEET)
    files[TEST_LABELS] = npy(np.arange(20, 24, dtype=np.uint8) % 10)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return SheetSet(sums, tiles=2, held_out=6), tmp_path


def replaced(small, name: str, data: bytes):
    """The set with another file, whose checksum is taken for right."""
    source, folder = small
    (folder / "cifar10" / name).write_bytes(data)
    sums = source.sha256 | {name: hashlib.sha256(data).hexdigest()}
    return dataclasses.replace(source, sha256=sums), folder


def numbers(data) -> list[int]:
    """Which image each one is, by the green of its middle (JPEG is up to some units off)."""
    return ((data.inputs[:, 1, 16, 16].float() / 8).round()).int().tolist()


def test_sheets_are_cut_row_by_row_into_images_with_their_labels(small):
    task = load_sheet_set(*small)
    parts = [task.train.dataset, task.validation.dataset, task.test.dataset]
    assert [len(part) for part in parts] == [14, 6, 4]
    assert sorted(numbers(parts[0]) + numbers(parts[1])) == list(range(20))
    assert numbers(parts[2]) == [20, 21, 22, 23]
    for part in parts:
        assert part.targets.dtype is torch.int64
        assert part.targets.tolist() == [i % 10 for i in numbers(part)]
    exact = parts[2].inputs
    assert exact.dtype is torch.uint8
    assert exact.shape == (4, 3, 32, 32)
    for i, image in enumerate(exact, start=20):
        assert torch.equal(image, torch.tensor([i, 8 * i, 100]).view(3, 1, 1).expand(3, 32, 32))


def test_batches_for_judging_are_standardised_and_otherwise_as_they_are(small):
    task = load_sheet_set(*small)
    ((images, _),) = task.test
    assert images.dtype is torch.float32
    raw = (images * STD + MEAN) * 255
    torch.testing.assert_close(raw, task.test.dataset.inputs.float(), rtol=0, atol=1e-3)


def test_training_batches_are_changed_at_random_and_the_store_is_not(small):
    task = load_sheet_set(*small, batch_size=14)
    stored = task.train.dataset.inputs.clone()
    torch.manual_seed(0)
    first, second, again = [images for _ in range(3) for images, _ in task.train]
    torch.manual_seed(0)
    ((images, targets),) = task.train
    assert torch.equal(images, first)
    assert not torch.equal(second, again)
    assert torch.equal(task.train.dataset.inputs, stored)
    # A shift brings in zeros at an edge, and up to 4 pixels leave the middle as it is.
    raw = (images * STD + MEAN)[:, :, 4:-4, 4:-4] * 255
    number = (raw[:, 1].mean(dim=(1, 2)) / 8).round().long()
    assert (number % 10).tolist() == targets.tolist()
    assert (images == 0).any(dim=1).any()


def test_a_missing_file_is_named(small):
    source, folder = small
    (folder / "cifar10" / "train_3.jpg").unlink()
    with pytest.raises(DataError, match=r"CIFAR-10: 'train_3.jpg' is not in '.*cifar10'"):
        load_sheet_set(source, folder)


@pytest.mark.parametrize("name", ["train_5.jpg", TRAIN_LABELS, TEST_SHEET, TEST_LABELS])
def test_a_damaged_file_is_named(small, name):
    source, folder = small
    path = folder / "cifar10" / name
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(DataError, match=f"{name}: SHA-256 is .*, expected {source.sha256[name]}"):
        load_sheet_set(source, folder)


@pytest.mark.parametrize("name", ["train_2.jpg", TEST_SHEET])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.9])
def test_a_picture_cut_off_is_told(small, name, keep):
    data = packed(picture(3), name)
    with pytest.raises(DataError, match=f"{name}: cannot be decoded"):
        load_sheet_set(*replaced(small, name, data[: int(keep * len(data))]))


@pytest.mark.parametrize(
    ("image", "found"), [(picture(0, side=3), r"\(96, 96\)"), (picture(0, mode="L"), "'L'")]
)
def test_a_picture_of_another_form_is_told(small, image, found):
    data = packed(image, "train_1.jpg")
    with pytest.raises(
        DataError, match=rf"train_1.jpg: is .*{found}.*, expected \('RGB', \(64, 64"
    ):
        load_sheet_set(*replaced(small, "train_1.jpg", data))


def test_a_picture_of_another_kind_is_told(small):
    out = io.BytesIO()
    picture(0).save(out, "PNG")
    with pytest.raises(DataError, match=r"train_1.jpg: cannot be decoded"):
        load_sheet_set(*replaced(small, "train_1.jpg", out.getvalue()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no npy file"),
        (b"\x93NUMPY\x01\x00", "is no npy file"),
        (npy(np.array([{}], dtype=object)), "is no npy file"),
        (npy(np.zeros(19, np.uint8)), r"holds uint8 of shape \(19,\), expected 20 bytes"),
        (npy(np.zeros(20, np.int64)), r"holds int64 of shape \(20,\), expected 20 bytes"),
        (npy(np.full(20, 10, np.uint8)), "holds the class 10, expected 0 to 9"),
    ],
)
def test_labels_that_are_none_are_told(small, data, message):
    with pytest.raises(DataError, match=f"{TRAIN_LABELS}: {message}"):
        load_sheet_set(*replaced(small, TRAIN_LABELS, data))


def test_without_pillow_the_extra_is_named(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"cifar10 needs .*'pillow'.*tersor\[train\]"):
        load_sheet_set(*small)


def test_the_split_is_pinned_whatever_the_seed():
    torch.manual_seed(1)
    parts = split_indices(CIFAR10)
    assert [len(part) for part in parts] == [45_000, 5_000]
    digests = [hashlib.sha256(part.numpy().tobytes()).hexdigest()[:16] for part in parts]
    assert digests == ["12358c1f69421257", "eabead36211546c4"]


def test_the_real_files_are_the_known_images(data_dir):
    if not (data_dir / "cifar10").is_dir():
        pytest.skip("no data: TERSOR_DATA must name a folder that holds cifar10/")
    task = load_task("cifar10", data_dir=data_dir)
    train, validation, test = (p.dataset for p in (task.train, task.validation, task.test))
    assert [len(part) for part in (train, validation, test)] == [45_000, 5_000, 10_000]
    assert test.targets.bincount().tolist() == [1000] * 10
    assert torch.cat((train.targets, validation.targets)).bincount().tolist() == [5000] * 10
    # The official test batch, N x H x W x C.
    pixels = test.inputs.permute(0, 2, 3, 1).contiguous().numpy().tobytes()
    known = "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04"
    assert hashlib.sha256(pixels).hexdigest() == known
    images = standardised(train.inputs[::9])
    assert images.mean(dim=(0, 2, 3)).abs().max() < 0.02
    assert (images.std(dim=(0, 2, 3)) - 1).abs().max() < 0.02
    assert next(iter(task.train))[0].shape == (128, 3, 32, 32)
