import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from state_dicts import sparse_codebook
from torch import nn

from tersor.core.errors import ConfigError
from tersor.store import accounting, paper_accounting, save

# Han, Mao and Dally 2016, tables 2 to 5: (out, in), kept %, value bits, index bits, P+Q rate %.
PUBLISHED = {
    "LeNet-5 conv1": ((20, 25), 66, 8, 5, 78.5),
    "LeNet-300-100 ip3": ((10, 100), 26, 6, 5, 15.7),
    "VGG-16 conv1_2": ((64, 576), 22, 8, 5, 9.8),
}


@pytest.mark.parametrize("layer", PUBLISHED)
def test_the_published_rates_follow_from_kept_share_and_bits(layer):
    shape, kept, value_bits, index_bits, rate = PUBLISHED[layer]
    count = int(np.prod(shape))
    rng = np.random.default_rng(0)
    positions = rng.permutation(count)[: round(kept * count / 100)]
    weight = np.zeros(count, np.float32)
    weight[positions] = np.resize(1 + np.arange(2**value_bits), len(positions))
    found = paper_accounting(torch.from_numpy(weight.reshape(shape)), index_bits=index_bits)
    assert (found.kept, found.value_bits) == (len(positions), value_bits)
    assert found.pq_rate == pytest.approx(rate, abs=0.5)
    assert found.pqh_bits <= found.pq_bits


def test_a_layer_counted_by_hand():
    # Gaps less one: 0, 5 = a filler of 4 and 1, 0. Values 1, 2, 1 and the filler.
    layer = paper_accounting(torch.tensor([[1.0, 0, 0, 0, 0, 0, 2, 1, 0, 0]]), index_bits=2)
    assert (layer.kept, layer.fillers, layer.centroids) == (3, 1, 2)
    assert (layer.value_bits, layer.index_bits) == (1, 2)
    assert layer.pq_bits == 4 * (1 + 2) + 2 * 32
    # Huffman: index codes 0, 3, 1, 0 take 1 + 2 + 2 + 1 bits; values 1, F, 2, 1 as many.
    assert layer.index_bits_huffman == layer.value_bits_huffman == 6 / 4
    assert layer.pqh_bits == 12 + 2 * 32
    assert layer.pq_rate == 100 * 76 / 320


@settings(deadline=None)
@given(
    density=st.sampled_from([0.02, 0.1, 0.5, 1.0]),
    size=st.sampled_from([1, 2, 16, 100]),
    seed=st.integers(0, 99),
)
def test_huffman_never_costs_more_and_the_width_is_the_cheapest(density, size, seed):
    weight = sparse_codebook((40, 50), density=density, size=size, seed=seed)
    chosen = paper_accounting(weight)
    every = [paper_accounting(weight, index_bits=bits) for bits in range(2, 9)]
    assert chosen.pq_bits == min(layer.pq_bits for layer in every)
    for layer in every:
        # With fillers the alphabet has a symbol more than the fixed width counts.
        if layer.fillers == 0:
            assert layer.pqh_bits <= layer.pq_bits


def test_empty_and_zero_tensors_cost_nothing():
    for tensor in (torch.zeros(0, 3), torch.zeros(5, 5)):
        assert paper_accounting(tensor).pq_bits == paper_accounting(tensor).pqh_bits == 0
        assert paper_accounting(tensor).pq_rate == 0.0


def test_index_bits_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="index_bits 0, expected 1 to 16"):
        paper_accounting(torch.ones(3), index_bits=0)


def test_both_accounts_of_a_file_stand_side_by_side(tmp_path):
    model = nn.Sequential(nn.Linear(50, 40), nn.BatchNorm1d(40), nn.Linear(40, 10, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(sparse_codebook((40, 50), density=0.1, size=8))
    path = tmp_path / "a.terse"
    save(model, path)
    report = accounting(model, path)
    assert [row["name"] for row in report.rows] == [
        *("0.weight", "2.weight", "all matrices", "other tensors", "header")
    ]
    first, second, both, *rest = report.rows
    assert sum(row["file bytes"] for row in (first, second, *rest)) == path.stat().st_size
    for column in ("weights", "file bytes"):
        assert both[column] == first[column] + second[column]
    for column in ("kept %", "P+Q %", "P+Q+H %", "file %"):  # shares of the weights
        mean = (2000 * first[column] + 400 * second[column]) / 2400
        assert both[column] == pytest.approx(mean)
    for column in ("value bits", "index bits H"):  # means over the entries
        assert min(first[column], second[column]) <= both[column]
        assert both[column] <= max(first[column], second[column])
    assert report.summary["file bytes"] == path.stat().st_size
    layers = [paper_accounting(model[i].weight) for i in (0, 2)]
    others = 40 + 4 * 40 + 1
    assert report.rows[3]["weights"] == others
    bits = sum(layer.pq_bits for layer in layers) + 32 * others
    assert report.summary["paper bytes, P+Q"] == (bits + 7) // 8
    assert report.summary["file ratio"] == 4 * (2400 + others) / path.stat().st_size
    assert accounting(model.state_dict(), path) == report


def test_a_model_without_a_tensor_of_the_file_is_refused(tmp_path):
    save({"a": torch.ones(2, 2)}, tmp_path / "a.terse")
    with pytest.raises(ConfigError, match=r"a\.terse has 'a', the model has not"):
        accounting({}, tmp_path / "a.terse")
