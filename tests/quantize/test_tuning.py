import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tersor.core.errors import ConfigError
from tersor.quantize import Codebook, CodebookTuner, codebooks_of, quantize_

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
    "sgd, weight decay": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
}


def net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3)
    ).to(dtype)


def shared(model: nn.Module, bits: int = 2) -> dict[str, Codebook]:
    """Half of the weights pruned, the rest shared."""
    generator = torch.Generator().manual_seed(1)
    masks = {
        f"{n}.weight": torch.rand(model[n].weight.shape, generator=generator) < 0.5
        for n in (0, 3, 5)
    }
    quantize_(model, bits, masks=masks)
    return codebooks_of(model)


def loss_of(model: nn.Module, number: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    dtype = model[0].weight.dtype
    x = torch.randn(6, 2, 5, 5, generator=generator, dtype=dtype)
    y = torch.randn(6, 3, generator=generator, dtype=dtype)
    return (model(x) - y).square().mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        optimizer.zero_grad()
        loss_of(model, number).backward()
        optimizer.step()


def groups(model: nn.Module, books: dict[str, Codebook]) -> list[tuple[Tensor, Tensor]]:
    """The weights of each cluster, and those pruned, per tensor."""
    found = []
    for name, book in books.items():
        weight = model.get_parameter(name).detach()
        members = [weight[book.codes == code] for code in range(len(book.centroids))]
        found.append((members, weight[book.codes < 0]))
    return found


class Parametrised(nn.Module):
    """The same network, its centroids as parameters and its weights made of them: W = C[I]."""

    def __init__(self, model: nn.Module, books: dict[str, Codebook]) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        for name in books:
            self.model.get_parameter(name).requires_grad_(False)
        self.codes = {name: book.codes.long() for name, book in books.items()}
        self.centroids = nn.ParameterDict(
            {n.replace(".", "_"): nn.Parameter(b.centroids.clone()) for n, b in books.items()}
        )

    def __getitem__(self, index: int) -> nn.Module:
        return self.model[index]

    def weights(self) -> dict[str, Tensor]:
        return {
            name: torch.where(codes >= 0, self.centroids[name.replace(".", "_")][codes], 0.0)
            for name, codes in self.codes.items()
        }

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self.model, self.weights(), x)


def summed_gradients(model: nn.Module, books: dict[str, Codebook]) -> dict[str, Tensor]:
    """The gradients as an optimizer sees them inside `attach`."""
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with CodebookTuner(model, books).attach(optimizer):
        loss_of(model).backward()
        optimizer.step()
    return {name: model.get_parameter(name).grad for name in books}


def test_a_centroids_gradient_is_the_finite_difference_of_the_loss():
    model = net()
    books = shared(model)
    gradients = summed_gradients(model, books)
    for name, book in books.items():
        weight = model.get_parameter(name)
        for code in range(len(book.centroids)):
            members, h = book.codes == code, 1e-6
            at = []
            for step in (h, -h):
                with torch.no_grad():
                    weight[members] += step
                    at.append(loss_of(model).item())
                    weight[members] -= step
            difference = torch.full((int(members.sum()),), (at[0] - at[1]) / (2 * h)).double()
            torch.testing.assert_close(gradients[name][members], difference, rtol=1e-6, atol=1e-9)
        assert (gradients[name][book.codes < 0] == 0).all()


def test_a_centroids_gradient_is_the_sum_of_the_dense_one():
    model = net()
    books = shared(model)
    loss_of(model).backward()
    dense = {name: model.get_parameter(name).grad.clone() for name in books}
    model.zero_grad()
    for name, gradient in summed_gradients(model, books).items():
        codes = books[name].codes.flatten().long()
        sums = torch.zeros(len(books[name].centroids), dtype=torch.float64)
        sums.index_add_(0, codes[codes >= 0], dense[name].flatten()[codes >= 0])
        torch.testing.assert_close(gradient.flatten()[codes >= 0], sums[codes[codes >= 0]])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_tuning_is_training_the_centroids_of_an_explicit_parametrisation(name):
    model = net()
    books = shared(model)
    explicit = Parametrised(model, books)
    optimizer = OPTIMIZERS[name](model.parameters())
    tuner = CodebookTuner(model, books)
    with tuner.attach(optimizer):
        train(model, optimizer, range(50))
    start = {n: b.centroids for n, b in books.items()}
    train(
        explicit, OPTIMIZERS[name]([p for p in explicit.parameters() if p.requires_grad]), range(50)
    )
    for weight, expected in explicit.weights().items():
        torch.testing.assert_close(model.get_parameter(weight), expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            tuner.codebooks[weight].centroids, explicit.centroids[weight.replace(".", "_")].data
        )
        assert (tuner.codebooks[weight].centroids - start[weight]).abs().max() > 1e-3
    for bias in ("0.bias", "3.bias", "5.bias"):
        torch.testing.assert_close(
            model.get_parameter(bias), explicit.model.get_parameter(bias), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_after_100_adam_steps_a_cluster_is_one_value_and_the_pruned_are_plus_zero(dtype, layout):
    model = net(dtype)
    model[0].to(memory_format=layout)
    books = shared(model)
    before = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=0.1)
    tuner = CodebookTuner(model, books)
    with tuner.attach(optimizer):
        train(model, optimizer, range(100))
    integers = {torch.float32: torch.int32, torch.bfloat16: torch.int16}[dtype]
    for members, pruned in groups(model, books):
        assert all(len(cluster.view(integers).unique()) <= 1 for cluster in members)
        assert pruned.view(integers).eq(0).all()
    assert all(
        not torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True)
    )
    for name, book in tuner.codebooks.items():
        assert torch.equal(book.decode(), model.get_parameter(name))


