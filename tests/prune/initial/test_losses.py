import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.prune import CRITERIA
from tersor.prune.initial import predicted_label, soft_prediction, uniform_target
from tersor.prune.scoring import ScoringData

LOSSES = [uniform_target, predicted_label, soft_prediction]


def logits(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.double).mul_(3).requires_grad_()


def probabilities(outputs: torch.Tensor) -> torch.Tensor:
    powers = outputs.detach().exp()
    return powers / powers.sum(1, keepdim=True)


def test_the_uniform_target_is_cross_entropy_with_equal_probabilities():
    outputs = logits(4, 5)
    loss = uniform_target(outputs)
    same = F.cross_entropy(outputs, torch.full((4, 5), 0.2, dtype=torch.double))
    torch.testing.assert_close(loss, same)
    (gradient,) = torch.autograd.grad(loss, outputs)
    torch.testing.assert_close(gradient, (probabilities(outputs) - 0.2) / 4)
    torch.testing.assert_close(gradient.sum(1), torch.zeros(4, dtype=torch.double))


def test_the_predicted_label_is_cross_entropy_with_the_largest_logit():
    outputs = logits(4, 5)
    loss, q = predicted_label(outputs), probabilities(outputs)
    torch.testing.assert_close(loss, -q.max(1).values.log().mean())
    (gradient,) = torch.autograd.grad(loss, outputs)
    torch.testing.assert_close(gradient, (q - F.one_hot(q.argmax(1), 5)) / 4)


def test_the_soft_prediction_is_the_entropy_with_its_whole_gradient():
    outputs = logits(4, 5)
    loss, q = soft_prediction(outputs), probabilities(outputs)
    entropy = -(q * q.log()).sum(1)
    torch.testing.assert_close(loss, entropy.mean())
    (gradient,) = torch.autograd.grad(loss, outputs)
    torch.testing.assert_close(gradient, -q * (q.log() + entropy[:, None]) / 4)


def test_a_soft_target_held_fixed_would_score_nothing():
    outputs = logits(4, 5)
    (gradient,) = torch.autograd.grad(F.cross_entropy(outputs, probabilities(outputs)), outputs)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("loss", LOSSES)
def test_targets_play_no_part_and_one_sample_counts_as_much_as_another(loss):
    outputs = logits(6, 3)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.equal(loss(outputs, labels), loss(outputs, None))
    alone = torch.stack([loss(row[None]) for row in outputs])
    torch.testing.assert_close(loss(outputs), alone.mean())


@pytest.mark.parametrize("loss", [uniform_target, soft_prediction])
def test_no_logits_are_so_large_that_a_loss_is_not_finite(loss):
    assert math.isfinite(loss(torch.tensor([[1e4, -1e4, 0.0]])))


def test_classes_stand_in_the_second_dimension():
    outputs = logits(2, 3, 4)
    as_rows = outputs.transpose(1, 2).reshape(8, 3)
    for loss in LOSSES:
        torch.testing.assert_close(loss(outputs), loss(as_rows))


@pytest.mark.parametrize("loss", LOSSES)
def test_snip_scores_without_labels_by_the_finite_difference_of_the_loss(loss):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    inputs = torch.randn(5, 3, dtype=torch.double)
    data = ScoringData([(inputs, torch.zeros(5, dtype=torch.long))], loss=loss)
    scores = CRITERIA["snip"](model, data)["0.weight"]
    weight, step = model[0].weight, 1e-6
    for index in ((0, 0), (3, 2), (1, 1)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                old = weight[index].clone()
                weight[index] = old * (1 + sign * step)
                values.append(loss(model(inputs)).item())
                weight[index] = old
        difference = abs(values[0] - values[1]) / (2 * step)
        assert scores[index].item() == pytest.approx(difference, rel=1e-6, abs=1e-9)
