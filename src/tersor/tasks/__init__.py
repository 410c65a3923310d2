"""Data sets and reference models: what a network is trained for and judged by. No methods."""

from tersor.tasks.catalog import INPUT_SHAPES, TASKS, load_task
from tersor.tasks.networks import MODELS, build_model
from tersor.tasks.task import Batches, Task, top1_mistakes

__all__ = [
    "INPUT_SHAPES",
    "MODELS",
    "TASKS",
    "Batches",
    "Task",
    "build_model",
    "load_task",
    "top1_mistakes",
]
