import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.core.errors import DataError
from tersor.measure.loss import mean_loss


def test_the_mean_is_over_samples_whatever_the_batches():
    model = nn.Linear(3, 4).double()
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(10, 3, generator=draws, dtype=torch.double)
    y = torch.randint(4, (10,), generator=draws)
    whole = F.cross_entropy(model(x), y).item()
    for cuts in ([10], [7, 3], [1, 1, 8]):
        batches = list(zip(x.split(cuts), y.split(cuts), strict=True))
        assert mean_loss(model, batches) == pytest.approx(whole, rel=1e-12)


def test_it_looks_at_the_model_as_it_is_used_and_leaves_no_trace():
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(2, 1))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    batches = [(torch.ones(4, 2), torch.zeros(4, 1))]
    assert mean_loss(model, batches, F.mse_loss) == mean_loss(model, batches, F.mse_loss)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_no_samples_are_an_error():
    with pytest.raises(DataError, match="mean_loss: the loader gives no samples"):
        mean_loss(nn.Linear(1, 1), [])
