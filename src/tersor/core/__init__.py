"""What every room uses: weights by name, masks, seeds, errors, reports, safe files."""

from tersor.core.masks import MaskSet
from tersor.core.report import Report
from tersor.core.weights import Weight, prunable, survey

__all__ = ["MaskSet", "Report", "Weight", "prunable", "survey"]
