"""The shared suite: every quantizer passes it, with its defaults and with other settings."""

import pytest

from tersor.quantize import (
    FORMATS,
    QUANTIZERS,
    RANGES,
    Affine,
    Binary,
    DynamicFixedPoint,
    FixedPoint,
    FloatFormat,
    KMeans,
    OutlierAware,
    PowerOfTwo,
    Product,
    Residual,
    Ternary,
)
from tersor.testing import check_quantizer

# Where a check does not apply, and why.
SHARED = {name: {} for name in QUANTIZERS}
SHARED["s2fp8"] = {"nearest": False}  # the logarithm is squeezed before it is rounded
SHARED["ternary"] = {"nearest": False}  # the threshold is a rule's
SHARED["dorefa"] = {"nearest": False}  # tanh squeezes the weights before they are rounded

OTHERS = [
    *(KMeans(3, init) for init in ("linear", "density", "random", "exact")),
    KMeans(3, granularity="channel"),
    KMeans(2, "exact", granularity=3),
    *(Affine(3, "group", 5, range=name) for name in RANGES),
    *(Affine(3, "channel", symmetric=False, range=name) for name in RANGES),
    Affine(1, "tensor", symmetric=False),
    Affine(16, "tensor"),
    *FORMATS.values(),
    FloatFormat(4, 3, granularity="group", group=5),
    FloatFormat(2, 1, "none", granularity="channel"),
    FixedPoint(3, 3),
    DynamicFixedPoint(4, 0.05, "group", 5),
    OutlierAware(0.1, KMeans(2)),
    Binary("tensor"),
    Binary(scale=1.0),
    Ternary("channel", "exact"),
    Ternary("tensor", "exact"),
    PowerOfTwo(3, "channel"),
    PowerOfTwo(2),
]

VECTORS = [  # what is kept of a subvector is no subvector, so under masks they are not idempotent
    Product(k=4, dimension=3),
    Product(k=4, dimension=5, codebook="position"),
    Residual(3, k=4, dimension=4),
]


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_quantizer_passes_the_shared_suite(name):
    check_quantizer(QUANTIZERS[name], **SHARED[name])


@pytest.mark.parametrize("quantizer", OTHERS, ids=repr)
def test_other_settings_pass_the_shared_suite(quantizer):
    check_quantizer(lambda: quantizer)


@pytest.mark.parametrize("quantizer", VECTORS, ids=repr)
def test_quantizers_of_subvectors_pass_the_shared_suite(quantizer):
    check_quantizer(lambda: quantizer, idempotent=False)
