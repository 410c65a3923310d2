"""What compression really gained: sizes, multiply-accumulates, latency, error; one report."""

from tersor.measure.connectivity import Path, instability, path_between
from tersor.measure.counting import Macs, macs
from tersor.measure.error import Error, evaluate
from tersor.measure.jacobian import Spectrum, jacobian_spectrum, layer_spectra
from tersor.measure.loss import mean_loss
from tersor.measure.overview import measure
from tersor.measure.sizes import Size, TensorSize, file_bytes, size
from tersor.measure.timing import Latency, latency

__all__ = [
    "Error",
    "Latency",
    "Macs",
    "Path",
    "Size",
    "Spectrum",
    "TensorSize",
    "evaluate",
    "file_bytes",
    "instability",
    "jacobian_spectrum",
    "latency",
    "layer_spectra",
    "macs",
    "mean_loss",
    "measure",
    "path_between",
    "size",
]
