"""Training with quantized weights: the shared suite over all rules, and what each rule says."""

import copy

import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.quantize import (
    TRAININGS,
    Affine,
    Binary,
    DoReFa,
    Incremental,
    LearnedLevels,
    LearnedStep,
    Moment,
    PowerOfTwo,
    QuantizedTraining,
    SoftStair,
    StraightThrough,
    Ternary,
    TrainedTernary,
    noisy_blocks,
    soft_stair,
)

SETTINGS = {"inq": {"every": 2}}
MOST = {"affine": 15, "binary_connect": 2, "xnor": 2, "twn": 3, "ttq": 3, "inq": 17}
MOST |= {"dorefa": 4, "lab": 2, "lsq": 16, "dsq": 16, "levels": 16}


def make(name):
    return TRAININGS[name](**SETTINGS.get(name, {}))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(3, 2, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * 36, 4),
    )


def train(model, optimizer, steps, first=0):
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 1, 6, 6, generator=generator)
        optimizer.zero_grad()
        (model(x).square().mean() + model(x).sum() * 0.01).backward()
        optimizer.step()


def adam(model):
    return torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1)


def bits_of(model):
    return {n: t.numpy().tobytes() for n, t in model.state_dict().items()}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_resumed_training_ends_with_the_same_bytes(name):
    whole = network()
    optimizer = adam(whole)
    with QuantizedTraining(whole, make(name), seed=3).attach(optimizer):
        train(whole, optimizer, 8)
    model = network()
    optimizer, method = adam(model), QuantizedTraining(model, make(name), seed=3)
    with method.attach(optimizer):
        train(model, optimizer, 4)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), method.state_dict()))
    model = network()
    optimizer, method = adam(model), QuantizedTraining(model, make(name), seed=3)
    with method.attach(optimizer):  # as `fit` does: attached before it is loaded
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        method.load_state_dict(saved[2])
        train(model, optimizer, 4, first=4)
    assert bits_of(model) == bits_of(whole)
    assert method.finished


@pytest.mark.parametrize("name", TRAININGS)
def test_values_are_few_pruned_weights_stay_zero_and_the_rest_learns(name):
    model = network()
    with torch.no_grad():
        model[5].weight[:, ::2] = 0
    before = model[5].weight.detach().clone()
    optimizer, method = adam(model), QuantizedTraining(model, make(name), ignore="2")
    with method.attach(optimizer):
        train(model, optimizer, 8)
    for layer in (model[0], model[5]):
        for row in layer.weight.detach():
            assert len(row[row != 0].unique()) <= MOST[name]
    assert not model[5].weight[:, ::2].any()
    assert len(model[2].weight.unique()) == model[2].weight.numel()
    moved = (method.latent("5.weight") - before).abs().max()
    learned = method.learned("5.weight")
    assert moved > 0 or (name == "levels" and learned)
    report = method.report()
    assert [row["name"] for row in report.rows] == ["0.weight", "5.weight"]
    assert report.skipped["2.weight"] == "ignored"


@pytest.mark.parametrize("name", TRAININGS)
def test_without_a_gradient_nothing_moves(name):
    model = network()
    optimizer, method = (
        torch.optim.SGD(model.parameters(), 0.1),
        QuantizedTraining(model, make(name)),
    )
    with method.attach(optimizer):
        hidden, values = method.latent("5.weight").clone(), model[5].weight.detach().clone()
        optimizer.step()
        if name != "inq":
            assert torch.equal(model[5].weight, values)
            assert torch.equal(method.latent("5.weight"), hidden)


def started(training, weight, kept=None):
    kept = torch.ones_like(weight, dtype=torch.bool) if kept is None else kept
    learner = training.start(weight, kept)
    return learner, kept


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_straight_through_passes_within_the_range_alone():
    weight, gradient = draws(1, 200), draws(1, 200, seed=1)
    quantizer = Affine(4, "tensor", range="mse")
    learner, kept = started(StraightThrough(quantizer), weight)
    low, high = quantizer.fit(weight).bounds()
    inside = (weight >= low) & (weight <= high)
    assert 0 < int(inside.sum()) < 200
    assert torch.equal(learner.backward(weight, kept, gradient), gradient * inside)
    few, kept = started(StraightThrough(Binary()), weight)
    assert torch.equal(few.backward(weight, kept, gradient), gradient)


