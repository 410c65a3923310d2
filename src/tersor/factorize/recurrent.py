"""Factors of the weights of recurrent layers, which compute with the product.

A recurrent layer of torch runs as one operation with whole weights. So its factors stand in the
weight's place, under its name, and are multiplied out once a call: fewer numbers to store and to
train, and no time saved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from tersor.factorize.factorizer import Factorizer, Rank


class WeightFactors(nn.Module):
    """The factors of one weight, as parameters `factor0`, `factor1` and so on.

    Args:
        layer: a linear layer with this weight, see `stand_in`.
        factorizer: what makes factors of it.
        rank: of the product.
    """

    weight_kinds: ClassVar[dict[str, str]] = {f"factor{k}": "factor" for k in range(16)}

    def __init__(self, layer: nn.Module, factorizer: Factorizer, rank: Rank) -> None:
        super().__init__()
        built = nn.Sequential(*factorizer.build(layer, rank))
        for place, parameter in enumerate(built.parameters()):
            self.register_parameter(f"factor{place}", parameter)
        self.factorizer, self.rank = factorizer, rank

    def factors(self) -> list[nn.Parameter]:
        """The factors, in the order of the factorizer."""
        return list(self.parameters())

    def product(self) -> Tensor:
        """The weight that they stand for."""
        return self.factorizer.product(list(self.factors()))

    @torch.no_grad()
    def fill(self, layer: Any, factors: list[Tensor]) -> None:
        """Take factors, trained as the layer's weight is."""
        for parameter, factor in zip(self.factors(), factors, strict=True):
            parameter.copy_(factor)
            parameter.requires_grad_(layer.weight.requires_grad)

    def extra_repr(self) -> str:
        return f"{type(self.factorizer).__name__}, rank={self.rank}"


def stand_in(weight: nn.Parameter) -> nn.Linear:
    """A linear layer, without bias, whose weight is this parameter."""
    rows, columns = weight.shape
    layer: nn.Linear = skip_init(nn.Linear, columns, rows, bias=False, device="meta")
    layer.weight = weight
    return layer


def recurrent_weight(model: nn.Module, name: str) -> nn.Parameter | None:
    """The parameter of this name, if it is a weight of a recurrent layer that can have factors."""
    parent_name, _, own = name.rpartition(".")
    try:
        parent = model.get_submodule(parent_name)
    except AttributeError:
        return None
    return parent._parameters.get(own) if own.startswith("weight") and takes(parent) else None


def takes(module: nn.Module) -> bool:
    """Whether weights of this module can be factors: a recurrent layer, of torch's very class."""
    return type(module) in FACTORED or type(module) in FACTORED.values()


def put_(model: nn.Module, name: str, factors: WeightFactors) -> None:
    """Let factors be the weight of this name."""
    parent_name, _, own = name.rpartition(".")
    layer: Any = model.get_submodule(parent_name)
    del layer._parameters[own]
    if type(layer) in FACTORED:
        layer.__class__ = FACTORED[type(layer)]
        layer.__dict__.pop("_flat_weights")
        layer._flat_weight_refs = []
    layer._modules[own] = factors


def take_back_(model: nn.Module, name: str, factors: WeightFactors) -> None:
    """Let the product be the weight of this name; a layer without factors is torch's again."""
    parent_name, _, own = name.rpartition(".")
    layer: Any = model.get_submodule(parent_name)
    del layer._modules[own]
    first, *_ = factors.factors()
    layer._parameters[own] = nn.Parameter(factors.product().detach(), first.requires_grad)
    order = [n for n in layer._flat_weights_names if n in layer._parameters]
    layer._parameters = {n: layer._parameters[n] for n in order}
    if not any(isinstance(part, WeightFactors) for part in layer._modules.values()):
        layer.__class__ = next(plain for plain, ours in FACTORED.items() if ours is type(layer))
        layer._init_flat_weights()


def _products(layer: Any) -> list[Tensor]:
    """The weights that the layer runs with."""
    parts = (getattr(layer, name) for name in layer._flat_weights_names)
    return [p.product() if isinstance(p, WeightFactors) else p for p in parts]


def _not_kept(layer: Any, weights: object = None) -> None:
    """torch keeps references to the weights; these are made anew at each call."""
    layer._flat_weight_refs = []


class _Multiplied:
    """What all three do: torch reads the weights from `_flat_weights`, which here is made anew."""

    if not TYPE_CHECKING:
        _flat_weights = property(_products, _not_kept)
        _init_flat_weights = _update_flat_weights = flatten_parameters = _not_kept

        def forward(self, input, hx=None):
            return super().forward(input, hx)  # of its own, as its weights are no tensors


class FactoredLSTM(_Multiplied, nn.LSTM):
    """An LSTM some of whose weights are `WeightFactors`; made by `factorize_`."""


class FactoredGRU(_Multiplied, nn.GRU):
    """A GRU some of whose weights are `WeightFactors`; made by `factorize_`."""


class FactoredRNN(_Multiplied, nn.RNN):
    """A plain recurrent layer some of whose weights are `WeightFactors`; made by `factorize_`."""


FACTORED: dict[type[nn.Module], type[nn.Module]] = {
    nn.LSTM: FactoredLSTM,
    nn.GRU: FactoredGRU,
    nn.RNN: FactoredRNN,
}
"""A layer of torch to the layer that it becomes."""
