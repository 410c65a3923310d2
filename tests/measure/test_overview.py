import json

import pytest
import torch
from torch import nn

from tersor.measure import measure
from tersor.tasks import build_model, load_task

ROW = ["name", "kind", "shape", "parameters", "density", "distinct"]


@pytest.fixture
def half():
    """LeNet-300-100 for digits, half of fc2's weights zero and the others one."""
    torch.manual_seed(0)
    model = build_model("lenet-300-100", input_shape=(1, 8, 8))
    with torch.no_grad():
        model.fc2.weight.zero_()[:, ::2] = 1
    return model


def test_a_model_alone_tells_its_tensors(half):
    report = measure(half)
    assert report.summary == {
        "parameters": 19_500 + 30_100 + 1_010,
        "density": (19_200 + 15_000 + 1_000) / (19_200 + 30_000 + 1_000),
        "dense_bytes": 4 * 50_610,
    }
    assert [dict(row) for row in report.rows][2:4] == [
        dict(zip(ROW, ("fc2.weight", "linear", "100x300", 30_000, 0.5, 2), strict=True)),
        dict(zip(ROW, ("fc2.bias", None, "100", 100, 1.0, 100), strict=True)),
    ]


def test_a_file_adds_bits_a_weight_and_the_ratio(half, tmp_path):
    (tmp_path / "model").write_bytes(bytes(5_061))
    summary = measure(half, path=tmp_path / "model").summary
    assert summary["file_bytes"] == 5_061
    assert summary["compression_ratio"] == 40.0
    assert summary["bits_per_weight"] == 0.8


def test_an_example_adds_macs_and_latency(half):
    report = measure(half, example_input=torch.zeros(4, 1, 8, 8), runs=3)
    assert report.summary["macs"] == 50_200
    assert report.summary["effective_macs"] == 35_200
    assert [(row["macs"], row["effective_macs"]) for row in report.rows][2:4] == [
        (30_000, 15_000),
        (None, None),
    ]
    assert (report.summary["latency_runs"], report.summary["latency_batch"]) == (3, 4)
    assert report.summary["latency_p50_ms"] <= report.summary["latency_p99_ms"]


def test_a_loader_adds_the_error_with_its_samples(half):
    with torch.no_grad():  # always class 3, which is wrong for all but the threes
        half.fc3.weight.zero_()
        half.fc3.bias.copy_(torch.eye(10)[3])
    loader = load_task("digits").test
    summary = measure(half, loader=loader).summary
    assert summary["samples"] == 300
    assert summary["mistakes"] == int((loader.dataset.targets != 3).sum())
    assert summary["error_percent"] == summary["mistakes"] / 3
    assert summary["error_low_percent"] < summary["error_percent"] < summary["error_high_percent"]


def test_what_is_tied_or_not_counted_is_told():
    model = nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 5, bias=False), nn.Linear(5, 5))
    model[1].weight = model[0].weight
    report = measure(model[:2], example_input=torch.tensor([[1]]), runs=1)
    assert [row["name"] for row in report.rows] == ["0.weight"]
    assert report.skipped == {"1.weight": "tied to 0.weight"}
    lookup = measure(model[:1], example_input=torch.tensor([[1]]), runs=1)
    assert lookup.skipped == {"0.weight": "macs: looked up, not multiplied"}


def test_a_model_without_weights_is_measured():
    assert measure(nn.ReLU()).summary == {"parameters": 0, "density": None, "dense_bytes": 0}


def test_the_report_is_json(half):
    report = measure(half, example_input=torch.zeros(1, 1, 8, 8), runs=1)
    assert json.loads(report.to_json())["rows"][0]["macs"] == 19_200
