"""tersor: train, prune, quantise and share networks, and ship them as files that are small.

>>> from torch import nn
>>> import tersor
>>> model = nn.Linear(64, 64)
>>> masks, _ = tersor.prune_(model, density=0.1)
>>> report = tersor.quantize_(model, 4, masks=masks)
"""

from tersor.compress import Recipe, Result, compress, read_recipe
from tersor.core import HeldMasks, MaskSet, Report, prunable
from tersor.core.errors import (
    ConfigError,
    DataError,
    FormatError,
    MissingExtraError,
    StorageError,
    TersorError,
    TrainingError,
)
from tersor.core.seeding import seed_everything
from tersor.factorize import factorize_, fold_
from tersor.measure import evaluate
from tersor.prune import GradualPruner, ScoringData, prune_
from tersor.quantize import CodebookTuner, codebooks_of, quantize_
from tersor.run import deploy, plan_of
from tersor.store import inspect, load, open_, pack, save, unpack, verify
from tersor.tasks import Task, build_model, load_task
from tersor.train import Stepper, Training, fit
from tersor.version import __version__

__all__ = [
    "CodebookTuner",
    "ConfigError",
    "DataError",
    "FormatError",
    "GradualPruner",
    "HeldMasks",
    "MaskSet",
    "MissingExtraError",
    "Recipe",
    "Report",
    "Result",
    "ScoringData",
    "Stepper",
    "StorageError",
    "Task",
    "TersorError",
    "Training",
    "TrainingError",
    "__version__",
    "build_model",
    "codebooks_of",
    "compress",
    "deploy",
    "evaluate",
    "factorize_",
    "fit",
    "fold_",
    "inspect",
    "load",
    "load_task",
    "open_",
    "pack",
    "plan_of",
    "prunable",
    "prune_",
    "quantize_",
    "read_recipe",
    "save",
    "seed_everything",
    "unpack",
    "verify",
]
