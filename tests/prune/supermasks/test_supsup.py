import copy
import math

import pytest
import torch
from torch import nn

from tersor.core.checkpoint import load_checkpoint, save_checkpoint
from tersor.core.errors import ConfigError, FormatError
from tersor.prune.learned import finalize_
from tersor.prune.supermasks import OBJECTIVES, SupSup, entropy, superfluous
from tersor.prune.supermasks.inference import binary, one_shot
from tersor.prune.supermasks.packing import pack, unpack
from tersor.tasks import load_task

CLASSES, HIDDEN, OUTPUTS = 10, 200, 40


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUTPUTS))


DIGITS = load_task("digits").train.dataset


def task(number: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """64 digits, the pixels in the order that belongs to the task."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(number))
    drawn = torch.randint(len(DIGITS), (64,), generator=torch.Generator().manual_seed(seed))
    return DIGITS.inputs[drawn].flatten(1)[:, order], DIGITS.targets[drawn]


def train_on(number: int):
    def train(model: nn.Module) -> None:
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, 0.2, momentum=0.9)
        for step in range(80):
            x, y = task(number, seed=step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    return train


def error(model: nn.Module, number: int) -> float:
    x, y = task(number, seed=999)
    return (model(x)[:, :CLASSES].argmax(dim=1) != y).float().mean().item()


TASKS = ("first", "second", "third", "fourth")


@pytest.fixture(scope="module", params=[0.5, None])
def learned(request) -> SupSup:
    supsup = SupSup(make(), density=request.param, seed=7)
    for number, name in enumerate(TASKS):
        supsup.learn(name, train_on(number))
    return supsup


def test_nothing_is_forgotten_and_no_weight_has_moved(learned):
    fresh = SupSup(make(), density=0.5, seed=7)
    for path in ("0", "2"):
        one = learned.model.get_submodule(path).parametrizations.weight.original
        assert torch.equal(one, fresh.model.get_submodule(path).parametrizations.weight.original)
        assert not learned.model.get_submodule(path).bias.any()
    errors = []
    for number, name in enumerate(TASKS):
        learned.use(name)
        errors.append(error(learned.model, number))
    assert max(errors) < 0.1
    learned.use("first")
    assert error(learned.model, 2) > 0.5  # the tasks are different


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("search", ["one_shot", "binary"])
def test_the_task_is_found_from_the_inputs_alone(learned, search, objective):
    for number, name in enumerate(TASKS):
        x, _ = task(number, seed=50)
        options = {"classes": CLASSES, "search": search, "objective": objective}
        assert learned.infer(x, **options) == name
        single = [learned.infer(x[i : i + 1], **options) == name for i in range(20)]
        assert sum(single) >= 12  # by chance 5


def test_the_gradient_is_that_of_finite_differences_of_the_mixture(learned):
    x, _ = task(1, seed=3)
    found = learned._gradient(x, list(TASKS), CLASSES, "entropy")
    weights = [learned.model.get_submodule(p).parametrizations.weight.original for p in ("0", "2")]
    masks = [learned._masks(f"{p}.weight", list(TASKS)) for p in ("0", "2")]

    def objective(shares: torch.Tensor) -> torch.Tensor:
        first, second = (
            w.double() * torch.tensordot(shares, m.double(), dims=1)
            for w, m in zip(weights, masks, strict=True)
        )
        return entropy((x.double() @ first.T).relu() @ second.T, CLASSES)

    even = torch.full((4,), 0.25, dtype=torch.float64)
    for index in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[index] = 1e-5
        difference = (objective(even + step) - objective(even - step)) / 2e-5
        assert found[index].item() == pytest.approx(difference.item(), rel=1e-3, abs=1e-5)


def test_inference_leaves_the_model_as_it_was(learned):
    learned.use("second")
    learned.model.train()
    x, _ = task(0)
    before = learned.model(x)
    state = torch.get_rng_state()
    gradients = [None if p.grad is None else p.grad.clone() for p in learned.model.parameters()]
    learned.infer(x, classes=CLASSES)
    assert learned.model.training
    assert torch.equal(learned.model(x), before)
    assert torch.equal(torch.get_rng_state(), state)
    for parameter, gradient in zip(learned.model.parameters(), gradients, strict=True):
        assert parameter.grad is None if gradient is None else torch.equal(parameter.grad, gradient)


def test_binary_and_one_shot_agree_for_two_tasks():
    generator = torch.Generator().manual_seed(0)
    for values in torch.randn(20, 2, generator=generator):
        assert one_shot(values.__getitem__, 2) == binary(values.__getitem__, 2)


def test_binary_halves_its_candidates():
    values, asked = torch.tensor([3.0, -1.0, 2.0, -2.0, 5.0]), []

    def gradient(among: list[int]) -> torch.Tensor:
        asked.append(sorted(among))
        return values[among]

    assert binary(gradient, 5) == 3
    assert asked == [[0, 1, 2, 3, 4], [1, 2, 3], [1, 3]]
    assert one_shot(values.__getitem__, 1) == 0


def test_an_unknown_task_is_recognised_as_new(learned):
    x, _ = task(0, seed=5)
    assert learned.recognise(x, classes=CLASSES, objective="superfluous") == "first"
    assert learned.recognise(x, classes=CLASSES, tolerance=1e9) is None
    alone = SupSup(make(), seed=7)
    alone.learn("only", lambda model: None)
    assert alone.recognise(x, classes=CLASSES) is None


def test_entropy_is_between_zero_and_the_logarithm_of_the_classes():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    p = logits.softmax(dim=1)
    expected = torch.distributions.Categorical(p).entropy().mean()
    torch.testing.assert_close(entropy(logits, 2), expected)
    assert entropy(torch.zeros(1, 6), 6).item() == pytest.approx(math.log(6))


def test_g_is_logsumexp_with_a_gradient_of_the_superfluous_outputs_alone():
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    value = superfluous(logits, 4)
    torch.testing.assert_close(value, logits.exp().sum(dim=1).log().mean())
    (gradient,) = torch.autograd.grad(value, [logits])
    assert not gradient[:, :4].any()
    torch.testing.assert_close(gradient[:, 4:], logits.softmax(dim=1)[:, 4:] / 5)
    with pytest.raises(ConfigError, match="6 outputs for 6 classes"):
        superfluous(logits, 6)


def test_a_file_holds_the_seed_and_a_bit_a_weight_a_task(learned, tmp_path):
    learned.save(tmp_path / "tasks.pt")
    state = load_checkpoint(tmp_path / "tasks.pt")
    assert (state["seed"], state["density"]) == (7, learned.density)
    stored = sum(bits.numel() for masks in state["masks"].values() for bits in masks.values())
    assert stored * 8 == 4 * learned.bits_per_task == 4 * (64 * HIDDEN + HIDDEN * OUTPUTS)
    loaded = SupSup.load(tmp_path / "tasks.pt", make())
    assert loaded.tasks == list(TASKS)
    for number, name in enumerate(TASKS):
        x, _ = task(number)
        learned.use(name)
        loaded.use(name)
        assert torch.equal(loaded.model(x), learned.model(x))
        assert loaded.infer(x, classes=CLASSES) == name


def test_damaged_and_foreign_files_are_refused(learned, tmp_path):
    path = tmp_path / "tasks.pt"
    learned.save(path)
    state = load_checkpoint(path)
    with pytest.raises(FormatError, match=r"'first': masks of 0\.weight, 2\.weight"):
        SupSup.load(path, nn.Sequential(nn.Linear(64, HIDDEN)))
    other = nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 16))
    with pytest.raises(FormatError, match=r"mask '2\.weight': \(1000,\) of .*, expected 400 bytes"):
        SupSup.load(path, other)
    save_checkpoint(path, {"seed": 7})
    with pytest.raises(FormatError, match="not one of SupSup"):
        SupSup.load(path, make())
    state["masks"]["first"]["0.weight"] = torch.zeros(1600)
    save_checkpoint(path, state)
    with pytest.raises(FormatError, match=r"mask '0\.weight': \(1600,\) of torch\.float32"):
        SupSup.load(path, make())


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 64, 100])
def test_packed_bits_come_back(count):
    mask = torch.rand(count, generator=torch.Generator().manual_seed(count)) > 0.5
    packed = pack(mask)
    assert packed.dtype == torch.uint8
    assert packed.numel() == (count + 7) // 8
    assert torch.equal(unpack(packed, (count,), "w"), mask)


def test_a_task_can_be_taken_out_as_a_plain_model(learned):
    learned.use("third")
    plain = copy.deepcopy(learned.model)
    masks, _ = finalize_(plain)
    x, _ = task(2)
    assert torch.equal(plain(x), learned.model(x))
    if learned.density is not None:
        assert masks.kept == 0.5 * learned.bits_per_task
    assert error(plain, 2) < 0.1


def test_a_task_learned_again_begins_with_the_same_scores():
    one, other = SupSup(make(), seed=1), SupSup(make(), seed=1)
    one.learn("a", train_on(0))
    one.learn("b", train_on(1))
    other.learn("b", train_on(1))
    for name, mask in one._packed["b"].items():
        assert torch.equal(mask, other._packed["b"][name])


def test_what_would_not_be_in_the_file_is_refused():
    with pytest.raises(ConfigError, match=r"SupSup: '1\.weight' would have no mask"):
        SupSup(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    supsup = SupSup(make())
    with pytest.raises(ConfigError, match="no task was learned yet"):
        supsup.infer(torch.zeros(1, 64), classes=CLASSES)
    with pytest.raises(ConfigError, match="task 'a': not learned"):
        supsup.use("a")
    supsup.learn("a", lambda model: None)
    with pytest.raises(ConfigError, match="search 'ternary'"):
        supsup.infer(torch.zeros(1, 64), classes=CLASSES, search="ternary")
