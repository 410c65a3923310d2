import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from tersor.core.errors import ConfigError, DataError
from tersor.measure import Error, evaluate


class Sign(nn.Module):
    """Class 1 for positive inputs of shape (N, 1), else class 0; notes how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Sequential(nn.Dropout(0.9), nn.Identity())
        self.calls: list[tuple[bool, bool]] = []

    def forward(self, x):
        self.calls.append((self.training or self.child.training, torch.is_grad_enabled()))
        return self.child(torch.cat((-x, x), dim=1))


BATCHES = [
    (torch.tensor([[1.0], [-2.0], [3.0]]), torch.tensor([1, 1, 0])),  # right, wrong, wrong
    (torch.tensor([[-4.0]]), torch.tensor([0])),  # right
]


def test_mistakes_are_those_counted_by_hand():
    error = evaluate(Sign(), BATCHES)
    assert error == Error(mistakes=2, samples=4)
    assert error.percent == 50.0


def test_another_count_of_mistakes_is_used():
    error = evaluate(Sign(), BATCHES, mistakes=lambda outputs, targets: outputs[:, 1].gt(2).float())
    assert error == Error(mistakes=1, samples=4)


def test_the_model_is_in_eval_mode_without_gradients_and_then_as_before():
    model = Sign()
    model.child[0].eval()  # a part that is frozen while the rest trains
    before = [module.training for module in model.modules()]
    assert before == [True, True, False, True]
    evaluate(model, BATCHES)
    assert model.calls == [(False, False)] * 2
    assert [module.training for module in model.modules()] == before


def test_the_model_is_as_before_when_a_batch_fails():
    model = Sign()
    with pytest.raises(ConfigError, match="a batch is str, expected a pair"):
        evaluate(model, ["text"])
    assert all(module.training for module in model.modules())
    assert torch.is_grad_enabled()


def test_evaluating_moves_no_random_generator():
    loader = torch.utils.data.DataLoader(list(zip(*BATCHES[0], strict=True)), shuffle=True)
    before = torch.get_rng_state()
    assert evaluate(Sign(), loader).samples == 3
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("loader", [[], [(torch.zeros(0, 1), torch.zeros(0).long())]])
def test_a_loader_without_samples_is_told(loader):
    with pytest.raises(DataError, match="the loader gives no samples"):
        evaluate(Sign(), loader)


@pytest.mark.parametrize(
    "mistakes",
    [lambda o, t: torch.tensor(0.0), lambda o, t: torch.full((len(t),), 0.5)],
    ids=["mean", "fraction"],
)
def test_a_count_that_is_none_is_refused(mistakes):
    with pytest.raises(ConfigError, match="values other than 0 and 1"):
        evaluate(Sign(), BATCHES, mistakes=mistakes)


@pytest.mark.parametrize(("wrong", "n"), [(0, 50), (50, 50), (1, 1), (164, 10_000), (37, 300)])
def test_the_interval_is_scipys(wrong, n):
    expected = binomtest(wrong, n).proportion_ci(0.95, method="wilson")
    low, high = Error(wrong, n).interval
    assert low == pytest.approx(100 * expected.low, abs=1e-9)
    assert high == pytest.approx(100 * expected.high, abs=1e-9)