def test_dorefa_goes_back_through_tanh_and_maximum():
    weight, gradient = draws(3, 4), draws(3, 4, seed=1)
    learner, kept = started(StraightThrough(DoReFa(3)), weight)
    found = learner.backward(weight, kept, gradient)

    def surrogate(w):
        return float((gradient * w.tanh() / w.tanh().abs().max()).sum())

    for index in range(12):
        nudge = torch.zeros(12, dtype=torch.double)
        nudge[index] = 1e-6
        nudge = nudge.view(3, 4)
        slope = (surrogate(weight + nudge) - surrogate(weight - nudge)) / 2e-6
        assert float(found.flatten()[index]) == pytest.approx(slope, abs=1e-7)


def test_the_gradient_of_a_learned_step_is_that_of_the_paper():
    weight, gradient = draws(2, 50), draws(2, 50, seed=1)
    weight[:, :2] = torch.tensor([[9.0, -9.0]])  # outside the range
    learner, kept = started(LearnedStep(3, "channel"), weight)
    step = learner.learned["step"]
    torch.testing.assert_close(step.detach(), 2 * weight.abs().mean(1, keepdim=True) / 3**0.5)
    hidden = learner.backward(weight, kept, gradient)
    for row in range(2):
        total, scale = 0.0, float(step[row].detach())
        for w, g in zip(weight[row].tolist(), gradient[row].tolist(), strict=True):
            place = w / scale
            if place < -4:
                total += -4 * g
            elif place > 3:
                total += 3 * g
            else:
                total += (round(place) - place) * g
        assert float(step.grad[row]) == pytest.approx(total / (50 * 3) ** 0.5, rel=1e-9)
    inside = (weight / step >= -4) & (weight / step <= 3)
    assert not inside[:, :2].any()
    assert torch.equal(hidden, gradient * inside)


def test_the_gradient_of_a_learned_step_follows_the_codes():
    # d(step * code)/dstep = code; the paper adds the slope -w / step of the rounding passed through
    weight = draws(1, 40)
    learner, kept = started(LearnedStep(4), weight)
    step = float(learner.learned["step"].detach())
    gradient = draws(1, 40, seed=1)
    learner.backward(weight, kept, gradient)
    size = 1e-7
    codes = (learner.values(weight, kept, Moment()) / step).round()
    inside = (weight / step >= -8) & (weight / step <= 7)

    def surrogate(s):  # codes fixed, the rounding error of w / s passed straight through
        straight = s * (codes - weight / step + weight / s)
        return float((gradient * torch.where(inside, straight, s * codes)).sum())

    straight = (surrogate(step + size) - surrogate(step - size)) / (2 * size)
    found = float(learner.learned["step"].grad) * (40 * 7) ** 0.5
    assert found == pytest.approx(straight, rel=1e-5)


def test_trained_ternary_has_the_published_gradients():
    weight = torch.tensor([[1.0, -2.0, 0.05, -0.5, 0.3]], dtype=torch.double)
    gradient = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]], dtype=torch.double)
    learner, kept = started(TrainedTernary(0.05), weight)  # threshold 0.1
    assert learner.values(weight, kept, Moment()).tolist() == [[0.65, -1.25, 0.0, -1.25, 0.65]]
    found = learner.backward(weight, kept, gradient)
    torch.testing.assert_close(found, gradient * torch.tensor([[0.65, 1.25, 1.0, 1.25, 0.65]]))
    assert float(learner.learned["positive"].grad) == 17.0
    assert float(learner.learned["negative"].grad) == -10.0


