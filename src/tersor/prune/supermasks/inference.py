"""Which task an input is of: what the outputs of all masks at once say, to be made small."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tersor.core.errors import ConfigError

Objective = Callable[[Tensor, int], Tensor]
"""Logits (N, outputs) and the number of classes, to a scalar that the right task makes small."""


def entropy(logits: Tensor, classes: int) -> Tensor:
    """-sum(p log p) of the softmax over all outputs, the mean over the batch; in nats.

    Source: Wortsman et al. 2020, arXiv 2006.14769, section 3.2. As in their code, superfluous
    outputs count like the others, so the number of classes has no say.

    >>> round(entropy(torch.zeros(1, 4), 2).item(), 4)  # log 4
    1.3863
    """
    shares = logits.log_softmax(dim=1)
    return -(shares.exp() * shares).sum(dim=1).mean()


def superfluous(logits: Tensor, classes: int) -> Tensor:
    """G = logsumexp of all outputs, of which those beyond the classes alone have a gradient.

    A network that was trained on labels below `classes` has made the other outputs, the superfluous
    neurons, small on inputs of its task; so the right mask makes G fall.

    Raises:
        ConfigError: there are no outputs beyond the classes.

    Source: Wortsman et al. 2020, arXiv 2006.14769, section 3.3 and appendix ("objective G").

    >>> logits = torch.zeros(1, 4, requires_grad=True)
    >>> superfluous(logits, 2).backward()
    >>> logits.grad
    tensor([[0.0000, 0.0000, 0.2500, 0.2500]])
    """
    if logits.shape[1] <= classes:
        raise ConfigError(
            f"objective superfluous: {logits.shape[1]} outputs for {classes} classes; expected "
            "more, as it looks at the outputs that no label uses"
        )
    split = torch.cat([logits[:, :classes].detach(), logits[:, classes:]], dim=1)
    return split.logsumexp(dim=1).mean()


OBJECTIVES: dict[str, Objective] = {"entropy": entropy, "superfluous": superfluous}


def one_shot(gradient: Callable[[list[int]], Tensor], count: int) -> int:
    """The candidate whose share lowers the objective most, by one gradient at equal shares.

    Args:
        gradient: candidates to the derivative of the objective by each one's share.
        count: of candidates, 1 or more.
    """
    return int(gradient(list(range(count))).argmin())


def binary(gradient: Callable[[list[int]], Tensor], count: int) -> int:
    """Halve the candidates, log2(count) times, keeping those that lower the objective most.

    Args: as `one_shot`. For two candidates it is the same.
    """
    candidates = list(range(count))
    while len(candidates) > 1:
        order = gradient(candidates).argsort(stable=True)
        candidates = [candidates[i] for i in order[: (len(candidates) + 1) // 2].tolist()]
    return candidates[0]


SEARCHES: dict[str, Callable[[Callable[[list[int]], Tensor], int], int]] = {
    "one_shot": one_shot,
    "binary": binary,
}
