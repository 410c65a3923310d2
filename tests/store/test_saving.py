import errno
import math
import os
import signal
import subprocess
import sys
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import reference_decoder
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from state_dicts import LARGE_SHAPES, SHAPES, assert_same, bits_of, sparse_codebook, state_dicts
from torch import nn

from tersor.core.errors import ConfigError, FormatError, StorageError
from tersor.store import load, metadata, open_, save, verify, words
from tersor.store.words import from_words, to_words

# Said once by torch when a complex32 tensor is made.
pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
QUIET = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=250
)


@QUIET
@given(state=state_dicts())
def test_any_state_dict_comes_back_bit_for_bit(state, tmp_path):
    save(state, tmp_path / "a.terse")
    assert_same(load(tmp_path / "a.terse"), state)


@settings(QUIET, max_examples=60)
@given(state=state_dicts(LARGE_SHAPES | SHAPES))
def test_the_reference_decoder_reads_the_same_bits(state, tmp_path):
    path = tmp_path / "a.terse"
    save(state, path)
    tensors, repeats, _ = reference_decoder.decode(path.read_bytes())
    assert list(tensors) == list(state)
    for name, tensor in load(path).items():
        assert tensors[name] == (str(tensor.dtype)[6:], tuple(tensor.shape), bits_of(tensor))
        assert bits_of(tensor) == bits_of(state[name])
    for name, (kind, source) in repeats.items():
        same_object = state[name] is state[source]
        assert kind == ("tied" if same_object else "copy")


def test_saving_twice_gives_the_same_bytes(tmp_path):
    state = {"w": sparse_codebook((30, 40), density=0.2, size=8), "e": torch.zeros(0)}
    state |= {"w2": state["w"], "w3": state["w"].clone(), "f": torch.zeros(0)}
    save(state, tmp_path / "a.terse")
    save(load(tmp_path / "a.terse"), tmp_path / "b.terse")
    assert (tmp_path / "a.terse").read_bytes() == (tmp_path / "b.terse").read_bytes()


def test_saving_leaves_the_tensors_as_they_were(tmp_path):
    model = nn.Linear(4, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save(model, tmp_path / "a.terse")
    assert_same(model.state_dict(), before)


def test_tied_tensors_come_back_as_one_and_equal_ones_as_two(tmp_path):
    weight = torch.randn(50, 20)
    state = {"a": weight, "b": weight, "c": weight.clone(), "d": weight.view(1000), "e": weight.T}
    report = save(state, tmp_path / "a.terse")
    back = load(tmp_path / "a.terse")
    assert_same(back, state)
    assert back["a"] is back["b"]
    assert len({t.data_ptr() for t in back.values()}) == 4
    assert [row["codec"] for row in report.rows][1:3] == ["tied to a", "same as a"]
    assert report.summary["file bytes"] < 3 * weight.nbytes + 300


def test_conjugate_and_negative_views_are_not_tied_to_their_base(tmp_path):
    base = torch.randn(4, dtype=torch.complex64)
    state = {"a": base, "b": base.conj(), "c": base.conj().imag}
    save(state, tmp_path / "a.terse")
    assert_same(load(tmp_path / "a.terse"), state)


def test_views_of_one_memory_at_different_places_are_separate(tmp_path):
    rows = torch.arange(6.0).view(2, 3)
    state = {"a": rows[0], "b": rows[1], "c": rows[:, 0], "d": rows[0, :2], "e": rows[0]}
    save(state, tmp_path / "a.terse")
    back = load(tmp_path / "a.terse")
    assert_same(back, state)
    assert [name for name in back if back[name] is back["a"]] == ["a", "e"]


def test_tensors_of_equal_bytes_but_other_dtype_or_shape_are_separate(tmp_path):
    zeros = torch.zeros(6)
    state = {"a": zeros, "b": zeros.view(torch.int32), "c": torch.zeros(2, 3), "d": zeros.clone()}
    report = save(state, tmp_path / "a.terse")
    assert [row["bytes"] for row in report.rows if "same" in str(row["codec"])] == [0]
    assert_same(load(tmp_path / "a.terse"), state)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([-0.0, 0.0] * 40),
        torch.tensor([0x7FC00001, -1, 0x7F800001, 0] * 20, dtype=torch.int32).view(torch.float32),
        torch.zeros(1).expand(300, 200),
        torch.full((1000,), float("nan")),
        torch.arange(70_000),
        torch.arange(65_536, dtype=torch.int32),
        torch.arange(-32_768, 32_768, dtype=torch.int16),
        torch.cat([torch.zeros(70_000), torch.ones(1)]),
    ],
)
def test_corner_values_come_back(tensor, tmp_path):
    save({"w": tensor}, tmp_path / "a.terse")
    assert_same(load(tmp_path / "a.terse"), {"w": tensor})