def test_outside_attach_a_cluster_falls_apart():
    model = net()
    books = shared(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with CodebookTuner(model, books).attach(optimizer):
        train(model, optimizer, range(2))
    train(model, optimizer, range(1))
    for members, pruned in groups(model, books):
        assert any(len(cluster.unique()) > 1 for cluster in members)
        assert pruned.any()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_k_steps_save_load_and_k_steps_are_2k_steps_bit_for_bit(name):
    start = net(torch.float32)
    books = shared(start)
    whole, half, resumed = (copy.deepcopy(start) for _ in range(3))
    optimizer = OPTIMIZERS[name](whole.parameters())
    with CodebookTuner(whole, books).attach(optimizer):
        train(whole, optimizer, range(14))

    optimizer, tuner = OPTIMIZERS[name](half.parameters()), CodebookTuner(half, books)
    with tuner.attach(optimizer):
        train(half, optimizer, range(7))
    buffer = io.BytesIO()
    torch.save((half.state_dict(), optimizer.state_dict(), tuner.state_dict()), buffer)
    buffer.seek(0)
    model_state, optimizer_state, tuner_state = torch.load(buffer, weights_only=True)

    optimizer, tuner = OPTIMIZERS[name](resumed.parameters()), CodebookTuner(resumed, books)
    resumed.load_state_dict(model_state)
    optimizer.load_state_dict(optimizer_state)
    tuner.load_state_dict(tuner_state)
    with tuner.attach(optimizer):
        train(resumed, optimizer, range(7, 14))
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one.view(torch.int32), other.view(torch.int32))


def test_loading_a_state_puts_its_values_into_the_weights():
    model = net()
    books = shared(model)
    tuner = CodebookTuner(model, books)
    state = tuner.state_dict()
    expected = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with tuner.attach(optimizer):
        train(model, optimizer, range(3))
        tuner.load_state_dict(state)
    assert all(torch.equal(model.get_parameter(name), expected[name]) for name in books)


def test_a_centroid_that_lands_on_zero_waits():
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, 0.5, -1.0, 0.0]]))
    quantize_(model, 1)
    books = codebooks_of(model)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    with CodebookTuner(model, books).attach(optimizer):
        model.weight.grad = torch.tensor([[0.25, 0.25, 1.0, 9.0]])
        optimizer.step()
        assert model.weight.tolist() == [[0.5, 0.5, -2.0, 0.0]]  # 0.5 - (0.25 + 0.25) is zero
        model.weight.grad = torch.tensor([[0.0, 0.25, 0.0, 9.0]])
        optimizer.step()
    assert model.weight.tolist() == [[0.25, 0.25, -2.0, 0.0]]


def test_a_frozen_or_unused_weight_stays():
    model = net()
    books = shared(model)
    model[5].weight.requires_grad_(False)
    before = model[5].weight.clone()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.01)
    with CodebookTuner(model, books).attach(optimizer):
        train(model, optimizer, range(3))
    assert torch.equal(model[5].weight, before)


def test_a_centroid_without_weights_stays():
    codes = torch.tensor([[0, 2, -1]], dtype=torch.int16)
    model = nn.Linear(3, 1, bias=False)
    tuner = CodebookTuner(model, {"weight": Codebook(torch.tensor([1.0, 5.0, 2.0]), codes)})
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    with tuner.attach(optimizer):
        assert model.weight.tolist() == [[1.0, 2.0, 0.0]]
        model.weight.grad = torch.ones(1, 3)
        optimizer.step()
    assert tuner.codebooks["weight"].centroids.tolist() == [0.5, 5.0, 1.5]


@pytest.mark.parametrize(
    ("books", "message"),
    [
        ({"weihgt": (4, 6)}, r"codebook 'weihgt': Linear has no such weight of shape \(4, 6\)"),
        ({"weight": (6, 4)}, r"codebook 'weight': Linear has no such weight of shape \(6, 4\)"),
    ],
)
def test_a_codebook_that_does_not_fit_is_named(books, message):
    made = {n: Codebook(torch.ones(1), torch.zeros(s, dtype=torch.int16)) for n, s in books.items()}
    with pytest.raises(ConfigError, match=message):
        CodebookTuner(nn.Linear(6, 4), made)


def test_a_code_beyond_the_codebook_is_named():
    book = Codebook(torch.ones(16), torch.full((4, 6), 17, dtype=torch.int16))
    with pytest.raises(ConfigError, match=r"'weight': code 17, but the codebook has 16 entries"):
        CodebookTuner(nn.Linear(6, 4), {"weight": book})


def test_an_optimizer_of_another_model_is_refused():
    model = net()
    tuner = CodebookTuner(model, shared(model))
    with pytest.raises(ConfigError, match=r"does not have '0.weight'"):
        tuner.attach(torch.optim.SGD(net().parameters(), 0.1))
