"""Data sets and reference models: what a network is trained for and judged by. No methods."""

from tersor.tasks.catalog import INPUT_SHAPES, TASKS, VOCABULARIES, load_task, network_for
from tersor.tasks.networks import MODELS, build_model
from tersor.tasks.task import Batches, Task, top1_mistakes

__all__ = [
    "INPUT_SHAPES",
    "MODELS",
    "TASKS",
    "VOCABULARIES",
    "Batches",
    "Task",
    "build_model",
    "load_task",
    "network_for",
    "top1_mistakes",
]
