"""What holds for everything that is prepared, trained and made plain, supermasks too."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from tersor.core.errors import ConfigError
from tersor.core.weights import prunable
from tersor.prune.learned import PREPARATIONS, Penalized, finalize_, hard_concrete_
from tersor.prune.supermasks import SUPERMASKS, edge_popup_

PREPARE = {name: prepare for name, (prepare, _) in PREPARATIONS.items()} | SUPERMASKS
PENALTY = {name: penalty for name, (_, penalty) in PREPARATIONS.items()}

# A setting in which nothing is closed and nothing noisy: the plain layer, bit for bit.
NEUTRAL = {
    "hard_concrete": {"log_alpha": 50.0},
    "variational_dropout": {"log_variance": -torch.inf},
    "normal_jeffreys": {"log_variance": -torch.inf, "scale_log_variance": -torch.inf},
    "information_bottleneck": {"gate_log_variance": -torch.inf},
    "edge_popup": {},
    "stochastic": {"scores": 100.0},
    "piggyback": {},
}


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def prepared(name: str, **more) -> nn.Sequential:
    model = make()
    PREPARE[name](model, **more)
    return model


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 1, 6, 6, generator=generator)
    return x, torch.randint(3, (16,), generator=generator)


def train(model: nn.Module, name: str, numbers: range, optimizer=None) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = optimizer or torch.optim.SGD(trained, 0.05, momentum=0.9)
    model.train()
    for number in numbers:
        torch.manual_seed(number)  # as `Stepper` and `fit` do before a step
        x, y = batch(number)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        if name in PENALTY:
            loss = loss + 1e-3 * PENALTY[name](model)
        loss.backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", PREPARE)
def test_the_neutral_setting_is_the_plain_layer_bit_for_bit(name):
    model = prepared(name, **({"density": 1.0} if name == "edge_popup" else {}))
    for path, parameter in model.named_parameters():
        for ending, value in NEUTRAL[name].items():
            if path.endswith(ending):
                parameter.data.fill_(value)
    x, _ = batch(0)
    assert torch.equal(model.eval()(x), make()(x))
    if name != "normal_jeffreys":  # there a scale multiplies the outputs, not the weights
        assert torch.equal(model.train()(x), make()(x))


@pytest.mark.parametrize("name", PREPARE)
def test_the_end_is_a_plain_model_with_the_outputs_of_eval_mode(name):
    model = prepared(name)
    train(model, name, range(30))
    x, _ = batch(99)
    expected = model.eval()(x)
    assert torch.equal(model(x), expected)  # deterministic
    masks, report = finalize_(model)
    plain = make()
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert {n: t.shape for n, t in model.state_dict().items()} == {
        n: t.shape for n, t in plain.state_dict().items()
    }
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain(x), expected, rtol=1e-5, atol=1e-6)
    for weight in prunable(model):
        if weight.name in masks:
            mask = masks[weight.name]
            assert not weight.parameter[~mask].view(torch.int32).any()  # +0.0
            assert (weight.parameter[mask] != 0).all()
        assert isinstance(weight.parameter, nn.Parameter)
        assert weight.parameter.requires_grad
    assert report.summary["kept"] == masks.kept


@pytest.mark.parametrize("name", PREPARE)
def test_noise_is_that_of_the_seed_in_training_and_none_in_eval_mode(name):
    model = prepared(name)
    x, _ = batch(0)
    model.eval()
    before = torch.get_rng_state()
    model(x)
    assert torch.equal(torch.get_rng_state(), before)
    model.train()
    torch.manual_seed(1)
    one = model(x)
    torch.manual_seed(1)
    assert torch.equal(one, model(x))
    torch.manual_seed(2)
    noisy = name not in ("edge_popup", "piggyback")
    assert torch.equal(one, model(x)) != noisy


@pytest.mark.parametrize("name", PREPARE)
def test_a_state_dict_comes_back_strictly_and_without_pickle(name):
    model = prepared(name)
    train(model, name, range(5))
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = prepared(name)
    other.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    x, _ = batch(0)
    assert torch.equal(model.eval()(x), other.eval()(x))


@pytest.mark.parametrize("name", PREPARE)
def test_a_copy_is_independent_and_can_be_finalized(name):
    model = prepared(name)
    train(model, name, range(5))
    x, _ = batch(0)
    expected = model.eval()(x)
    other = copy.deepcopy(model)
    finalize_(other)
    torch.testing.assert_close(other(x), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(model(x), expected)
    train(model, name, range(5, 8))


@pytest.mark.parametrize("name", PREPARE)
def test_k_steps_save_load_and_k_steps_are_2k_steps_bit_for_bit(name):
    whole = prepared(name)
    train(whole, name, range(10))
    half = prepared(name)
    optimizer = train(half, name, range(5))
    resumed = prepared(name)
    resumed.load_state_dict(half.state_dict())
    trained = [p for p in resumed.parameters() if p.requires_grad]
    again = torch.optim.SGD(trained, 0.05, momentum=0.9)
    again.load_state_dict(optimizer.state_dict())
    train(resumed, name, range(5, 10), again)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", PENALTY)
def test_the_gradient_of_the_penalty_is_that_of_finite_differences(name):
    model = prepared(name).double()
    model.train()(batch(0)[0].double())
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).double()
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(PENALTY[name](model), parameters, materialize_grads=True)
    assert PENALTY[name](model) > 0
    for parameter, gradient in zip(parameters, found, strict=True):
        for index in torch.randint(parameter.numel(), (2,), generator=generator).tolist():
            flat = parameter.data.view(-1)
            old = flat[index].item()
            flat[index] = old + 1e-5
            above = PENALTY[name](model).item()
            flat[index] = old - 1e-5
            below = PENALTY[name](model).item()
            flat[index] = old
            difference = (above - below) / 2e-5
            assert gradient.view(-1)[index].item() == pytest.approx(difference, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", PENALTY)
def test_a_penalty_can_stand_beside_the_loop(name):
    model = prepared(name)
    model(batch(0)[0])
    before = PENALTY[name](model).item()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with Penalized(model, PENALTY[name], 1.0).attach(optimizer):
        for _ in range(5):
            optimizer.zero_grad()
            optimizer.step()
    assert PENALTY[name](model).item() < before


def test_selectors_and_ties_and_others_are_skipped_with_the_reason():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)), nn.LSTM(4, 4))
    model[2].weight = model[1].weight
    report = hard_concrete_(model, ignore="0")
    assert [row["name"] for row in report.rows] == ["3.weight"]
    assert report.skipped["0.weight"] == "ignored"
    assert report.skipped["1.weight"] == "tied with 2.weight: a mask here would untie them"
    assert report.skipped["4.weight_hh_l0"] == "of LSTM; expected Linear or Conv2d"


def test_nothing_to_finalize_is_an_error():
    with pytest.raises(ConfigError, match="finalize_: nothing in Sequential is prepared"):
        finalize_(make())


def test_foreign_parametrizations_are_left_alone_or_refused():
    class Twice(nn.Module):
        def forward(self, weight):
            return 2 * weight

    model = make()
    parametrize.register_parametrization(model[5], "weight", Twice())
    edge_popup_(model)
    finalize_(model)
    assert parametrize.is_parametrized(model[5], "weight")
    assert not parametrize.is_parametrized(model[3])
    parametrize.register_parametrization(model[3], "weight", Twice())
    hard_concrete_(model, select="0")
    finalize_(model)
    edge_popup_(model, select="0")
    parametrize.register_parametrization(model[0], "weight", Twice())
    with pytest.raises(ConfigError, match=r"0\.weight has the parametrizations TopScores, Twice"):
        finalize_(model)