def test_constant_tensors_cost_a_few_bytes(tmp_path):
    for value in (0.0, -0.0, 1.5, float("nan")):
        report = save({"w": torch.full((1000, 1000), value)}, tmp_path / "a.terse")
        assert report.rows[0]["bytes"] <= 8
        assert (tmp_path / "a.terse").stat().st_size < 130


def test_regular_masks_cost_a_few_bytes_more_than_their_values(tmp_path):
    weight = torch.zeros(100, 40)
    weight[:, 3::4] = 0.25
    assert save({"w": weight}, tmp_path / "a.terse").rows[0]["bytes"] < 30


def test_the_header_of_lenet_300_100_takes_at_most_350_bytes(tmp_path):
    state = OrderedDict()
    for number, (out, inn, density) in enumerate(
        [(300, 784, 0.08), (100, 300, 0.09), (10, 100, 0.26)]
    ):
        weight = sparse_codebook((out, inn), density=density, size=64, seed=number)
        state |= {f"fc{number + 1}.weight": weight, f"fc{number + 1}.bias": torch.randn(out)}
    report = save(state, tmp_path / "a.terse", metadata={"task": "mnist", "model": "lenet-300-100"})
    assert report.summary["header bytes"] <= 350
    assert report.summary["file bytes"] == (tmp_path / "a.terse").stat().st_size
    assert report.summary["dense bytes"] == 1_066_440


def test_report_rows_add_up_to_the_file(tmp_path):
    report = save(nn.Linear(30, 20), tmp_path / "a.terse")
    assert sum(row["bytes"] for row in report.rows) == report.summary["tensor bytes"]
    total = report.summary["tensor bytes"] + report.summary["header bytes"]
    assert total == (tmp_path / "a.terse").stat().st_size


def test_metadata_comes_back(tmp_path):
    said = {"task": "digits", "näme": [1, 2.5, None, True, {"a": "\u2603"}], "deep": {"x": {}}}
    save({}, tmp_path / "a.terse", metadata=said)
    assert metadata(tmp_path / "a.terse") == said
    assert reference_decoder.decode((tmp_path / "a.terse").read_bytes())[2] == said
    save({}, tmp_path / "a.terse")
    assert metadata(tmp_path / "a.terse") == {}


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"a": (1, 2)}, r"metadata: .*would come back as"),
        ({1: "a"}, r"metadata: .*would come back as"),
        ({"a": float("inf")}, "metadata: not JSON"),
        ({"a": torch.zeros(1)}, "metadata: not JSON"),
        ({"a": "\ud800"}, "not valid Unicode"),
    ],
)
def test_metadata_that_would_change_is_refused(said, match, tmp_path):
    with pytest.raises(ConfigError, match=match):
        save({}, tmp_path / "a.terse", metadata=said)
    assert list(tmp_path.iterdir()) == []


class Special(torch.Tensor):
    pass


@pytest.mark.filterwarnings("ignore:.*quantiz")
@pytest.mark.parametrize(
    ("value", "match"),
    [
        (3, r"save: 'x': a int, expected a tensor"),
        ({"y": torch.zeros(1)}, r"save: 'x': a dict, expected a tensor"),
        (torch.zeros(2).as_subclass(Special), r"save: 'x': a tensor subclass Special"),
        (nn.LazyLinear(3).weight, r"save: 'x': a tensor subclass UninitializedParameter"),
        (torch.eye(3).to_sparse(), r"save: 'x': layout torch.sparse_coo, .*to_dense"),
        (torch.zeros(2, device="meta"), r"save: 'x': on the meta device"),
    ],
)
def test_what_is_no_plain_tensor_is_refused_by_name(value, match, tmp_path):
    with pytest.raises(ConfigError, match=match):
        save({"a": torch.zeros(1), "x": value}, tmp_path / "a.terse")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
