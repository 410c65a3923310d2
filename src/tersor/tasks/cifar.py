"""CIFAR-10 from sheets of tiles, with a fixed validation split and changed training images."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tersor.core.errors import DataError, MissingExtraError
from tersor.core.seeding import generator
from tersor.tasks.augmentation import flip_and_shift
from tersor.tasks.batches import evaluation_loader, split, training_loader
from tersor.tasks.data_files import Folder, find_files, read_checked
from tersor.tasks.task import Task

TRAIN_SHEETS = tuple(f"train_{number}.jpg" for number in range(1, 6))
TRAIN_LABELS = "train_labels.npy"
TEST_SHEET = "test.webp"
TEST_LABELS = "test_labels.npy"

SIDE, CLASSES, SHIFT = 32, 10, 4

# Of the training pixels, scaled to [0, 1], channel by channel.
MEAN = torch.tensor((0.4914, 0.4822, 0.4465)).view(3, 1, 1)
STD = torch.tensor((0.2470, 0.2435, 0.2616)).view(3, 1, 1)


@dataclass(frozen=True)
class SheetSet:
    """Six sheets of tiles and two files of labels: what they must hold.

    Args:
        sha256: file name to checksum.
        tiles: along each side of a sheet; number `tiles * row + column` is the image's own.
        held_out: images of the training sheets that are for validation.
    """

    sha256: dict[str, str]
    tiles: int = 100
    held_out: int = 5_000

    @property
    def per_sheet(self) -> int:
        return self.tiles**2

    @property
    def train(self) -> int:
        return len(TRAIN_SHEETS) * self.per_sheet


CIFAR10 = SheetSet(
    {
        "train_1.jpg": "3e4558805247431ecbf666ee3092e5756bd35fc9e5c645e3096e9794cae73147",
        "train_2.jpg": "515026c99970937536fd20b4aca68006e0ca9d23cf999d4f4d51b3f098fdb8be",
        "train_3.jpg": "19d110c5480918ba24505b7c1fe8c9efcc73780a994004d491ff4e376096d5cc",
        "train_4.jpg": "a7ce1b630e5a1b80b1696fcc170f69eebaeb45c3f78bd22eb5407c0510d35e68",
        "train_5.jpg": "ac37036a3df5fedd28d5c5db49c48dab4c24d677837b2169ef776f71ea4431a1",
        TRAIN_LABELS: "fad921ba16b0efeebb54393d1351545d1fe1a357f6f81324c821e3e11b956c70",
        TEST_SHEET: "840e458bd58b7aff80d24dfdc6324439ba6f172df799f1dcab25b3177019e6a6",
        TEST_LABELS: "19004b019bd095265b4ce6637c9ff979c66abcbc8e658a665f791b487cdea5eb",
    }
)


def cifar10(data_dir: Folder | None = None, batch_size: int | None = None) -> Task:
    """Small colour photographs, (3, 32, 32): 45,000 / 5,000 / 10,000 images of ten classes.

    **The training and validation images are JPEG-coded** (quality 92, 37.2 dB): say so beside an
    accuracy that is compared with a published one. The test images are exact.

    Training batches are mirrored and shifted by up to 4 pixels at random (`flip_and_shift`), anew
    in every epoch, from torch's global generator; validation and test images are as they are. What
    should see training images as they are takes `task.train.dataset`, uint8, and `standardised`.

    Args, Raises: as `load_task`.

    Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
    """
    return load_sheet_set(CIFAR10, data_dir, batch_size)


def load_sheet_set(
    source: SheetSet, data_dir: Folder | None = None, batch_size: int | None = None
) -> Task:
    """The task of six sheets; see `cifar10`."""
    paths = find_files("CIFAR-10", "cifar10", source.sha256, data_dir)

    def sheets(*names: str) -> Tensor:
        images = torch.empty(len(names) * source.per_sheet, 3, SIDE, SIDE, dtype=torch.uint8)
        for name, part in zip(names, images.split(source.per_sheet), strict=True):
            part.copy_(read_sheet(paths[name], sha256=source.sha256[name], tiles=source.tiles))
        return images

    def labels(name: str, count: int) -> Tensor:
        return read_labels(paths[name], sha256=source.sha256[name], count=count)

    images, targets = sheets(*TRAIN_SHEETS), labels(TRAIN_LABELS, source.train)
    test_images, test_targets = sheets(TEST_SHEET), labels(TEST_LABELS, source.per_sheet)
    train, validation = split_indices(source)
    return Task(
        "cifar10",
        training_loader(
            images[train],
            targets[train],
            batch_size=128 if batch_size is None else batch_size,
            prepare=augmented,
        ),
        evaluation_loader(images[validation], targets[validation], prepare=standardised),
        evaluation_loader(test_images, test_targets, prepare=standardised),
    )


def standardised(images: Tensor) -> Tensor:
    """Pixels (N, 3, H, W), uint8, as floats of mean 0 and standard deviation 1 a channel."""
    return images.float().div_(255).sub_(MEAN).div_(STD)


def augmented(images: Tensor) -> Tensor:
    """Standardised, then mirrored and shifted at random."""
    return flip_and_shift(standardised(images), up_to=SHIFT)


def split_indices(source: SheetSet) -> list[Tensor]:
    """Indices of the training sheets for training and validation; no user's seed moves them."""
    return split(source.train, (source.held_out,), generator(0, "cifar10", "validation"))


def read_sheet(path: Path, *, sha256: str, tiles: int) -> Tensor:
    """The images of a sheet in their order, (tiles * tiles, 3, 32, 32), uint8.

    Raises:
        DataError: the checksum is another one, or the file is no picture of that many tiles.
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("the task cifar10", "pillow", "train") from error
    data = read_checked(path, sha256)
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "WEBP")) as picture:
            form = (picture.mode, picture.size)
            side = SIDE * tiles
            if form != ("RGB", (side, side)):
                raise DataError(f"{path}: is {form}, expected {('RGB', (side, side))}")
            pixels = np.array(picture)  # (tiles * 32, tiles * 32, 3)
    except OSError as error:
        raise DataError(f"{path}: cannot be decoded ({error})") from error
    rows = torch.from_numpy(pixels).view(tiles, SIDE, tiles, SIDE, 3)
    return rows.permute(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)


def read_labels(path: Path, *, sha256: str, count: int) -> Tensor:
    """Class numbers, (count,), int64.

    Raises:
        DataError: the checksum is another one, or the file holds no `count` bytes from 0 to 9.
    """
    data = read_checked(path, sha256)
    try:
        labels = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: is no npy file ({error})") from error
    if not isinstance(labels, np.ndarray) or (labels.dtype, labels.shape) != (np.uint8, (count,)):
        found = getattr(labels, "dtype", type(labels).__name__), getattr(labels, "shape", ())
        raise DataError(f"{path}: holds {found[0]} of shape {found[1]}, expected {count} bytes")
    if labels.max() >= CLASSES:
        raise DataError(f"{path}: holds the class {labels.max()}, expected 0 to {CLASSES - 1}")
    return torch.from_numpy(labels).long()
