"""Losses for scoring without labels: a target that the network's own outputs, or nothing, give.

Each takes `outputs, targets` as a loss does and does not look at the targets, so it goes into
`ScoringData(batches, loss=uniform_target)` and makes any gradient criterion unsupervised.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def uniform_target(outputs: Tensor, targets: Tensor | None = None) -> Tensor:
    """Cross-entropy against the uniform distribution; its gradient is (q - 1/C) / N.

    loss = mean over the batch of -1/C * sum_k log q_k,   q = softmax(outputs)

    Shapes: outputs (N, C, *), logits; the result is a scalar. Targets are not looked at.

    Source: Lee, Ajanthan, Gould and Torr 2020, arXiv 1906.06307, unsupervised pruning with a
    uniform target.

    >>> import torch
    >>> round(uniform_target(torch.zeros(3, 4)).exp().item(), 4)
    4.0
    """
    return -F.log_softmax(outputs, dim=1).mean()


def predicted_label(outputs: Tensor, targets: Tensor | None = None) -> Tensor:
    """Cross-entropy against the class that the network itself finds most likely.

    loss = mean over the batch of -log max_k q_k,   q = softmax(outputs)

    Shapes: as `uniform_target`.

    Source: as `uniform_target`, with the prediction as a label.

    >>> import torch
    >>> round(predicted_label(torch.tensor([[0.0, 0.0, -1e9]])).exp().item(), 4)
    2.0
    """
    return F.cross_entropy(outputs, outputs.argmax(dim=1))


def soft_prediction(outputs: Tensor, targets: Tensor | None = None) -> Tensor:
    """Cross-entropy against the network's own softmax: the entropy of its prediction.

    loss = mean over the batch of -sum_k q_k log q_k,   q = softmax(outputs)

    Shapes: as `uniform_target`.

    Source: as `uniform_target`, with the raw prediction as a target. The gradient goes through
    the target too: with the target held fixed it would be q - q = 0 for every network.

    >>> import torch
    >>> round(soft_prediction(torch.zeros(3, 4)).exp().item(), 4)
    4.0
    """
    log_q = F.log_softmax(outputs, dim=1)
    return -(log_q.exp() * log_q).sum(dim=1).mean()
