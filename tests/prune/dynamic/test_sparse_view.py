"""Top-KAST, SR-STE and dynamic filters: dense weights behind a sparse model."""

import copy

import pytest
import torch
from sparse_steps import OPTIMIZERS, bits, loss, steps
from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.prune import prune_
from tersor.prune.dynamic import dynamic_filters, sr_ste, top_kast
from tersor.prune.dynamic.sr_ste import highest_of_each


def dense_of(method, model) -> dict[str, torch.Tensor]:
    rest = method.state_dict()["rest"]
    return {n: model.get_parameter(n).detach() + rest[n] for n in method.masks}


def reference_step(dense, seen, trained, gradients, rate, active_decay, rest_decay):
    """One SGD step as the papers write it, with products and sums instead of bits."""
    found = {}
    for name, weight in dense.items():
        pull = active_decay * weight * seen[name] + rest_decay[name] * weight * ~seen[name]
        found[name] = weight - rate * trained[name] * (gradients[name] + pull)
    return found


def test_top_kast_is_the_step_of_the_paper(net):
    net.double()
    method = top_kast(net, 0.2, backward_density=0.5, every=3, decay=0.1)
    opt = torch.optim.SGD(net.parameters(), 0.05)
    dense = {n: net.get_parameter(n).detach().clone() for n in ("0.weight", "2.weight")}
    counts = {"0.weight": None, "2.weight": None}
    with method.attach(opt):
        for number in range(10):
            if number % 3 == 0:
                masks = {}
                for name, weight in dense.items():
                    counts[name] = int(method.masks[name].sum())
                    order = weight.abs().flatten().argsort(descending=True)
                    k, b = counts[name], round(2.5 * counts[name])
                    a_mask, b_mask = torch.zeros(2, weight.numel(), dtype=torch.bool)
                    a_mask[order[:k]], b_mask[order[:b]] = True, True
                    masks[name] = a_mask.view_as(weight), b_mask.view_as(weight)
                seen = {n: m[0] for n, m in masks.items()}
                trained = {n: m[1] for n, m in masks.items()}
            for name in dense:
                assert torch.equal(method.masks[name], seen[name])
                assert torch.equal(method.trained[name], trained[name])
                torch.testing.assert_close(
                    net.get_parameter(name).detach(), dense[name] * seen[name]
                )
            opt.zero_grad()
            value = loss(net, number)
            found = torch.autograd.grad(value, [net[0].weight, net[2].weight], retain_graph=True)
            gradients = dict(zip(dense, found, strict=True))
            shares = {n: 0.1 / (counts[n] / w.numel()) for n, w in dense.items()}
            dense = reference_step(dense, seen, trained, gradients, 0.05, 0.1, shares)
            value.backward()
            opt.step()
            for name, weight in dense_of(method, net).items():
                torch.testing.assert_close(weight, dense[name])
    assert sum(counts.values()) == 80
    assert method.trained.density == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_top_kast_a_is_within_b_and_nothing_moves_outside_b(net, optimizer):
    method = top_kast(net, 0.2, every=4)
    opt = OPTIMIZERS[optimizer](net.parameters())
    entered = 0
    with method.attach(opt):
        for _ in range(20):
            before, seen, trained = dense_of(method, net), method.masks, method.trained
            list(steps(net, opt, range(1)))
            after = dense_of(method, net)
            for name in seen:
                assert (trained[name] | ~seen[name]).all()
                assert torch.equal(
                    bits(after[name])[~trained[name]], bits(before[name])[~trained[name]]
                )
                assert (after[name] != before[name])[trained[name]].any()
                # The gradient itself is zero there, for whoever looks at it after the step.
                assert not net.get_parameter(name).grad[~trained[name]].any()
                entered += int((method.masks[name] & ~seen[name]).sum())
    assert entered > 0


def test_top_kast_takes_the_counts_of_given_masks(net):
    given = MaskSet({"2.weight": torch.arange(160).view(8, 20) < 30})
    method = top_kast(net, masks=given, backward_density=0.25)
    with method.attach(OPTIMIZERS["sgd"](net.parameters())):
        assert method.masks.kept == 30
        assert method.trained.kept == 40
        weight = net[2].weight[net[2].weight != 0].abs()
        assert weight.min() > method.state_dict()["rest"]["2.weight"].abs().max()


