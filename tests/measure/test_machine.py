import os

import pytest
import torch

from tersor.measure.machine import machine


def test_the_state_of_denormals_is_told():
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    try:
        assert machine()["denormals"] == "flushed to zero"
    finally:
        torch.set_flush_denormal(False)
    assert machine()["denormals"] == "computed with, which is slow"


def test_the_cores_that_a_process_may_use_are_those_it_is_bound_to():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system binds no process to a core")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, [min(before)])
        assert machine()["cores to use"] == 1
    finally:
        os.sched_setaffinity(0, before)
    assert machine()["cores"] == os.cpu_count()
