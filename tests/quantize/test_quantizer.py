import torch

from tersor.quantize import QUANTIZERS, GridQuantizer, KMeans, Quantizer
from tersor.quantize.quantizer import label, rounded


def test_every_entry_of_the_table_is_a_quantizer_under_its_defaults():
    for name, make in QUANTIZERS.items():
        assert isinstance(make(), Quantizer), name


def test_kmeans_has_a_grid_of_its_own():
    assert isinstance(KMeans(), GridQuantizer)


def test_entries_that_are_not_kept_are_plus_zero():
    weight = torch.tensor([[1.0, -0.0, -3.0]])
    new = rounded(KMeans(2).fit(weight), weight, torch.tensor([[True, False, False]]))
    assert new.tolist() == [[1.0, 0.0, 0.0]]
    assert not new.signbit().any()


def test_a_label_names_what_is_not_the_default():
    assert label(KMeans()) == "KMeans()"
    assert label(KMeans(2, seed=3)) == "KMeans(bits=2, seed=3)"
