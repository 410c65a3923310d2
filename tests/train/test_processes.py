import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tersor.train import fit, is_main_process, steps_per_epoch, wait_for_everyone
from tersor.train.processes import _Share, share_of

SCRIPT = Path(__file__).with_name("two_processes.py")


def load_script():
    spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> tuple[Path, dict, dict, str]:
    """The folder, what each of two processes ended with, and what was shown."""
    folder = tmp_path_factory.mktemp("launched")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(SCRIPT), str(folder)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr
    return folder, torch.load(folder / "rank0"), torch.load(folder / "rank1"), done.stderr


def test_two_processes_end_with_the_same_bits(launched):
    _, one, other, _ = launched
    assert one["processes"] == 2
    for run in ("list", "odd", "pruned"):
        assert one[run].keys() == other[run].keys()
        for name, tensor in one[run].items():
            assert tensor.numpy().tobytes() == other[run][name].numpy().tobytes(), (run, name)
    assert one["summary"] == other["summary"]


def test_two_processes_are_one_with_batches_twice_as_large(launched):
    _, found, _, _ = launched
    model = script.net()
    fit(model, script.task(script.batches(16)), script.SGD, verbose=False)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found["list"][name], tensor)


def test_of_seven_batches_each_process_takes_four(launched):
    _, found, _, _ = launched
    assert found["odd steps"] == (12, 4)
    in_pairs, batches = [], script.batches(8, 56)
    for first, second in zip(batches[::2], [*batches[1::2], batches[0]], strict=True):
        in_pairs.append(tuple(map(torch.cat, zip(first, second, strict=True))))
    model = script.net()
    fit(model, script.task(in_pairs), script.SGD, verbose=False)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found["odd"][name], tensor)


def test_two_processes_train_and_prune(launched):
    _, found, _, _ = launched
    assert found["summary"]["optimizer steps"] == 40
    assert found["summary"]["validation error %"] <= 10
    weights = [tensor for name, tensor in found["pruned"].items() if name.endswith("weight")]
    assert sum(int((w != 0).sum()) for w in weights) == round(0.3 * (4 * 32 + 32 * 3))


def test_one_of_two_processes_writes(launched):
    folder, _, _, shown = launched
    assert len((folder / "log").read_text().splitlines()) == 10
    assert sum("epoch 1/3" in line for line in shown.splitlines()) == 1


@pytest.mark.parametrize("total", range(1, 12))
@pytest.mark.parametrize("count", [2, 3, 4])
def test_all_processes_get_as_many_and_together_everything(total, count):
    states = [SimpleNamespace(process_index=i, num_processes=count) for i in range(count)]
    shares = [list(_Share(range(total), state)) for state in states]
    assert {len(share) for share in shares} == {-(-total // count)}
    rounds = [batch for one in zip(*shares, strict=True) for batch in one]
    assert rounds[:total] == list(range(total))
    assert rounds[total:] == [n % total for n in range(len(rounds) - total)]


def test_a_single_process_has_it_all():
    batches = [1, 2, 3]
    assert share_of(batches) is batches
    assert is_main_process()
    assert steps_per_epoch(script.task(script.batches(8))) == 8
    wait_for_everyone()
