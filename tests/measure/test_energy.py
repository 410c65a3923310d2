import itertools
import time

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.measure import estimate_energy, macs, rapl


@pytest.fixture
def counted():
    """1,000 multiply-accumulates with a weight that is three quarters zeros, and 200 with one."""
    model = nn.Sequential(nn.Linear(40, 25, bias=False), nn.Linear(25, 8, bias=False))
    with torch.no_grad():
        model[0].weight.zero_()[:, ::4] = 1
    return macs(model, torch.zeros(1, 40))


def test_a_dense_pass_pays_for_every_multiplication_and_every_byte(counted):
    found = estimate_energy(counted, 4_800)
    assert found.arithmetic_uj == pytest.approx(1_200 * 4.6e-6)
    assert found.memory_uj == pytest.approx(1_200 * 640e-6)
    assert found.sample_uj == found.total_uj == pytest.approx(1_200 * 644.6e-6)


def test_zeros_are_free_only_where_the_kernel_skips_them(counted):
    found = estimate_energy(counted, 4_800, skips_zeros=["0.weight"])
    assert found.arithmetic_uj == pytest.approx((250 + 200) * 4.6e-6)
    assert found.memory_uj == estimate_energy(counted, 4_800).memory_uj


def test_a_batch_shares_the_way_of_the_weights_and_not_the_arithmetic(counted):
    one, ten = estimate_energy(counted, 4_800), estimate_energy(counted, 4_800, batch=10)
    assert ten.memory_uj == one.memory_uj
    assert ten.arithmetic_uj == pytest.approx(10 * one.arithmetic_uj)
    assert ten.sample_uj == pytest.approx(one.arithmetic_uj + one.memory_uj / 10)


def test_what_cannot_be_estimated_is_refused(counted):
    with pytest.raises(ConfigError, match="batch 0, expected 1 or more"):
        estimate_energy(counted, 1, batch=0)
    with pytest.raises(ConfigError, match=r"no weight '0.wieght' was counted; did you mean '0.w"):
        estimate_energy(counted, 1, skips_zeros=["0.wieght"])


@pytest.fixture
def meter(tmp_path):
    """A folder as the kernel's: two packages, a core, memory, and the whole platform."""
    zones = {
        "intel-rapl": None,  # the control type itself has no meter
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:0:2": "uncore",
        "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",
    }
    for place, name in zones.items():
        (tmp_path / place).mkdir()
        if name is not None:
            (tmp_path / place / "name").write_text(name + "\n")
            (tmp_path / place / "energy_uj").write_text("1000000\n")
            (tmp_path / place / "max_energy_range_uj").write_text("262143328850\n")

    def use(place: str, microjoules: int) -> None:
        file = tmp_path / place / "energy_uj"
        file.write_text(f"{(int(file.read_text()) + microjoules) % 262143328850}\n")

    return tmp_path, use


def test_packages_and_their_memory_are_summed_and_their_parts_are_not(meter):
    folder, use = meter

    def one_pass():
        use("intel-rapl:0", 3_000_000)
        use("intel-rapl:0:0", 2_500_000)
        use("intel-rapl:0:1", 500_000)
        use("intel-rapl:0:2", 250_000)
        use("intel-rapl:1", 1_000_000)
        use("intel-rapl:2", 9_000_000)

    found = rapl(one_pass, seconds=0, folder=folder)
    assert found.by_domain == {"package-0": 3.0, "package-0 dram": 0.5, "package-1": 1.0}
    assert (found.joules, found.passes, found.missing) == (4.5, 1, "")


def test_passes_are_run_until_the_time_is_over(meter, monkeypatch):
    folder, use = meter
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: 0.25 * next(ticks))
    found = rapl(lambda: use("intel-rapl:0", 1_000_000), seconds=1.0, folder=folder)
    assert (found.passes, found.seconds) == (4, 1.0)
    assert found.joules == pytest.approx(4.0)


def test_a_counter_that_begins_anew_is_followed(meter):
    folder, use = meter
    (folder / "intel-rapl:1" / "energy_uj").write_text(f"{262143328850 - 1_000_000}\n")
    found = rapl(lambda: use("intel-rapl:1", 1_500_000), seconds=0, folder=folder)
    assert int((folder / "intel-rapl:1" / "energy_uj").read_text()) == 500_000
    assert found.by_domain["package-1"] == pytest.approx(1.5)


@pytest.mark.parametrize("there", [True, False])
def test_without_a_meter_nothing_runs_and_the_reason_is_told(there, tmp_path):
    folder = tmp_path if there else tmp_path / "powercap"
    found = rapl(lambda: pytest.fail("a pass was run"), folder=folder)
    assert found.joules is None
    assert found.missing.startswith(f"no RAPL domain in {folder}")


def test_a_meter_that_may_not_be_read_is_named(meter, monkeypatch):
    folder, _ = meter
    read = type(folder).read_text

    def refuse(self, *arguments, **options):
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(self, *arguments, **options)

    monkeypatch.setattr(type(folder), "read_text", refuse)
    found = rapl(lambda: pytest.fail("a pass was run"), folder=folder)
    assert found.joules is None
    assert "intel-rapl:0/energy_uj cannot be read (Permission denied); root" in found.missing
