"""What compression really gained: sizes, work, time, memory, energy, error; one report."""

from tersor.measure.connectivity import Path, instability, path_between
from tersor.measure.counting import Macs, macs
from tersor.measure.energy import EnergyEstimate, Rapl, estimate_energy, rapl
from tersor.measure.error import Error, evaluate
from tersor.measure.jacobian import Spectrum, jacobian_spectrum, layer_spectra
from tersor.measure.loss import mean_loss
from tersor.measure.memory import Peak, peak_memory, weight_bytes
from tersor.measure.overview import measure
from tersor.measure.sizes import Size, TensorSize, file_bytes, size
from tersor.measure.timing import Latency, latencies, latency, layer_times

__all__ = [
    "EnergyEstimate",
    "Error",
    "Latency",
    "Macs",
    "Path",
    "Peak",
    "Rapl",
    "Size",
    "Spectrum",
    "TensorSize",
    "estimate_energy",
    "evaluate",
    "file_bytes",
    "instability",
    "jacobian_spectrum",
    "latencies",
    "latency",
    "layer_spectra",
    "layer_times",
    "macs",
    "mean_loss",
    "measure",
    "path_between",
    "peak_memory",
    "rapl",
    "size",
    "weight_bytes",
]