def test_top_kast_refuses_a_b_that_is_smaller_than_a(net):
    for wrong in (0.1, 1.5):
        with pytest.raises(ConfigError, match=f"backward_density: {wrong}; expected 0.2, the dens"):
            top_kast(net, 0.2, backward_density=wrong)
    with pytest.raises(ConfigError, match="decay: -1; expected 0 or more"):
        top_kast(net, 0.2, decay=-1)
    with pytest.raises(ConfigError, match="every: 0; expected at least 1"):
        top_kast(net, 0.2, every=0)


def test_finalize_forgets_what_is_not_seen_and_gives_masks_to_hold(net):
    method = top_kast(net, 0.2, every=2)
    opt = OPTIMIZERS["sgd"](net.parameters())
    with method.attach(opt):
        list(steps(net, opt, range(5)))
    values = net[0].weight.detach().clone()
    masks = method.finalize()
    assert torch.equal(values, net[0].weight)
    assert not any(rest.any() for rest in method.state_dict()["rest"].values())
    with masks.attach(net, opt):
        list(steps(net, opt, range(3)))
    assert torch.equal(net[0].weight != 0, masks["0.weight"])


@pytest.mark.parametrize("pattern", ["1:4", "2:4", "3:4", "2:5"])
def test_sr_ste_is_the_step_of_the_paper(pattern):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 3)).double()
    n, m = map(int, pattern.split(":"))
    method = sr_ste(net, pattern, decay=0.3, select="0")
    opt = torch.optim.SGD(net.parameters(), 0.05)
    dense = net[0].weight.detach().clone()
    x, y = torch.randn(7, 20).double(), torch.randn(7, 3).double()
    with method.attach(opt):
        for _ in range(6):
            groups = dense.abs().view(10, -1, m)
            mask = (groups >= groups.topk(n, dim=2).values[..., -1:]).view_as(dense)
            torch.testing.assert_close(net[0].weight.detach(), dense * mask)
            assert ((net[0].weight != 0).view(10, -1, m).sum(2) == n).all()
            opt.zero_grad()
            (net(x) - y).square().mean().backward()
            dense = dense - 0.05 * (net[0].weight.grad + 0.3 * ~mask * dense)
            opt.step()
            torch.testing.assert_close(dense_of(method, net)["0.weight"], dense)


def test_without_decay_it_is_the_straight_through_estimator(net):
    class StraightThrough(torch.autograd.Function):
        @staticmethod
        def forward(ctx, weight, mask):
            return weight * mask

        @staticmethod
        def backward(ctx, gradient):
            return gradient, None

    twin = copy.deepcopy(net)
    method, opt = sr_ste(net, "2:4", decay=0.0), torch.optim.Adam(net.parameters(), 0.01)
    plain = torch.optim.Adam(twin.parameters(), 0.01)
    from sparse_steps import batch

    with method.attach(opt):
        for number in range(10):
            list(steps(net, opt, range(number, number + 1)))
            x, y = batch(number)
            for index in (0, 2):
                weight = twin[index].weight
                mask = highest_of_each(weight.detach().abs(), 2, 4, 1)
                x = torch.nn.functional.linear(
                    x, StraightThrough.apply(weight, mask), twin[index].bias
                )
                x = x.relu() if index == 0 else x
            plain.zero_grad()
            (x - y).square().mean().backward()
            plain.step()
    for name, weight in dense_of(method, net).items():
        torch.testing.assert_close(weight, twin.get_parameter(name).detach())


def test_n_of_m_groups_lie_along_the_input_channels_of_every_kind_of_layer():
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"conv": nn.Conv2d(8, 6, 3), "turned": nn.ConvTranspose2d(8, 6, 3), "fc": nn.Linear(8, 6)}
    )
    method = sr_ste(model, "2:4")
    opt = torch.optim.SGD(model.parameters(), 0.1)
    with method.attach(opt):
        kept = {name: (model[name].weight != 0).float() for name in model}
        assert (kept["conv"].view(6, 2, 4, 3, 3).sum(2) == 2).all()
        assert (kept["turned"].view(2, 4, 6, 3, 3).sum(1) == 2).all()
        assert (kept["fc"].view(6, 2, 4).sum(2) == 2).all()
        # And not along the kernel, where a flat reshape would put them.
        assert not (kept["conv"].reshape(-1, 4).sum(1) == 2).all()


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (3, 8), (8, 16)])
def test_highest_of_each_agrees_with_sorting_ties_too(n, m):
    generator = torch.Generator().manual_seed(m)
    scores = torch.randint(0, 4, (5, 3 * m, 2), generator=generator).float()
    mask = highest_of_each(scores, n, m, 1)
    for i in range(5):
        for j in range(2):
            for start in range(0, 3 * m, m):
                group = scores[i, start : start + m, j].tolist()
                best = sorted(range(m), key=lambda p: (-group[p], p))[:n]
                assert mask[i, start : start + m, j].nonzero().flatten().tolist() == sorted(best)