def test_quantized_tensors_are_refused_by_name(tmp_path):
    value = torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)
    with pytest.raises(ConfigError, match=r"save: 'x': dtype torch.qint8 is quantized"):
        save({"x": value}, tmp_path / "a.terse")


def test_names_must_be_text_and_states_mappings(tmp_path):
    with pytest.raises(ConfigError, match=r"the name 3 is a int"):
        save({3: torch.zeros(1)}, tmp_path / "a.terse")
    with pytest.raises(ConfigError, match=r"a list, expected a module or a mapping"):
        save([torch.zeros(1)], tmp_path / "a.terse")
    with pytest.raises(ConfigError, match="not valid Unicode"):
        save({"\ud800": torch.zeros(1)}, tmp_path / "a.terse")


@pytest.mark.parametrize("rounds", [1, 12])
def test_what_cannot_be_compressed_costs_few_bytes_more_than_in_safetensors(rounds, tmp_path):
    rng = np.random.default_rng(0)
    sizes = [(1,), (300, 20), (64,), (1000,), (30, 3, 3, 3)]
    state = {}
    for number, shape in enumerate(sizes * rounds):
        octets = rng.integers(0, 256, 4 * math.prod(shape), dtype=np.uint8)
        name = f"layers.{number}.weight"
        state[name] = torch.from_numpy(octets).view(torch.float32).reshape(shape)
    save(state, tmp_path / "a.terse")
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    extra = (tmp_path / "a.terse").stat().st_size - (tmp_path / "a.safetensors").stat().st_size
    assert extra <= 64 * len(state)


def test_a_fast_file_has_no_contexts(tmp_path):
    weight = sparse_codebook((80, 90), density=0.5, size=3)
    weight[:, ::2] = 0
    state = {"w": weight, "c": torch.arange(10.0).repeat(100)}
    slow = save(state, tmp_path / "a.terse")
    fast = save(state, tmp_path / "b.terse", fast=True)
    assert_same(load(tmp_path / "b.terse"), state)
    assert any("context" in row["codec"] for row in slow.rows)
    assert not any("context" in row["codec"] for row in fast.rows)
    assert slow.summary["file bytes"] < fast.summary["file bytes"]


def test_every_tensor_is_told_as_it_is_begun(tmp_path):
    seen = []
    weight = torch.zeros(5, 3).half()
    state = {"a": weight, "b": weight, "c": torch.zeros(0)}
    save(state, tmp_path / "a.terse", watch=lambda *told: seen.append(told))
    assert seen == [("a", 30), ("b", 30), ("c", 0)]


class Source(Mapping):
    """Tensors that are made at each access, in memory that the last one may have had."""

    def __init__(self, state, on_demand):
        self.state = state
        self.on_demand = on_demand
        self.alive = 0
        self.most = 0

    def __getitem__(self, name):
        if self.state[name].layout != torch.strided:
            return self.state[name]
        memory = self.state[name].numpy().copy()  # lives as long as any view of the tensor
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(memory, self._gone)
        return torch.from_numpy(memory)

    def _gone(self):
        self.alive -= 1

    def __iter__(self):
        return iter(self.state)

    def __len__(self):
        return len(self.state)


@pytest.mark.parametrize("on_demand", [True, False])
def test_tensors_that_are_made_at_each_access_are_never_taken_for_one(on_demand, tmp_path):
    state = {str(i): torch.full((1000,), float(i % 7)) for i in range(40)}
    report = save(Source(state, on_demand), tmp_path / "a.terse")
    assert_same(load(tmp_path / "a.terse"), state)
    assert [row["codec"][:4] for row in report.rows].count("same") == 33
    assert not any("tied" in row["codec"] for row in report.rows)