def test_trained_ternary_with_equal_values_is_twn():
    weight = draws(4, 50)
    grid = Ternary().fit(weight)
    threshold = float(grid.threshold) / float(weight.abs().max())
    learner, kept = started(TrainedTernary(threshold), weight)
    with torch.no_grad():
        for value in learner.learned.values():
            value.copy_(grid.scale.view(()))
    assert torch.equal(learner.values(weight, kept, Moment()), Ternary()(weight))


def test_the_soft_stair_is_the_identity_of_the_paper_and_hardens():
    low, high = torch.tensor(-1.0).double(), torch.tensor(2.0).double()
    x = torch.linspace(-1.5, 2.5, 4001).double()
    alpha = torch.tensor(0.2).double()
    soft = soft_stair(x, low, high, alpha, 3)
    assert float(soft.diff().abs().max()) < 0.01  # continuous, at the ends of the intervals too
    # at the end of an interval the stair is exact: s * tanh(k * step / 2) = 1
    ends = low + (high - low) / 7 * torch.arange(8)
    torch.testing.assert_close(soft_stair(ends, low, high, alpha, 3), ends)
    hard = soft_stair(x, low, high, torch.tensor(1e-9).double(), 3)
    codes = ((x.clamp(-1, 2) + 1) / 3 * 7).round()
    off_jump = ((x.clamp(-1, 2) + 1) / 3 * 7 % 1 - 0.5).abs() > 0.1
    assert float((hard - (codes * 3 / 7 - 1))[off_jump].abs().max()) < 0.02
    one_bit = soft_stair(x, low, high, alpha, 1)
    steepness = float((2 / alpha - 1).log() / 3)
    soft_sign = ((x.clamp(-1, 2) - 0.5) * steepness).tanh() / 0.8
    torch.testing.assert_close(one_bit, 0.5 + 1.5 * soft_sign)


def test_soft_stair_gradients_are_finite_differences():
    weight, gradient = draws(1, 30), draws(1, 30, seed=1)
    learner, kept = started(SoftStair(2), weight)
    learner.backward(weight, kept, gradient)
    ends = {n: p.detach().clone() for n, p in learner.learned.items()}
    for name in ends:
        slope = 0.0
        for sign in (1, -1):
            moved = ends | {name: ends[name] + sign * 1e-6}
            value = (gradient * soft_stair(weight, **moved, bits=2)).sum()
            slope += sign * float(value) / 2e-6
        assert float(learner.learned[name].grad) == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_learned_levels_have_the_gradient_of_a_codebook():
    weight, gradient = draws(1, 30), draws(1, 30, seed=1)
    learner, kept = started(LearnedLevels(2), weight)
    hidden = learner.backward(weight, kept, gradient)
    values = learner.values(weight, kept, Moment())
    for level, found in zip(learner.learned["levels"], learner.learned["levels"].grad, strict=True):
        assert float(found) == pytest.approx(float(gradient[values == level].sum()))
    assert not hidden.any()


