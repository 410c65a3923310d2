"""A loss for language models with tied embeddings: words that are alike are half right."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from tersor.core.errors import ConfigError


def augmented_loss(
    logits: Tensor,
    targets: Tensor,
    embedding: Tensor,
    *,
    temperature: float = 20.0,
    ignore_index: int = -100,
) -> Tensor:
    """KL(y ‖ softmax(logits / T)), where y = softmax(L L_target / T): a mean over targets.

    Added to the cross-entropy, times a weight alpha; with alpha = 0 that is plain tying.

    Args:
        logits: (N, V, *) as `cross_entropy` takes them.
        targets: (N, *) of numbers below V.
        embedding: L, (V, d), of which `tie_` makes the output layer too. It gets no gradient from
            here: y is a target.
        temperature: T > 0; a large one makes y flat.
        ignore_index: a target that does not count.

    Returns:
        A scalar, 0 or more; 0 for no targets that count.

    Raises:
        ConfigError: the temperature is not above 0, or the shapes do not fit.

    Source: Inan, Khosravi and Socher 2016, arXiv 1611.01462, where alpha is
        proportional to T.

    >>> import torch
    >>> words = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> sure = words @ words[0]
    >>> target, other = torch.tensor([0]), torch.tensor([2])
    >>> found = [augmented_loss(sure[None], t, words, temperature=0.1) for t in (target, other)]
    >>> round(float(found[0]), 3), bool(found[1] > found[0])
    (0.0, True)
    """
    if not 0 < temperature < float("inf"):
        raise ConfigError(f"temperature: {temperature}; expected a number above 0")
    words = logits.shape[1] if logits.dim() > 1 else 0
    if embedding.dim() != 2 or len(embedding) != words or logits.shape[2:] != targets.shape[1:]:
        raise ConfigError(
            f"augmented_loss: logits {tuple(logits.shape)}, targets {tuple(targets.shape)}, "
            f"embedding {tuple(embedding.shape)}; expected (N, V, *), (N, *) and (V, d)"
        )
    counted = targets.reshape(-1)
    flat = logits.movedim(1, -1).reshape(-1, words)
    used = counted != ignore_index
    counted, flat = counted[used], flat[used]
    table = embedding.detach()
    wanted = F.log_softmax(table[counted] @ table.T / temperature, dim=1)  # (targets, V)
    found = F.log_softmax(flat / temperature, dim=1)
    total = F.kl_div(found, wanted, reduction="sum", log_target=True)
    return total / max(len(counted), 1)
