"""What a run gives back: the file, its size, and the errors before and after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tersor.core.report import Report
from tersor.measure import Error


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Args:
        file: the `.terse` file.
        file_bytes: its size, as the operating system has it.
        dense_bytes: the plain tensors of the network, without any header.
        reference, compressed: mistakes on the test set, before and after.
        seconds: the whole run, interrupted parts included.
        seed: what decided everything random.
        digest: the name of the run, a hash of all that decides it.
        report: all of it, with a section for each step.
    """

    file: Path
    file_bytes: int
    dense_bytes: int
    reference: Error
    compressed: Error
    seconds: float
    seed: int
    digest: str
    report: Report

    @property
    def ratio(self) -> float:
        """Compression ratio: dense bytes / file bytes."""
        return self.dense_bytes / self.file_bytes

    @property
    def reference_error(self) -> float:
        """Percent of the test set that the network got wrong before."""
        return self.reference.percent

    @property
    def error(self) -> float:
        """Percent of the test set that the network of the file gets wrong."""
        return self.compressed.percent

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain data; errors in percent of the test set."""
        return {
            "file": str(self.file),
            "file_bytes": self.file_bytes,
            "dense_bytes": self.dense_bytes,
            "ratio": round(self.ratio, 3),
            "reference_error": self.reference_error,
            "error": self.error,
            "test_samples": self.compressed.samples,
            "seconds": round(self.seconds, 2),
            "seed": self.seed,
            "digest": self.digest,
            "report": self.report.to_dict(),
        }
