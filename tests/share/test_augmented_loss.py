import math

import pytest
import torch
import torch.nn.functional as F
from scipy.special import rel_entr, softmax

from tersor.core.errors import ConfigError
from tersor.share import augmented_loss


@pytest.fixture
def case():
    torch.manual_seed(0)
    embedding = torch.randn(6, 4, dtype=torch.float64)
    logits = torch.randn(3, 6, 2, dtype=torch.float64, requires_grad=True)
    return logits, torch.randint(6, (3, 2)), embedding


def test_it_is_the_divergence_from_what_the_embedding_says_is_alike(case):
    logits, targets, embedding = case
    total = 0.0
    for n in range(3):
        for place in range(2):
            one_hot = F.one_hot(targets[n, place], 6).double().numpy()
            table = embedding.T.numpy()  # L of the paper, (d, V)
            wanted = softmax(table.T @ table @ one_hot / 7.0)
            found = softmax(logits[n, :, place].detach().numpy() / 7.0)
            total += rel_entr(wanted, found).sum()
    assert augmented_loss(*case, temperature=7.0).item() == pytest.approx(total / 6)


def test_for_orthonormal_embeddings_the_target_is_a_one_hot_smoothed_by_the_temperature():
    embedding = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    high = math.exp(1 / 2.0)
    wanted = torch.full((5,), 1 / (high + 4), dtype=torch.float64)
    wanted[3] = high / (high + 4)
    logits = 2.0 * wanted.log()[None]
    found = augmented_loss(logits, torch.tensor([3]), embedding, temperature=2.0)
    assert found.item() == pytest.approx(0, abs=1e-12)
    assert augmented_loss(logits, torch.tensor([2]), embedding, temperature=2.0) > 0.01


def test_gradients_reach_the_logits_alone(case):
    logits, targets, embedding = case
    embedding.requires_grad_()
    augmented_loss(logits, targets, embedding).backward()
    assert embedding.grad is None
    wanted = torch.softmax(embedding[targets] @ embedding.T / 20, -1).movedim(-1, 1).detach()
    expected = (torch.softmax(logits / 20, 1) - wanted) / 20 / 6
    torch.testing.assert_close(logits.grad, expected.detach())


def test_targets_that_do_not_count_are_left_out(case):
    logits, targets, embedding = case
    ignored = targets.clone()
    ignored[1:] = -100
    found = augmented_loss(logits, ignored, embedding)
    torch.testing.assert_close(found, augmented_loss(logits[:1], targets[:1], embedding))
    assert augmented_loss(logits, torch.full_like(targets, -100), embedding) == 0


def test_what_does_not_fit_is_refused(case):
    logits, targets, embedding = case
    with pytest.raises(ConfigError, match=r"temperature: 0; expected a number above 0"):
        augmented_loss(*case, temperature=0)
    with pytest.raises(ConfigError, match=r"logits \(3, 6, 2\), .* embedding \(5, 4\)"):
        augmented_loss(logits, targets, embedding[:5])
    with pytest.raises(ConfigError, match=r"targets \(3, 1\)"):
        augmented_loss(logits, targets[:, :1], embedding)
