"""The shared suites, for what you write yourself: each check says in one sentence what is wrong.

Nothing here is specific to a test framework.
"""

from tersor.testing.criteria import TOLERANCE, check_criterion, example_data, example_network
from tersor.testing.quantizers import check_quantizer

__all__ = ["TOLERANCE", "check_criterion", "check_quantizer", "example_data", "example_network"]