def test_no_more_than_two_tensors_read_on_demand_are_alive(tmp_path):
    state = {str(i): torch.full((1000,), float(i)) for i in range(9)}
    source = Source(state, on_demand=True)
    save(source, tmp_path / "a.terse")
    assert source.most <= 2  # one is read while the name of the last one still stands
    assert source.alive == 0


def near(tensor, steps, seed=0):
    """The tensor, each float moved by at most so many representable numbers."""
    rng = np.random.default_rng(seed)
    words = to_words(tensor).copy()
    words += rng.integers(-steps, steps + 1, words.shape).astype(words.dtype)
    return from_words(words, tensor.dtype, tuple(tensor.shape))


def base_and_state():
    torch.manual_seed(0)
    base = {
        "near": torch.randn(50, 40),
        "same": torch.randn(300),
        "far": torch.randn(9),
        "other shape": torch.randn(20),
        "other dtype": torch.randn(20),
        "not used": torch.randn(3),
        "half": torch.randn(400).bfloat16(),
        "complex": torch.randn(70, dtype=torch.complex64),
        "int": torch.arange(-99, 99),
    }
    state = {
        "near": near(base["near"], 3),
        "same": base["same"].clone(),
        "far": torch.zeros(9),
        "other shape": base["other shape"].view(4, 5),
        "other dtype": base["other dtype"].double(),
        "new": torch.randn(7),
        "half": near(base["half"], 2),
        "complex": near(base["complex"], 1),
        "int": base["int"] + torch.arange(198) % 3,
    }
    state["tied"] = state["near"]
    state["copy"] = state["half"].clone()
    return base, state


def test_differences_to_a_base_come_back(tmp_path):
    base, state = base_and_state()
    path = tmp_path / "a.terse"
    report = save(state, path, base=base)
    back = load(path, base=base)
    assert_same(back, state)
    assert back["tied"] is back["near"]
    codecs = {row["name"]: row["codec"] for row in report.rows}
    told = [name for name, codec in codecs.items() if codec.startswith("difference to the base: ")]
    assert told == ["near", "same", "half", "complex", "int"]
    assert (codecs["tied"], codecs["copy"]) == ("tied to near", "same as half")
    stored = {row["name"]: row["bytes"] for row in report.rows}
    assert stored["same"] == 0 or stored["same"] <= 8
    assert stored["near"] < state["near"].nbytes / 8
    plain = save(state, tmp_path / "b.terse")
    assert report.summary["tensor bytes"] < 0.5 * plain.summary["tensor bytes"]


@settings(QUIET, max_examples=100)
@given(state=state_dicts(), base=state_dicts())
def test_any_base_is_as_good(state, base, tmp_path):
    names = dict(zip(state, base.values(), strict=False))
    save(state, tmp_path / "a.terse", base=base | names)
    assert_same(load(tmp_path / "a.terse", base=base | names), state)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (None, "'near': stored as a difference to a base, and none is given. Say base="),
        ({}, "'near': stored as a difference to a base, which has no such tensor"),
        ({"near": torch.zeros(40, 50)}, "'near': the base has another dtype or shape there"),
        ({"near": torch.zeros(50, 40).int()}, "'near': the base has another dtype or shape there"),
        (
            {"near": torch.zeros(50, 40)},
            "'near': the base is another one: checksum [0-9a-f]{8}, expected [0-9a-f]{8}",
        ),
        ({"near": "near", "half": torch.zeros(400).bfloat16()}, "'half': the base is another one"),
    ],
)
def test_a_base_that_is_missing_or_another_one_is_refused(change, match, tmp_path):
    base, state = base_and_state()
    path = tmp_path / "a.terse"
    save(state, path, base=base)
    wrong = change
    if change is not None:
        wrong = {n: base["near"] if t == "near" else t for n, t in change.items()}
        wrong |= {n: t for n, t in base.items() if n != "near" and n not in change}
    for read in (load, verify):
        with pytest.raises(FormatError, match=rf"a\.terse, tensor {match}"):
            read(path, base=wrong)
    with open_(path, base=wrong) as file:
        assert torch.equal(file["other dtype"], state["other dtype"])