def test_incremental_freezes_for_good_and_ends_in_the_set():
    model = nn.Linear(20, 10)
    before = model.weight.detach().clone()
    method = QuantizedTraining(model, Incremental(every=3))
    optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9, weight_decay=0.1)
    frozen = torch.zeros_like(before, dtype=torch.bool)
    grid = PowerOfTwo().fit(before)
    values = torch.zeros_like(before)
    with method.attach(optimizer):
        for step in range(10):
            found = model.weight.detach()
            assert torch.equal(found[frozen], values[frozen])
            now = grid.round(found) == found
            share = [0.5, 0.75, 0.875, 1.0][min(step // 3, 3)]
            assert int(now.sum()) == round(share * 200)
            if step == 0:
                least = before.abs()[now].min()
                assert least >= before.abs()[~now].max()
            assert method.finished == (step >= 9)
            frozen, values = now, found.clone()
            model(torch.ones(4, 20)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    one = nn.Linear(20, 10)
    with torch.no_grad():
        one.weight.copy_(before)
    with QuantizedTraining(one, Incremental(1, (1.0,))).attach(adam(one)):
        assert torch.equal(one.weight, PowerOfTwo()(before))


def test_loss_aware_scales_are_the_optimum_for_the_moments_of_adam():
    model = nn.Linear(6, 1, bias=False).double()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    method = QuantizedTraining(model, "lab")
    x = draws(64, 6) * torch.tensor([10.0, 1, 1, 1, 1, 0.1])
    with method.attach(optimizer):
        for _ in range(5):
            optimizer.zero_grad()
            (model(x) - 1).square().mean().backward()
            optimizer.step()
    hidden = method.latent("weight")
    curvature = optimizer.state[model.weight]["exp_avg_sq"].sqrt() + 1e-8
    best = min(
        torch.linspace(0.001, 1, 20_000).double().tolist(),
        key=lambda a: float((curvature * (hidden - a * hidden.sign()).square()).sum()),
    )
    assert float(model.weight.detach().abs().max()) == pytest.approx(best, abs=1e-4)


def test_loss_aware_training_needs_adam():
    model = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    with QuantizedTraining(model, "lab").attach(optimizer):
        model(torch.ones(1, 3)).sum().backward()
        with pytest.raises(ConfigError, match="SGD has no second moments"):
            optimizer.step()


def test_noise_quantizes_its_share_of_the_blocks_and_ends_with_all():
    model = nn.Linear(400, 50)
    method = QuantizedTraining(model, Affine(3), noise=0.3, block=8, end=2)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with method.attach(optimizer):
        for step in range(3):
            hidden = method.latent("weight")
            same = (model.weight.detach() == Affine(3)(hidden)).view(50, 50, 8)
            alone = same & ~same.all(2, keepdim=True)  # the largest weight of a row is exact
            assert int(alone.sum()) <= 50
            share = float(same.all(2).float().mean())
            assert share == (1.0 if step == 2 else pytest.approx(0.3, abs=0.05))
            assert method.finished == (step == 2)
            model(torch.ones(1, 400)).sum().backward()
            optimizer.step()


def test_what_is_not_quantized_in_a_step_teaches_no_level():
    model = nn.Linear(16, 4, bias=False)
    method = QuantizedTraining(model, LearnedLevels(1), noise=0.5, block=4, end=9)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with method.attach(optimizer):
        levels = method.learned("weight")["levels"]
        drawn = method._parts["weight"].noisy  # a level is a weight, too: its value does not tell
        noisy = [(model.weight.detach() == level) & drawn for level in levels]
        assert 0 < int((noisy[0] | noisy[1]).sum()) < 64
        gradient = torch.rand(4, 16, generator=torch.Generator().manual_seed(0))
        model.weight.grad = gradient.clone()
        learner = method._parts["weight"].learner
        method._before_step()
        found = learner.learned["levels"].grad
        expected = torch.stack([gradient[where].sum() for where in noisy])
        torch.testing.assert_close(found, expected)
        exact = ~(noisy[0] | noisy[1])
        assert torch.equal(model.weight.grad[exact], gradient[exact])
        assert not model.weight.grad[~exact].any()


def test_frozen_and_pruned_weights_have_no_gradient():
    model = nn.Linear(16, 4, bias=False)
    with torch.no_grad():
        model.weight[0] = 0
    method = QuantizedTraining(model, Incremental(every=5))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with method.attach(optimizer):
        before = model.weight.detach().clone()
        model(torch.ones(1, 16)).sum().backward()
        optimizer.step()
    moved = model.weight.detach() != before
    assert int(moved.sum()) == 24
    assert torch.equal(model.weight.grad != 0, moved)
    assert not moved[0].any()


def test_noise_zero_is_float_training():
    plain, noisy = network(), network()
    one, two = adam(plain), adam(noisy)
    train(plain, one, 4)
    with QuantizedTraining(noisy, Affine(2), noise=0.0, end=100).attach(two):
        train(noisy, two, 4)
    assert bits_of(plain) == bits_of(noisy)


def test_blocks_are_drawn_as_asked():
    draw = torch.Generator().manual_seed(0)
    found = noisy_blocks(torch.Size([100, 4, 3, 3]), 0.2, 9, draw)
    blocks = found.view(400, 9)
    assert bool((blocks.all(1) | ~blocks.any(1)).all())
    assert float(found.float().mean()) == pytest.approx(0.2, abs=0.06)


def test_stochastic_signs_are_the_hard_sigmoid_until_training_ends():
    model = nn.Linear(20_000, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.5)
    training = TRAININGS["binary_connect"](scale=1.0, stochastic=True)
    method = QuantizedTraining(model, training, end=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with method.attach(optimizer):
        assert float((model.weight > 0).float().mean()) == pytest.approx(0.75, abs=0.02)
        optimizer.step()
        assert bool((model.weight == 1).all())


def test_hidden_weights_are_clipped_where_the_rule_says_so():
    model = nn.Linear(4, 4)
    method = QuantizedTraining(model, "binary_connect")
    optimizer = torch.optim.SGD(model.parameters(), 100.0)
    with method.attach(optimizer):
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
    assert float(method.latent("weight").abs().max()) == 1.0


def test_the_rates_of_learned_values_follow_those_of_the_optimizer():
    def after(factor):
        torch.manual_seed(0)
        model = nn.Linear(8, 8)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        method = QuantizedTraining(model, "lsq", learning_rate=0.01)
        start = float(method.learned("weight")["step"])
        with method.attach(optimizer):
            optimizer.param_groups[0]["lr"] = 0.1 * factor
            model(torch.ones(2, 8)).square().sum().backward()
            optimizer.step()
        return abs(float(method.learned("weight")["step"]) - start) / start

    assert after(1.0) == pytest.approx(0.01, rel=1e-3)
    assert after(0.5) == pytest.approx(0.005, rel=1e-3)


def test_first_and_last_weights_can_be_left_out():
    method = QuantizedTraining(network(), "lsq", ends=False)
    report = method.report()
    assert [row["name"] for row in report.rows] == ["2.weight"]
    assert report.skipped["5.weight"] == "the first or the last weight"


def test_finish_quantizes_all_at_once():
    model = nn.Linear(20, 10)
    method = QuantizedTraining(model, Incremental(every=100))
    with method.attach(adam(model)):
        method.finish()
    assert method.finished
    assert torch.equal(PowerOfTwo()(model.weight.detach()), model.weight)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda m: QuantizedTraining(m, "lqs"), "training 'lqs'"),
        (lambda m: QuantizedTraining(m, 4), "training: 4"),
        (lambda m: QuantizedTraining(m, "inq"), "'inq'"),
        (lambda m: QuantizedTraining(m, "lsq", noise=1.5), "noise: 1.5"),
        (lambda m: QuantizedTraining(m, "lsq", noise=0.5), "noise: 0.5"),
        (lambda m: QuantizedTraining(m, "lsq", end=-1), "end: -1"),
        (lambda m: QuantizedTraining(m, LearnedStep(1)), "bits: 1"),
        (lambda m: QuantizedTraining(m, SoftStair(4, 0.9)), "alpha: 0.9"),
        (lambda m: QuantizedTraining(m, TrainedTernary(0.0)), "threshold: 0.0"),
        (lambda m: QuantizedTraining(m, Incremental(0)), "every: 0"),
        (lambda m: QuantizedTraining(m, Incremental(1, (0.5, 0.4))), "shares"),
        (lambda m: StraightThrough(PowerOfTwo(), curvature=True), "PowerOfTwo"),
        (lambda m: StraightThrough(Binary(), "clip"), "backward 'clip'"),
        (
            lambda m: QuantizedTraining(m, StraightThrough(PowerOfTwo(), rounding="stochastic")),
            "'stochastic'",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(build, words):
    with pytest.raises(ConfigError, match=words):
        build(network())
