"""Files: the smallest lossless `.terse` for any state dict, and what its bytes are made of."""

from tersor.store.accounts import PaperAccounting, accounting, paper_accounting
from tersor.store.container import metadata
from tersor.store.convert import pack, read_tensors, unpack
from tersor.store.inspection import Inspection, TensorInfo, inspect
from tersor.store.loading import Reader, load, load_into, open_, verify
from tersor.store.part_entries import PartEntries
from tersor.store.relative import RelativeIndex, csr_index, relative_index
from tersor.store.saving import save

__all__ = [
    "Inspection",
    "PaperAccounting",
    "PartEntries",
    "Reader",
    "RelativeIndex",
    "TensorInfo",
    "accounting",
    "csr_index",
    "inspect",
    "load",
    "load_into",
    "metadata",
    "open_",
    "pack",
    "paper_accounting",
    "read_tensors",
    "relative_index",
    "save",
    "unpack",
    "verify",
]
