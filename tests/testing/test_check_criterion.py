"""The shared suite: every criterion passes it, and each way to be wrong is caught."""

import copy
import functools

import pytest
import torch
from torch import nn

from tersor.prune import CRITERIA
from tersor.prune.criteria import Karnin, Movement, obd, since, snip
from tersor.prune.scoring import ScoringData
from tersor.testing import check_criterion, example_data, example_network

# Where a check does not apply: what is drawn at random has no units, a damping has a scale.
SHARED = {name: {} for name in CRITERIA}
SHARED["random"] = {"permuted": False}
SHARED["obd"] = {"permuted": False}
SHARED["obs"] = {"scaled": False}
DEAD = (
    "gradient_magnitude taylor snip synflow movement fisher lookahead nisp "
    "taylor_gate fisher_gate skeletonization"
)
for _name in DEAD.split():
    SHARED[_name]["dead"] = True


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_passes_the_shared_suite(name):
    check_criterion(CRITERIA[name], **SHARED[name])


@pytest.mark.parametrize("curvature", ["exact", "gauss_newton", "fisher"])
def test_obd_passes_with_every_curvature(curvature):
    check_criterion(
        functools.partial(obd, curvature=curvature), network=small, data=vectors(), dead=True
    )


def test_criteria_of_a_training_pass_the_shared_suite():
    for criterion in since(example_network().state_dict()).values():
        check_criterion(criterion, permuted=False)  # where the weights were has an order, too
    for method in (Movement, Karnin):
        model = example_network()
        optimizer = torch.optim.Adam(model.parameters())
        watching = method(model)
        with watching.attach(optimizer):
            for inputs, targets in example_data().batches:
                nn.functional.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
        check_criterion(watching.scores, network=lambda m=model: copy.deepcopy(m), permuted=False)


def small() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    for parameter in model.parameters():
        parameter.detach().normal_(generator=generator)
    return model


def vectors() -> ScoringData:
    generator = torch.Generator().manual_seed(1)
    return ScoringData(
        [(torch.randn(n, 3, generator=generator).double(), torch.arange(n) % 2) for n in (4, 3)]
    )


def first_changed(values):
    """A criterion that gives snip's scores, but those of the first weight changed."""

    def criterion(model, data):
        scores = snip(model, data)
        return {**scores, "0.weight": values(scores["0.weight"])}

    return criterion


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda s: s[:1], r"scores of shape \(1, 3\) for '0.weight', expected \(4, 3\)"),
        (lambda s: s.long(), r"scores of torch.int64 for '0.weight', expected floats"),
        (lambda s: s / 0, r"the scores of '0.weight' are not all finite"),
        (lambda s: s.requires_grad_(), r"the scores of '0.weight' require gradients"),
        (lambda s: s * torch.rand_like(s), r"'0.weight' differ from one call to the next"),
        (
            lambda s: s * torch.arange(4.0)[:, None],
            r"'0.weight' change when hidden units change places",
        ),
        (lambda s: s + 0.1, r"four times as large puts the weights in another order"),
    ],
)
def test_wrong_scores_are_caught(values, message):
    with pytest.raises(AssertionError, match=message):
        check_criterion(first_changed(values), network=small, data=vectors())


def test_a_score_for_a_dead_unit_is_caught():
    more = first_changed(lambda s: s + 1)
    check_criterion(more, network=small, data=vectors(), scaled=False)
    with pytest.raises(AssertionError, match="into a unit that goes nowhere has the score 1, exp"):
        check_criterion(more, network=small, data=vectors(), scaled=False, dead=True)


def test_a_missing_weight_is_caught():
    with pytest.raises(AssertionError, match=r"no scores for '2.weight'"):
        check_criterion(
            lambda model, data: {"0.weight": torch.ones(4, 3)}, network=small, data=vectors()
        )


def changes_weights(model, data):
    model[0].weight.detach().mul_(1.5)


def leaves_gradients(model, data):
    data.loss(model(data.batches[0][0]), data.batches[0][1]).backward()


def flips_training(model, data):
    model.eval()


def freezes(model, data):
    model[2].weight.requires_grad_(False)


def forgets_a_hook(model, data):
    model[0].register_forward_hook(lambda module, args, output: None)


def draws(model, data):
    torch.rand(1)


def changes_data(model, data):
    data.batches[0][0].add_(1)


def turns_gradients_off(model, data):
    torch.set_grad_enabled(False)


@pytest.mark.parametrize(
    ("misdeed", "message"),
    [
        (changes_weights, r"the value of '0.weight' is not what it was"),
        (leaves_gradients, r"the gradient of '0.bias' is not what it was"),
        (flips_training, r"the training flag of module '' is not what it was"),
        (freezes, r"requires_grad of '2.weight' is not what it was"),
        (forgets_a_hook, r"the number of hooks on module '0' is not what it was"),
        (draws, r"a global random generator is not where it was"),
        (changes_data, r"batch 0 of the data is not what it was"),
        (turns_gradients_off, r"the grad mode is not what it was"),
    ],
)
def test_a_criterion_that_changes_something_is_caught(misdeed, message):
    calls = []

    def criterion(model, data):
        scores = snip(model, data)
        calls.append(1)
        if len(calls) == 3:  # the one that is watched
            misdeed(model, data)
        return scores

    try:
        with pytest.raises(AssertionError, match=message):
            check_criterion(criterion, network=small, data=vectors())
    finally:
        torch.set_grad_enabled(True)


def test_unseeded_random_numbers_are_caught():
    hidden = torch.Generator().manual_seed(0)

    def criterion(model, data):
        return {n: torch.rand(s.shape, generator=hidden) for n, s in snip(model, data).items()}

    with pytest.raises(AssertionError, match=r"'0.weight' differ from one call to the next"):
        check_criterion(criterion, network=small, data=vectors())


def test_numbers_of_the_global_generator_are_caught_though_its_state_is_restored():
    def criterion(model, data):
        state = torch.get_rng_state()
        scores = {n: torch.rand_like(s) for n, s in snip(model, data).items()}
        torch.set_rng_state(state)
        return scores

    with pytest.raises(AssertionError, match=r"'0.weight' differ from one call to the next"):
        check_criterion(criterion, network=small, data=vectors())


def test_scores_in_training_mode_are_caught():
    def criterion(model, data):
        flags = [module.training for module in model.modules()]
        copied = copy.deepcopy(model).requires_grad_(True)
        for module, training in zip(copied.modules(), flags, strict=True):
            module.training = training
        inputs, targets = data.batches[0]
        weights = [copied[i].weight for i in (0, 3, 7)]
        found = torch.autograd.grad(data.loss(copied(inputs), targets), weights)
        return dict(zip(("0.weight", "3.weight", "7.weight"), found, strict=True))

    with pytest.raises(AssertionError, match="depend on what is frozen"):
        check_criterion(criterion)
