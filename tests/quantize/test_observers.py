import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.core.errors import ConfigError
from tersor.quantize.observers import BINS, Observer

NUMBERS = st.floats(-(2.0**40), 2.0**40, width=32)


@given(st.lists(st.lists(NUMBERS, min_size=1, max_size=8), min_size=1, max_size=6))
def test_batch_by_batch_is_as_all_with_the_last_width_from_the_first_batch_on(batches):
    observer = Observer()
    for batch in batches:
        observer.update(torch.tensor(batch))
    values = [x for batch in batches for x in batch]
    assert (observer.low, observer.high) == (min(values), max(values))
    expected = torch.zeros(2 * BINS, dtype=torch.int64)
    if observer.width:
        for x in torch.tensor(values):
            if x != 0:
                expected[int(torch.floor(x / observer.width)) + BINS] += 1
    assert torch.equal(observer.counts, expected)
    assert observer.zeros == values.count(0)


def test_the_histogram_is_that_of_numpy():
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    observer = Observer(sample=None)
    for part in values.split(777):
        observer.update(part)
    edges = (torch.arange(-BINS, BINS + 1) * observer.width).numpy()
    import numpy as np

    assert observer.counts.tolist() == np.histogram(values.numpy(), edges)[0].tolist()
    assert observer.width * BINS / 2 <= values.abs().max() < observer.width * BINS


def test_moving_averages_follow_their_recursion():
    observer = Observer(momentum=0.75, counting=False)
    observer.update(torch.tensor([-4.0, 8.0]))
    observer.update(torch.tensor([0.0, 4.0]))
    assert (observer.average_low, observer.average_high) == (-3.0, 7.0)
    assert (observer.low, observer.high) == (-4.0, 8.0)
    assert int(observer.counts.sum()) == 0


def test_a_large_batch_is_sampled_from_all_of_its_channels():
    observer = Observer(sample=1000)
    values = torch.arange(1.0, 9.0).repeat(1024, 1)  # eight channels, 8,192 values
    observer.update(values)
    counted = int(observer.counts.sum())
    assert 800 <= counted <= 1000
    filled = observer.counts[observer.counts > 0]
    assert len(filled) == 8
    assert filled.min() > 0.9 * filled.max()


def test_what_cannot_be_observed_is_refused():
    with pytest.raises(ConfigError, match="NaN or infinite"):
        Observer().update(torch.tensor([0.0, float("nan")]))
    with pytest.raises(ConfigError, match=r"momentum: 1\.0; expected"):
        Observer(momentum=1.0)
    with pytest.raises(ConfigError, match="sample: 0; expected"):
        Observer(sample=0)
    empty = Observer()
    empty.update(torch.ones(0, 3))
    assert empty.batches == 0
