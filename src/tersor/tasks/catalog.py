"""The tasks that come with tersor, by name."""

from __future__ import annotations

import os
from collections.abc import Callable

from tersor.core.errors import ConfigError, did_you_mean
from tersor.tasks.cifar import cifar10
from tersor.tasks.digits import digits
from tersor.tasks.mnist import fashion_mnist, mnist
from tersor.tasks.task import Task

TASKS: dict[str, Callable[[str | os.PathLike[str] | None, int | None], Task]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
}
"""Name of a task to the function that loads it, called with data folder and batch size."""

INPUT_SHAPES: dict[str, tuple[int, ...]] = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
}
"""Name of a task to the shape of one sample, (channels, height, width)."""


def load_task(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
) -> Task:
    """Load a task by name. Which samples are for validation is fixed, whatever the seed.

    Args:
        name: a key of `TASKS`.
        data_dir: the folder of the data, or one that holds it as `mnist`, `fashion-mnist` or
            `cifar10`; without it the environment variable TERSOR_DATA, else `data`. Digits need
            none.
        batch_size: samples a training batch; by default 128, for digits 64. torch's global
            generator decides their order: `torch.manual_seed` before an epoch fixes it.

    Raises:
        ConfigError: there is no task of this name, or `batch_size` is below 1.
        DataError: a file is missing, damaged or another one.
        MissingExtraError: digits without scikit-learn, or cifar10 without Pillow.

    >>> task = load_task("digits")
    >>> task.example_input.shape, len(task.test.dataset)
    (torch.Size([1, 1, 8, 8]), 300)
    """
    if name not in TASKS:
        raise ConfigError(f"load_task: unknown task {name!r}; {did_you_mean(name, TASKS)}")
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ConfigError(
            f"load_task: batch_size {batch_size!r}, expected a whole number, 1 or more"
        )
    return TASKS[name](data_dir, batch_size)
