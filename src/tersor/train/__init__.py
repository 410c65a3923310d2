"""Training: one loop on Accelerate that methods attach to and that can be killed and resumed."""

from tersor.train.fit import fit, steps_per_epoch
from tersor.train.progress import RunLog
from tersor.train.settings import Training

__all__ = ["RunLog", "Training", "fit", "steps_per_epoch"]
