"""MNIST and Fashion-MNIST from the four original idx files, with a fixed validation split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.core.seeding import generator
from tersor.tasks.batches import evaluation_loader, split, training_loader
from tersor.tasks.data_files import Folder, find_files
from tersor.tasks.idx import read_idx
from tersor.tasks.task import Task

TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
TRAIN_LABELS = "train-labels-idx1-ubyte.gz"
TEST_IMAGES = "t10k-images-idx3-ubyte.gz"
TEST_LABELS = "t10k-labels-idx1-ubyte.gz"


@dataclass(frozen=True)
class IdxSet:
    """Four idx files: what they are called, what they must hold, how pixels are standardised.

    Args:
        name: of the task, and of its folder.
        title: as messages call it.
        sha256: file name to checksum.
        mean, std: of the training pixels, scaled to [0, 1].
        train, held_out, test: samples of the training files, of those the ones held out for
            validation, and samples of the test files.
    """

    name: str
    title: str
    sha256: dict[str, str]
    mean: float
    std: float
    train: int = 60_000
    held_out: int = 5_000
    test: int = 10_000


MNIST = IdxSet(
    "mnist",
    "MNIST",
    {
        TRAIN_IMAGES: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        TRAIN_LABELS: "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        TEST_IMAGES: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        TEST_LABELS: "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    mean=0.1307,
    std=0.3081,
)

FASHION_MNIST = IdxSet(
    "fashion-mnist",
    "Fashion-MNIST",
    {
        TRAIN_IMAGES: "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        TRAIN_LABELS: "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        TEST_IMAGES: "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        TEST_LABELS: "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    mean=0.2860,
    std=0.3530,
)


def mnist(data_dir: Folder | None = None, batch_size: int | None = None) -> Task:
    """Handwritten digits, (1, 28, 28): 55,000 / 5,000 / 10,000 images of ten classes."""
    return load_idx_set(MNIST, data_dir, batch_size)


def fashion_mnist(data_dir: Folder | None = None, batch_size: int | None = None) -> Task:
    """Articles of clothing, (1, 28, 28): 55,000 / 5,000 / 10,000 images of ten classes."""
    return load_idx_set(FASHION_MNIST, data_dir, batch_size)


def load_idx_set(
    source: IdxSet, data_dir: Folder | None = None, batch_size: int | None = None
) -> Task:
    """The task of four idx files; see `load_task` for the arguments and the errors."""
    paths = find_files(source.title, source.name, source.sha256, data_dir)

    def read(name: str, *shape: int) -> Tensor:
        return read_idx(paths[name], sha256=source.sha256[name], shape=shape)

    def inputs(pixels: Tensor) -> Tensor:  # float32: cutting batches out of it is fastest
        scaled = pixels.unsqueeze(1).float().div_(255)  # (N, 1, 28, 28)
        return scaled.sub_(source.mean).div_(source.std)

    images = inputs(read(TRAIN_IMAGES, source.train, 28, 28))
    labels = read(TRAIN_LABELS, source.train).long()
    test_images = inputs(read(TEST_IMAGES, source.test, 28, 28))
    test_labels = read(TEST_LABELS, source.test).long()
    train, validation = split_indices(source)
    return Task(
        source.name,
        training_loader(
            images[train], labels[train], batch_size=128 if batch_size is None else batch_size
        ),
        evaluation_loader(images[validation], labels[validation]),
        evaluation_loader(test_images, test_labels),
    )


def split_indices(source: IdxSet) -> list[torch.Tensor]:
    """Indices of the training files for training and for validation; no user's seed moves them."""
    return split(source.train, (source.held_out,), generator(0, source.name, "validation"))
