import pytest
import torch

from tersor.core.machine import flushes_denormals, processor


def test_the_state_of_denormals_is_found_out():
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    try:
        assert flushes_denormals()
    finally:
        torch.set_flush_denormal(False)
    assert not flushes_denormals()


def test_the_name_of_the_processor_is_read_where_linux_tells_it(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus 3000: fast\n")
    assert processor(tmp_path / "cpuinfo") == "Abacus 3000: fast"
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n")  # as on Arm
    assert processor(tmp_path / "cpuinfo") == processor(tmp_path / "not there") != ""
