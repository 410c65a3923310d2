import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tersor.core.errors import ConfigError
from tersor.quantize import (
    Affine,
    CodebookTuner,
    Product,
    Residual,
    quantize_,
    quantize_vectors_,
)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.Tanh(),
        nn.ConvTranspose2d(6, 4, 2, groups=2),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).double()


def some_masks(model: nn.Module) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(1)
    return {
        n: torch.rand(p.shape, generator=draws) < 0.6
        for n, p in model.named_parameters()
        if "weight" in n
    }


def loss_of(model, number: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(number)
    return model(torch.randn(5, 2, 5, 5, generator=draws, dtype=torch.float64)).square().mean()


QUANTIZERS = {
    "shared": Product(k=5, dimension=3),
    "position": Product(k=4, dimension=3, codebook="position"),
}
every_one = pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)


@every_one
def test_the_weights_are_those_of_quantize_and_the_codebooks_say_them_again(quantizer):
    model, other = net(), net()
    books, report = quantize_vectors_(model, quantizer, masks=some_masks(model))
    expected = quantize_(other, quantizer, masks=some_masks(other))
    assert report == expected
    for name, parameter in other.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter)
    assert list(books) == ["0.weight", "2.weight", "4.weight"]
    for name, book in books.items():
        assert torch.equal(book.decode(), model.get_parameter(name))


class Explicit(nn.Module):
    """The network with its centroids as parameters, and its weights gathered from them."""

    def __init__(self, model, books) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.codes = {name: book.codes.long() for name, book in books.items()}
        for name in books:
            self.model.get_parameter(name).requires_grad_(False)
        self.centroids = nn.ParameterDict(
            {n.replace(".", "_"): nn.Parameter(b.centroids.clone()) for n, b in books.items()}
        )

    def weights(self) -> dict[str, Tensor]:
        return {
            name: torch.where(codes >= 0, self.centroids[name.replace(".", "_")][codes], 0.0)
            for name, codes in self.codes.items()
        }

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self.model, self.weights(), x)


@every_one
@pytest.mark.parametrize("average", [False, True])
def test_a_centroid_has_the_sum_or_the_mean_of_the_gradients_of_its_subvectors(quantizer, average):
    model = net()
    books, _ = quantize_vectors_(model, quantizer, masks=some_masks(model))
    explicit = Explicit(model, books)
    loss_of(explicit).backward()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with CodebookTuner(model, books, average=average).attach(optimizer):
        loss_of(model).backward()
        optimizer.step()
    for name, book in books.items():
        expected = explicit.centroids[name.replace(".", "_")].grad
        members = torch.bincount(book.codes[book.codes >= 0].long(), minlength=len(expected))
        if average:
            expected = expected / members.clamp(min=1)
        found = model.get_parameter(name).grad
        used = book.codes >= 0
        torch.testing.assert_close(found[used], expected[book.codes[used].long()])
        assert (found[~used] == 0).all()


def test_tuning_moves_the_centroids_and_leaves_the_assignments():
    model = net()
    quantizer = QUANTIZERS["shared"]
    books, _ = quantize_vectors_(model, quantizer)
    before, start = loss_of(model).item(), model[4].weight.detach().clone()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with CodebookTuner(model, books).attach(optimizer):
        for _ in range(20):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
    assert loss_of(model).item() < before
    rows, first = (w.detach()[:, :63].reshape(-1, 3) for w in (model[4].weight, start))
    assert not torch.equal(rows, first)
    assert torch.equal(rows.unique(dim=0, return_inverse=True)[1].unique(), torch.arange(5))
    pairs = torch.cat([rows, first], 1).unique(dim=0)
    assert len(pairs) == len(rows.unique(dim=0)) == 5


def test_k_steps_save_load_and_k_steps_are_2k_steps_bit_for_bit():
    start = net()
    books, _ = quantize_vectors_(start, QUANTIZERS["shared"], masks=some_masks(start))

    def go(model, tuner, optimizer, numbers):
        with tuner.attach(optimizer):
            for number in numbers:
                optimizer.zero_grad()
                loss_of(model, number).backward()
                optimizer.step()

    def made(model):
        tuner = CodebookTuner(model, books, average=True)
        return model, tuner, torch.optim.AdamW(model.parameters(), 0.01)

    whole = made(copy.deepcopy(start))
    go(*whole, range(8))
    half, again = made(copy.deepcopy(start)), made(copy.deepcopy(start))
    go(*half, range(4))
    buffer = io.BytesIO()
    torch.save([part.state_dict() for part in half], buffer)
    buffer.seek(0)
    for part, state in zip(again, torch.load(buffer, weights_only=True), strict=True):
        part.load_state_dict(state)
    go(*again, range(4, 8))
    for one, other in zip(whole[0].parameters(), again[0].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("quantizer", "message"),
    [
        (Affine(4), r"'0.weight': Affine\(bits=4\) has no subvectors"),
        (Residual(2, k=4), "'0.weight': a codebook of 2 stages has no values of its own to train"),
    ],
)
def test_what_has_no_codebook_to_train_is_named_and_nothing_changes(quantizer, message):
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=message):
        quantize_vectors_(model, quantizer)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
