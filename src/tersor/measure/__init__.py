"""What compression really gained: sizes, multiply-accumulates, latency, error; one report."""

from tersor.measure.counting import Macs, macs
from tersor.measure.error import Error, evaluate
from tersor.measure.overview import measure
from tersor.measure.sizes import Size, TensorSize, file_bytes, size
from tersor.measure.timing import Latency, latency

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
