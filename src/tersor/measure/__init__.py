"""What compression really gained: sizes, multiply-accumulates, latency, error; one report."""

from tersor.measure.error import Error, evaluate
from tersor.measure.latency import Latency, latency
from tersor.measure.macs import Macs, macs
from tersor.measure.overview import measure
from tersor.measure.size import Size, TensorSize, file_bytes, size

__all__ = [
    "Error",
    "Latency",
    "Macs",
    "Size",
    "TensorSize",
    "evaluate",
    "file_bytes",
    "latency",
    "macs",
    "measure",
    "size",
]
