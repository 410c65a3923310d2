"""Energy of forward passes: an estimate by a stated model, and what the processor's meter says.

The estimate knows no machine: it is a way to weigh arithmetic against memory. Every number of it
is called an estimate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from tersor.core.errors import ConfigError, did_you_mean
from tersor.measure.counting import Macs

MULTIPLY_PJ, ADD_PJ = 3.7, 0.9
"""A float32 multiplication and addition at 45 nm. Source: Horowitz 2014, ISSCC, figure 1.1.9."""

DRAM_WORD_PJ = 640.0
"""32 bits read from DRAM. Source: Han et al. 2015, arXiv 1506.02626, table 1, after Horowitz."""

MODEL = (
    f"Estimate, not measured: {MULTIPLY_PJ} + {ADD_PJ} pJ a multiply-accumulate in float32 "
    f"(Horowitz 2014, 45 nm), {DRAM_WORD_PJ:g} pJ for 4 bytes of weights from DRAM, each read once "
    "a pass (Han et al. 2015); activations, caches and idle power are not in it."
)

_POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class EnergyEstimate:
    """Microjoules of one pass, by the model of `MODEL`.

    Args:
        arithmetic_uj: of the multiply-accumulates.
        memory_uj: of the weights' way from DRAM.
        batch: samples of the pass.
    """

    arithmetic_uj: float
    memory_uj: float
    batch: int

    @property
    def total_uj(self) -> float:
        return self.arithmetic_uj + self.memory_uj

    @property
    def sample_uj(self) -> float:
        """For each sample: a larger batch shares the way of the weights."""
        return self.total_uj / self.batch


def estimate_energy(
    counted: Macs, weight_bytes: int, *, batch: int = 1, skips_zeros: Collection[str] = ()
) -> EnergyEstimate:
    """Estimate the energy of one pass: its arithmetic, and its weights read once from DRAM.

    E = macs * batch * (3.7 + 0.9) pJ + weight_bytes / 4 * 640 pJ

    Args:
        counted: of one input, from `macs`.
        weight_bytes: that one pass reads, in whatever form they are stored.
        batch: samples of the pass.
        skips_zeros: names of the weights whose kernel does nothing where they are zero; of all
            others every multiply-accumulate counts.

    Raises:
        ConfigError: `batch` is below 1, or a name is not among the counted weights.

    >>> macs = Macs({"fc.weight": 1000}, {"fc.weight": 100}, other=0, not_counted={})
    >>> round(estimate_energy(macs, 4000).total_uj, 5)
    0.6446
    >>> round(estimate_energy(macs, 500, skips_zeros=["fc.weight"]).total_uj, 5)
    0.08046
    """
    if batch < 1:
        raise ConfigError(f"estimate_energy: batch {batch}, expected 1 or more")
    for name in skips_zeros:
        if name not in counted.by_weight:
            known = did_you_mean(name, counted.by_weight)
            raise ConfigError(f"estimate_energy: no weight {name!r} was counted; {known}")
    done = counted.other + sum(
        (counted.effective_by_weight if name in skips_zeros else counted.by_weight)[name]
        for name in counted.by_weight
    )
    arithmetic = done * batch * (MULTIPLY_PJ + ADD_PJ)
    return EnergyEstimate(arithmetic / 1e6, weight_bytes / 4 * DRAM_WORD_PJ / 1e6, batch)


@dataclass(frozen=True)
class Rapl:
    """What the processor's own meter (RAPL) counted while passes ran, other programs included.

    Args:
        joules: of the packages and their memory, or None if there is no meter to read.
        by_domain: name of a package or of its memory to its joules.
        seconds: how long the passes took.
        passes: how many there were.
        missing: why there is no number, or "".
    """

    joules: float | None
    by_domain: dict[str, float]
    seconds: float
    passes: int
    missing: str = ""


def rapl(one_pass: Callable[[], object], *, seconds: float = 1.0, folder: Path = _POWERCAP) -> Rapl:
    """Run passes for a while and read the processor's energy meter before and after.

    Counted are packages and memory (`dram`), not the cores, which are part of a package. The meter
    has one reading a millisecond and starts again at zero after minutes: `seconds` of 0.1 to 60.

    Args:
        one_pass: a forward pass, run at least once.
        seconds: how long to go on.
        folder: of the Linux power-capping interface.

    Returns:
        The joules, or why there are none; without a meter nothing is run.
    """
    domains, missing = _domains(folder)
    if missing:
        return Rapl(None, {}, 0.0, 0, missing)
    before = {place: _number(place / "energy_uj") for place in domains}
    start, passes = time.perf_counter(), 0
    while True:
        one_pass()
        passes += 1
        took = time.perf_counter() - start
        if took >= seconds:
            break
    by_domain: dict[str, float] = {}
    for place, name in domains.items():
        used = _number(place / "energy_uj") - before[place]
        if used < 0:  # the counter has begun anew
            used += _number(place / "max_energy_range_uj")
        by_domain[name] = used / 1e6
    return Rapl(sum(by_domain.values()), by_domain, took, passes)


def _domains(folder: Path) -> tuple[dict[Path, str], str]:
    """The folders to read and what each is called, or why there are none."""
    zones = {
        place: (place / "name").read_text("ascii", errors="replace").strip()
        for place in sorted(folder.glob("intel-rapl:*"))
        if (place / "name").is_file() and (place / "energy_uj").is_file()
    }
    found: dict[Path, str] = {}
    for place, name in zones.items():
        # intel-rapl:0 is a package, intel-rapl:0:1 a part of it. psys would be both once more.
        package = place.parent / place.name.rpartition(":")[0]
        if place.name.count(":") == 1 and name.startswith("package"):
            found[place] = name
        elif name == "dram" and place.name.count(":") == 2:
            found[place] = f"{zones.get(package, package.name)} dram"
    if not found:
        return {}, f"no RAPL domain in {folder}: this system shows no energy meter"
    for place in found:
        try:
            _number(place / "energy_uj")
        except OSError as error:
            return {}, f"{place / 'energy_uj'} cannot be read ({error.strerror}); root may read it"
    return found, ""


def _number(file: Path) -> int:
    return int(file.read_text("ascii"))
