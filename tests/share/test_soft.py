from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import gamma, norm
from torch import nn

from tersor.core.errors import ConfigError
from tersor.share import MixturePrior, SoftSharing, merge_
from tersor.share.soft import _Surprise


def prior_of(values, components=3, **settings):
    settings = {"precision": None, "zero_precision": None} | settings
    return MixturePrior([values], components, **settings).double()


@pytest.fixture
def values():
    return torch.randn(50, generator=torch.Generator().manual_seed(0)).double()


def test_the_log_probability_is_that_of_scipy(values):
    prior = prior_of(values, zero=0.7)
    prior.means.data = torch.tensor([-1.0, 0.2, 1.5]).double()
    prior.log_sigmas.data = torch.tensor([0.1, 0.3, 0.5, 0.7]).double().log()
    prior.logits.data = torch.tensor([0.0, 1.0, -1.0]).double()
    free = torch.softmax(prior.logits, 0).detach() * 0.3
    density = 0.7 * norm(0, 0.1).pdf(values)
    for share, mean, sigma in zip(free, [-1.0, 0.2, 1.5], [0.3, 0.5, 0.7], strict=True):
        density += float(share) * norm(mean, sigma).pdf(values)
    assert prior([values]).item() == pytest.approx(-sum(map(math.log, density)), rel=1e-7)


def test_the_gradient_is_that_of_the_responsibilities(values):
    prior = prior_of(values)
    wanted = values.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(prior([wanted]), wanted)
    _, means, sigmas = prior.components()
    responsible = torch.softmax(prior.log_terms(values), 1)
    expected = (responsible * (values[:, None] - means) / sigmas.square()).sum(1)
    torch.testing.assert_close(gradient, expected)


def test_all_gradients_are_finite_differences(values):
    prior = prior_of(values)
    parts = [values[:6], *(part.detach().clone() for part in prior.components())]
    assert torch.autograd.gradcheck(_Surprise.apply, [part.requires_grad_() for part in parts])


def test_weights_far_from_all_components_have_a_finite_probability():
    prior = prior_of(torch.tensor([-1.0, 1.0]), zero_precision=None)
    far = torch.tensor([1e6, -1e6, 0.0], dtype=torch.float64, requires_grad=True)
    prior([far]).backward()
    assert far.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in prior.parameters())


def test_one_component_at_zero_is_weight_decay(values):
    prior = prior_of(values, 1, zero=None)
    prior.means.data.zero_()
    prior.log_sigmas.data.fill_(math.log(0.5))
    constant = 50 * (math.log(0.5) + 0.5 * math.log(2 * math.pi))
    decay = float((values**2).sum()) / (2 * 0.25)
    assert prior([values]).item() == pytest.approx(decay + constant, rel=1e-9)


def test_the_priors_of_the_precisions_are_gamma_distributions():
    prior = prior_of(torch.tensor([0.0, 1.0]), 1, precision=(250.0, 0.1), zero_precision=(5e3, 2.0))
    found = []
    for sigma in (0.02, 0.05):
        prior.log_sigmas.data.fill_(math.log(sigma))
        p = 1 / sigma**2
        exact = gamma(250, scale=10).logpdf(p) + gamma(5000, scale=0.5).logpdf(p)
        found.append(prior.hyperprior().item() + exact)  # up to a constant
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_two_components_that_are_one_become_one_and_nothing_changes(values):
    prior = prior_of(values, 3)
    prior.means.data = torch.tensor([0.5, 0.5, -1.0]).double()
    before = prior([values]).item()
    assert merge_(prior) == 1
    assert len(prior.means) == 2
    assert prior([values]).item() == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize(("moments", "variance"), [(False, 0.04), (True, 0.04 + 0.01)])
def test_merged_components_have_weighted_means(values, moments, variance):
    prior = prior_of(values, 2, zero=None)
    prior.means.data = torch.tensor([0.9, 1.1]).double()
    prior.log_sigmas.data.fill_(math.log(0.2))
    merge_(prior, below=10.0, moments=moments)
    log_shares, means, sigmas = (part.detach() for part in prior.components())
    assert (log_shares.exp().tolist(), means.tolist()) == ([1.0], [pytest.approx(1.0)])
    assert float(sigmas**2) == pytest.approx(variance)


def trained(model, steps=60, **settings):
    sharing = SoftSharing(model, 4, strength=2e-3, learning_rate=0.01, **settings)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    run(model, sharing, optimizer, steps)
    return sharing, optimizer


def run(model, sharing, optimizer, steps):
    x = torch.randn(16, 20, generator=torch.Generator().manual_seed(1))
    with sharing.attach(optimizer):
        for _ in range(steps):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 5))


def test_hardened_weights_are_few_values_with_exact_zeros_and_biases_are_left():
    model = net()
    sharing, _ = trained(model)
    bias = model[0].bias.detach().clone()
    report = sharing.harden_()
    values = torch.cat([layer.weight.detach().flatten() for layer in model]).unique()
    assert len(values) <= 5
    assert 0.0 in values
    assert report.summary["kept"] < report.summary["weights"]
    assert torch.equal(model[0].bias, bias)


def test_training_draws_weights_to_the_means():
    model, plain = net(), net()
    trained(model, 300)
    prior = SoftSharing(plain, 4).prior

    def spread(network, prior):
        weights = network[0].weight.detach()
        return float((weights - prior.nearest(weights)).abs().mean())

    sharing, _ = trained(net(), 300)
    drawn = net()
    sharing, _ = trained(drawn, 300)
    assert spread(drawn, sharing.prior) < 0.7 * spread(plain, prior)


def test_what_is_pruned_stays_zero():
    model = net()
    model[0].weight.data[:, ::2] = 0
    sharing, _ = trained(model)
    assert not model[0].weight[:, ::2].any()
    sharing.harden_()
    assert not model[0].weight[:, ::2].any()


def test_a_run_that_is_resumed_ends_with_the_same_bits():
    whole = net()
    sharing, optimizer = trained(whole, 10)
    first = net()
    half, optimizer = trained(first, 5)
    again = net()
    again.load_state_dict(first.state_dict())
    resumed = SoftSharing(again, 4, strength=2e-3, learning_rate=0.01)
    resumed.load_state_dict(half.state_dict())
    fresh = torch.optim.Adam(again.parameters(), 2e-3)
    fresh.load_state_dict(optimizer.state_dict())
    run(again, resumed, fresh, 5)
    assert torch.equal(again[0].weight, whole[0].weight)
    assert torch.equal(resumed.prior.means, sharing.prior.means)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"components": 0}, "components: 0; expected a whole number, 1 or more"),
        ({"zero": 1.0}, "zero: 1.0; expected 0 < zero < 1"),
        ({"precision": (0, 1)}, r"precision: \(0, 1\); expected a shape and a rate"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MixturePrior([torch.tensor([0.0, 1.0])], **settings)


def test_weights_that_are_none_or_alike_are_refused():
    with pytest.raises(ConfigError, match="no weights"):
        MixturePrior([])
    with pytest.raises(ConfigError, match=r"all weights are 1\.0"):
        MixturePrior([torch.ones(4)])
    with pytest.raises(ConfigError, match="strength 0"):
        SoftSharing(net(), strength=0)
