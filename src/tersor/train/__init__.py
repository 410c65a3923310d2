"""Training: one loop on Accelerate that methods attach to and that can be killed and resumed."""

from tersor.train.fit import fit, steps_per_epoch
from tersor.train.processes import is_main_process, wait_for_everyone
from tersor.train.runlog import RunLog
from tersor.train.settings import Training
from tersor.train.stepping import Stepper

__all__ = [
    "RunLog",
    "Stepper",
    "Training",
    "fit",
    "is_main_process",
    "steps_per_epoch",
    "wait_for_everyone",
]
