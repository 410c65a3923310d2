"""The linear maps that lie one below the other in one weight tensor: gates, groups, projections."""

from __future__ import annotations

from torch import Tensor, nn

from tersor.core.weights import Weight


def blocks(weight: Weight, tensor: Tensor) -> tuple[Tensor, ...]:
    """Views of a tensor of the weight's shape, each a linear map of its own, (rows, in, *kernel).

    An LSTM holds four gates, a GRU three, attention its three projections, a grouped convolution
    its groups; all others are one map.

    >>> gru = nn.GRU(3, 5)
    >>> [tuple(b.shape) for b in blocks(Weight("w", "recurrent", gru.weight_ih_l0, gru),
    ...                                 gru.weight_ih_l0)]
    [(5, 3), (5, 3), (5, 3)]
    """
    return tensor.chunk(_count(weight.module, weight.name.rpartition(".")[2]))


def _count(module: nn.Module, name: str) -> int:
    if isinstance(module, nn.MultiheadAttention):
        return 3 if name == "in_proj_weight" else 1
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        if name.startswith("weight_hr"):  # the projection of an LSTM's state
            return 1
        if isinstance(module, nn.LSTM | nn.LSTMCell):
            return 4
        return 3 if isinstance(module, nn.GRU | nn.GRUCell) else 1
    groups = getattr(module, "groups", 1)
    return groups if isinstance(groups, int) else 1