def test_a_file_without_differences_needs_no_base(tmp_path):
    base, state = base_and_state()
    few = {name: state[name] for name in ("far", "new", "other shape")}
    save(few, tmp_path / "a.terse", base=base)
    assert_same(load(tmp_path / "a.terse"), few)
    save(few, tmp_path / "b.terse")
    assert (tmp_path / "a.terse").read_bytes() == (tmp_path / "b.terse").read_bytes()


def test_a_base_is_of_any_device_and_layout(tmp_path):
    weight = torch.randn(30, 20)
    state = {"w": near(weight, 1)}
    save(state, tmp_path / "a.terse", base={"w": weight.T.contiguous().T})
    assert_same(load(tmp_path / "a.terse", base={"w": nn.Parameter(weight)}), state)


def test_one_file_is_the_base_of_another(tmp_path):
    base, state = base_and_state()
    save(base, tmp_path / "base.terse")
    with open_(tmp_path / "base.terse") as under:
        save(state, tmp_path / "a.terse", base=under)
    with open_(tmp_path / "base.terse") as under:
        assert_same(load(tmp_path / "a.terse", base=under), state)


@pytest.mark.parametrize("first", ["first part near", "first part far"])
def test_the_first_part_decides_about_the_difference(first, tmp_path, monkeypatch):
    monkeypatch.setattr(words, "PART_WORDS", 400)
    torch.manual_seed(0)
    base = {"w": torch.randn(20, 40)}
    tensor = near(base["w"], 2)
    far = slice(10, 20) if first == "first part near" else slice(0, 10)
    tensor[far] = torch.randn(10, 40)
    report = save({"w": tensor}, tmp_path / "a.terse", base=base)
    assert report.rows[0]["codec"].startswith("difference") == (first == "first part near")
    assert_same(load(tmp_path / "a.terse", base=base), {"w": tensor})


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.terse"
    save({"w": torch.ones(3)}, path)
    old = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"a\.terse.*No space left on device"):
        save({"w": torch.zeros(5)}, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


_LIMITED = """
import resource, signal, sys, torch
from tersor.core.errors import StorageError
from tersor.store import save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    save({"w": torch.randn(100_000)}, sys.argv[1])
except StorageError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="this system has no limit to file sizes")
def test_a_real_limit_to_the_file_size_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.terse"
    save({"w": torch.ones(3)}, path)
    old = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(path)], capture_output=True, text=True, check=True
    )
    assert "a.terse: cannot be written (File too large)" in done.stdout
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.terse"
    save({"w": torch.ones(3)}, path)
    old = path.read_bytes()

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save({"w": torch.zeros(5)}, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ConfigError("no")])
def test_an_interrupt_between_two_tensors_leaves_the_old_file(error, tmp_path):
    path = tmp_path / "a.terse"
    save({"w": torch.ones(3)}, path)
    old = path.read_bytes()

    def watch(name, _):
        if name == "b":
            raise error

    kind = error if isinstance(error, type) else type(error)
    with pytest.raises(kind):
        save({"a": torch.randn(50), "b": torch.randn(50)}, path, watch=watch)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_tensor_on_demand_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.terse"
    save({"w": torch.ones(3)}, path)
    old = path.read_bytes()
    source = Source({"a": torch.randn(50), "b": torch.eye(3).to_sparse()}, on_demand=True)
    with pytest.raises(ConfigError, match=r"save: 'b': layout torch\.sparse_coo"):
        save(source, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"the folder .*nowhere"):
        save({"w": torch.ones(3)}, Path(tmp_path, "nowhere", "a.terse"))


def test_a_base_of_other_things_than_tensors_is_named(tmp_path):
    weight = {"w": torch.arange(8.0)}
    with pytest.raises(ConfigError, match="base: 'w': a list, expected a tensor"):
        save(weight, tmp_path / "x.terse", base={"w": [1.0]})
    assert not (tmp_path / "x.terse").exists()
    base = {"w": torch.arange(8.0).mul(1 + 1e-6)}
    save({"w": torch.arange(8.0)} | weight, tmp_path / "x.terse", base=base)
    with pytest.raises(ConfigError, match="expected a tensor"):
        load(tmp_path / "x.terse", base={"w": [1.0]})
