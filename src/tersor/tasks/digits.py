"""Handwritten digits that come with scikit-learn: real data, there without a download."""

from __future__ import annotations

import os

import torch

from tersor.core.errors import MissingExtraError
from tersor.core.seeding import generator
from tersor.tasks.batches import evaluation_loader, split, training_loader
from tersor.tasks.task import Task

COUNT, VALIDATION, TEST = 1797, 300, 300


def digits(data_dir: str | os.PathLike[str] | None = None, batch_size: int | None = None) -> Task:
    """8 x 8 digits, (1, 8, 8): 1,197 / 300 / 300 images of ten classes; `data_dir` is not needed.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("the task digits", "scikit-learn", "train") from error
    pixels, classes = load_digits(return_X_y=True)  # (1797, 64), values 0 to 16
    inputs = torch.from_numpy(pixels).float().reshape(COUNT, 1, 8, 8).div_(16)
    inputs = inputs.sub_(0.3053).div_(0.3761)  # mean and standard deviation of all pixels
    targets = torch.from_numpy(classes).long()
    train, validation, test = split_indices()
    return Task(
        "digits",
        training_loader(
            inputs[train], targets[train], batch_size=64 if batch_size is None else batch_size
        ),
        evaluation_loader(inputs[validation], targets[validation]),
        evaluation_loader(inputs[test], targets[test]),
    )


def split_indices() -> list[torch.Tensor]:
    """Indices for training, validation and test; no user's seed moves them."""
    return split(COUNT, (VALIDATION, TEST), generator(0, "digits", "validation", "test"))