def test_it_is_the_mask_that_prune_gives(net):
    twin = copy.deepcopy(net)
    method = sr_ste(net, "2:4")
    with method.attach(OPTIMIZERS["sgd"](net.parameters())):
        masks, _ = prune_(twin, pattern="2:4")
        assert all(torch.equal(mask, method.masks[name]) for name, mask in masks.items())


def test_a_layer_that_does_not_fit_stays_dense_and_is_named(net):
    method = sr_ste(net, "1:3")  # 12 inputs, but 20 in the second layer
    with method.attach(OPTIMIZERS["sgd"](net.parameters())):
        assert (net[2].weight != 0).all()
    assert "20 inputs are no multiple of 3" in method.report().skipped["2.weight"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pattern": "4:2"}, "pattern '4:2': "),
        ({"pattern": "row"}, "pattern: 'row'; expected 'N:M'"),
        ({"pattern": "1:7"}, "pattern '1:7': fits no weight"),
        ({"decay": -1}, "decay: -1; expected 0 or more"),
    ],
)
def test_wrong_arguments_of_sr_ste_are_named(net, arguments, message):
    with pytest.raises(ConfigError, match=message):
        sr_ste(net, **arguments)


def test_a_filter_that_was_switched_off_comes_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3, bias=False), nn.Flatten(), nn.Linear(54, 2))
    method = dynamic_filters(model, 0.5, every=1)
    opt = torch.optim.SGD(model.parameters(), 1.0)
    conv = model[0].weight
    with torch.no_grad():
        conv.copy_(torch.arange(6.0).add(1).view(6, 1, 1, 1).expand_as(conv))
    with method.attach(opt):
        assert _live(conv) == [3, 4, 5]
        conv.grad = torch.zeros_like(conv)
        conv.grad[0] = -10.0  # the gradient at the sparse model reaches what is switched off
        opt.step()
        assert _live(conv) == [0, 4, 5]
        assert float(conv.detach()[0].mean()) == 11.0
        opt.zero_grad()
        opt.step()
        assert _live(conv) == [0, 4, 5]
    assert method.report().skipped["2.weight"] == "no convolution, and not selected"


def _live(conv: torch.Tensor) -> list[int]:
    return conv.flatten(1).any(1).nonzero().flatten().tolist()


def test_filters_compete_over_all_layers_and_every_layer_keeps_its_best():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 1))
    with torch.no_grad():
        model[0].weight.mul_(1e-3)
    method = dynamic_filters(model, 0.6)
    with method.attach(torch.optim.SGD(model.parameters(), 0.1)):
        kept = [len(_live(conv.weight)) for conv in model]
    # 0.6 * 56 = 34 weights: 9 + 4 for the best of each, and of the other 21 all 16 of the second
    # layer; the next filter of the first would cost 9.
    assert kept == [1, 5]


def test_filters_of_different_sizes_are_compared_by_their_mean():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 1))
    nn.init.constant_(model[0].weight, 0.6)  # the sum over a filter is 5.4
    nn.init.constant_(model[1].weight, 1.0)  # and here 4
    method = dynamic_filters(model, 0.42)  # 24 weights: 13 for the best, 11 for others
    with method.attach(torch.optim.SGD(model.parameters(), 0.1)):
        assert [len(_live(conv.weight)) for conv in model] == [1, 3]


def test_wrong_arguments_of_dynamic_filters_are_named(net):
    with pytest.raises(ConfigError, match=r"dynamic_filters: no convolution; name layers with"):
        dynamic_filters(net, 0.5)
    with pytest.raises(ConfigError, match=r"density: 2.0; expected 0 < density <= 1"):
        dynamic_filters(net, 2.0, select="0")
    with pytest.raises(ConfigError, match=r"density: 0.01 of 240 weights; expected at least one"):
        dynamic_filters(net, 0.01, select="0")
