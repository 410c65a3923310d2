"""A layer that was replaced by factors: ordinary layers in sequence, which fold back into one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from tersor.factorize.factorizer import Factorizer, Rank


class Factors(nn.Sequential):
    """Layers in the place of one; their weights are the factors of its weight.

    Args:
        layer: the one; its weight is read only for device and dtype.
        factorizer: what makes factors of it.
        rank: of the product.
    """

    def __init__(self, layer: nn.Module, factorizer: Factorizer, rank: Rank) -> None:
        super().__init__(*factorizer.build(layer, rank))
        self.factorizer = factorizer
        self.rank = rank
        # A tuple, as a module would be registered: it holds nothing but what kind of layer it was.
        self._layer = (copy.deepcopy(layer).to("meta"),)
        self.train(layer.training)

    def __getitem__(self, idx: slice | int) -> Any:
        """One of the layers; some of them are a plain Sequential, whose product is another one."""
        return (
            nn.Sequential(*list(self)[idx]) if isinstance(idx, slice) else super().__getitem__(idx)
        )

    def factors(self) -> list[nn.Parameter]:
        """The factors, in the order of the layers; biases are none."""
        return [p for name, p in self.named_parameters() if name.rpartition(".")[2] != "bias"]

    def product(self) -> Tensor:
        """The weight that they stand for."""
        return self.factorizer.product(list(self.factors()))

    @torch.no_grad()
    def fill(self, layer: Any, factors: list[Tensor]) -> None:
        """Take factors, and the bias of the layer."""
        for parameter, factor in zip(self.factors(), factors, strict=True):
            parameter.copy_(factor)
            parameter.requires_grad_(layer.weight.requires_grad)
        bias = self._bias()
        if bias is not None:
            bias.copy_(layer.bias)
            bias.requires_grad_(layer.bias.requires_grad)

    @torch.no_grad()
    def folded(self) -> nn.Module:
        """One layer of the old kind, with the product as its weight."""
        weight, bias = self.product(), self._bias()
        layer: Any = copy.deepcopy(self._layer[0]).to_empty(device=weight.device)
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
        layer.train(self.training)
        return layer  # type: ignore[no-any-return]

    def _bias(self) -> nn.Parameter | None:
        found = [p for name, p in self.named_parameters() if name.rpartition(".")[2] == "bias"]
        return found[0] if found else None


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of that name."""
    parent_name, _, own = name.rpartition(".")
    parent = model.get_submodule(parent_name)
    if isinstance(parent, nn.TransformerEncoderLayer):
        # Its fused form reads the weights of its layers by name; this keeps it from being tried.
        parent.activation_relu_or_gelu = 0
    setattr(parent, own, module)
