"""The tasks that come with tersor, by name."""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import nn

from tersor.core.errors import ConfigError, did_you_mean
from tersor.tasks.cifar import cifar10
from tersor.tasks.digits import digits
from tersor.tasks.mnist import fashion_mnist, mnist
from tersor.tasks.networks import LANGUAGE_MODELS, MODELS, build_model
from tersor.tasks.task import Task
from tersor.tasks.text import (
    PTB,
    TINY_SHAKESPEARE,
    TOKENS,
    WIKITEXT_2,
    ptb,
    tiny_shakespeare,
    wikitext_2,
)

TASKS: dict[str, Callable[[str | os.PathLike[str] | None, int | None], Task]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "wikitext-2": wikitext_2,
    "ptb": ptb,
    "tinyshakespeare": tiny_shakespeare,
}
"""Name of a task to the function that loads it, called with data folder and batch size."""

INPUT_SHAPES: dict[str, tuple[int, ...]] = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "wikitext-2": (TOKENS,),
    "ptb": (TOKENS,),
    "tinyshakespeare": (TOKENS,),
}
"""Name of a task to the shape of one sample: (channels, height, width), of texts (tokens,)."""

VOCABULARIES: dict[str, int] = {s.name: s.vocabulary for s in (WIKITEXT_2, PTB, TINY_SHAKESPEARE)}
"""Name of a task of texts to the number of its tokens, which are as many classes."""


def network_for(task: str, name: str) -> nn.Module:
    """A network of `MODELS` for a task of `TASKS`, with fresh weights.

    Raises:
        ConfigError: there is no such network, or it cannot take these samples.

    >>> sum(p.numel() for p in network_for("cifar10", "resnet-20").parameters())
    272474
    """
    if name in MODELS and (task in VOCABULARIES) != (name in LANGUAGE_MODELS):
        what, fits = ("texts", LANGUAGE_MODELS) if task in VOCABULARIES else ("images", MODELS)
        names = ", ".join(n for n in fits if what == "texts" or n not in LANGUAGE_MODELS)
        raise ConfigError(f"model {name!r}: is none for {what}, as {task} has; one of: {names}")
    return build_model(name, input_shape=INPUT_SHAPES[task], classes=VOCABULARIES.get(task, 10))


def load_task(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
) -> Task:
    """Load a task by name. Which samples are for validation is fixed, whatever the seed.

    Args:
        name: a key of `TASKS`.
        data_dir: the folder of the data, or one that holds it as `mnist`, `fashion-mnist`,
            `cifar10` or `text/wikitext-2` and so on; without it the environment variable
            TERSOR_DATA, else `data`. Digits need none.
        batch_size: samples a training batch; by default 128, for digits 64, for texts 32.
            torch's global generator decides their order: `torch.manual_seed` before an epoch
            fixes it.

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
