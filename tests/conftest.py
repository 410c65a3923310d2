"""What tests of several rooms need."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Sums depend on the number of threads, and tests compare bytes with those of other processes.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# A busy machine is no failure: no test of ours is about time. CI tries the same examples each time.
settings.register_profile("tersor", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("tersor")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with `mnist` and `fashion-mnist` in it, or a skip that says how to give one."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TERSOR_DATA") or beside)
    if not (folder / "mnist").is_dir():
        pytest.skip("no data: TERSOR_DATA must name a folder that holds mnist/")
    return folder
