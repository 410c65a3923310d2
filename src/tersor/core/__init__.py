"""What every room uses: weights by name, masks, seeds, errors, reports, safe files."""

from tersor.core.masks import HeldMasks, MaskSet
from tersor.core.report import Report
from tersor.core.weights import Weight, prunable, survey

__all__ = ["HeldMasks", "MaskSet", "Report", "Weight", "prunable", "survey"]
