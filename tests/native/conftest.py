"""Every instruction set that this processor has; and the helpers beside these tests."""

import sys
from pathlib import Path

import pytest

from tersor import _native

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(params=_native.isa_names())
def isa(request):
    _native.force_isa(request.param)
    yield request.param
    _native.force_isa("")
