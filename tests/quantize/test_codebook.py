import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tersor.core.errors import ConfigError
from tersor.quantize import codebook, codebooks_of, quantize_
from tersor.quantize.codebook import MOST_VALUES, distinct


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 3))


def test_a_codebook_holds_the_values_of_a_weight_and_which_entry_has_which():
    model = net()
    masks = {"2.weight": torch.rand(6, 16) < 0.5}
    quantize_(model, {"0": 3, "2": 2}, masks=masks)
    books = codebooks_of(model, ignore="3")
    assert {name: len(book.centroids) for name, book in books.items()} == {
        "0.weight": 8,
        "2.weight": 4,
    }
    for name, book in books.items():
        weight = model.get_parameter(name)
        assert torch.equal(book.centroids, weight[weight != 0].unique())
        assert torch.equal(book.decode(), weight)
        assert book.codes.dtype == torch.int16
    assert torch.equal(books["2.weight"].codes >= 0, masks["2.weight"])


def test_who_made_the_values_does_not_matter():
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[7.0, -1.0], [-0.0, 7.0]]))
    book = codebooks_of(model)["weight"]
    assert (book.centroids.tolist(), book.codes.tolist()) == ([-1.0, 7.0], [[1, 0], [-1, 1]])


def test_what_has_many_values_or_none_is_left_out():
    model = nn.Sequential(nn.Linear(MOST_VALUES + 1, 1), nn.Linear(MOST_VALUES, 1), nn.Linear(2, 2))
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(torch.arange(1.0, layer.weight.numel() + 1).view_as(layer.weight))
        model[2].weight.zero_()
    assert list(codebooks_of(model)) == ["1.weight"]


def test_a_selector_without_a_weight_is_an_error():
    with pytest.raises(ConfigError, match="'fc9': matches no weight"):
        codebooks_of(net(), select="fc9")


@given(
    st.lists(st.integers(-20, 20), max_size=60),
    st.integers(1, 30),
    st.integers(1, 9),
)
def test_distinct_values_are_found_whatever_the_sample_holds(numbers, most, sample):
    values = torch.tensor(numbers, dtype=torch.float32)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(codebook, "_SAMPLE", sample)
        found = distinct(values, most)
    expected = sorted(set(numbers))
    assert (found is None) == (len(expected) > most)
    assert found is None or found.tolist() == expected
