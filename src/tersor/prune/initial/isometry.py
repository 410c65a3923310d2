"""Approximate isometry: give a sparse layer the weights that keep the norm of a signal best.

Pruning scales down and spreads the singular values of a layer. Its kept weights are moved, without
data and before training, so that they come back to 1 as far as the mask lets them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.masks import MaskSet
from tersor.core.report import Report, Value
from tersor.core.tables import look_up
from tersor.core.weights import Weight, prunable
from tersor.prune.initial.blocks import blocks

_STRETCH = 20  # steps of L-BFGS after which it is seen whether it has settled
_SETTLED = 1e-3  # it has if the objective fell by a smaller share than this
_EXACT = 1e-12  # an objective a row that is 0 but for rounding


def approximate_isometry_(
    model: nn.Module, masks: MaskSet, *, solver: str = "lbfgs", steps: int = 1000
) -> Report:
    """Move the kept weights of each layer to where the layer is closest to an isometry, in place.

    minimise 1/4 * ||G - I||_F**2,   G = A @ A.T or A.T @ A, whichever is smaller,   A = C * W

    A is (out, in * kernel) and C its mask. It is zero where all singular values of A are 1. Layers
    do not depend on each other; gates, groups and attention's projections count as layers of their
    own. No objective rises; what is not kept is 0 before and after. Embeddings are left alone.

    Args:
        model: its weights at the time are where the search starts; orthogonal ones are best
            (`initialise_(model, torch.nn.init.orthogonal_)`).
        masks: of some of its weights; they are applied.
        solver: "lbfgs" with strong Wolfe line search, or "sgd": what the paper's code does, on
            ||A @ A.T - I||_F, not squared and never transposed, with rate 0.1. That one does not
            settle, as its gradient has the same size however near it is, and it cannot reach 0
            where a layer has more outputs than inputs.
        steps: at most so many of the solver for each layer; the paper's code makes 10,000.

    Returns:
        A report: for each layer ||G - I||_F before and after, the smallest singular value and their
        mean, after.

    Raises:
        ConfigError: as `MaskSet.apply`, the solver is unknown, or `steps` is below 1.

    Source: Lee, Ajanthan, Gould and Torr 2020, arXiv 1906.06307, section 5, approximate isometry.
    Differences with "lbfgs": squared norm, smaller Gram matrix, layer by layer until it settles.

    >>> _ = torch.manual_seed(0)
    >>> model = nn.Linear(20, 20)
    >>> _ = nn.init.orthogonal_(model.weight)
    >>> masks = MaskSet({"weight": torch.rand(20, 20) < 0.5})
    >>> row = approximate_isometry_(model, masks).rows[0]
    >>> row["norm before"] > 2, row["norm after"] < 1e-4
    (True, True)
    """
    solve = look_up("solver", solver, {"lbfgs": _lbfgs, "sgd": _sgd})
    if steps < 1:
        raise ConfigError(f"approximate_isometry_: steps {steps}; expected 1 or more")
    masks.apply(model)
    skipped: dict[str, str] = {}
    rows: list[dict[str, Value]] = []
    squares = [0.0, 0.0]  # of the norms before and after
    for weight in prunable(model):
        if weight.name not in masks:
            skipped[weight.name] = "has no mask"
            continue
        if weight.kind == "embedding":
            skipped[weight.name] = "an embedding: its rows are looked up, not multiplied"
            continue
        for label, block, mask in _maps(weight, masks[weight.name]):
            # In float64, for the last digits of the line search; (rows, columns).
            start = block.to("cpu", torch.float64, copy=True).flatten(1)
            found = solve(start, mask.cpu().flatten(1), steps)
            block.copy_(found.view(block.shape))
            norms = [distance_to_isometry(matrix).item() for matrix in (start, found)]
            squares = [total + norm**2 for total, norm in zip(squares, norms, strict=True)]
            spectrum = torch.linalg.svdvals(found)
            rows.append(
                {
                    "name": label,
                    "shape": "x".join(map(str, start.shape)),
                    "kept": int(mask.sum()),
                    "norm before": norms[0],
                    "norm after": norms[1],
                    "least singular value": spectrum.min().item(),
                    "mean singular value": spectrum.mean().item(),
                }
            )
    summary: dict[str, Value] = {
        "solver": solver,
        "norm before": math.sqrt(squares[0]),
        "norm after": math.sqrt(squares[1]),
    }
    return Report("Approximate isometry", summary, rows, skipped)


def distance_to_isometry(matrix: Tensor) -> Tensor:
    """||G - I||_F of the smaller Gram matrix G: 0 where all singular values of a matrix are 1.

    >>> distance_to_isometry(torch.diag(torch.tensor([1.0, 2.0]))).item()
    3.0
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    norm: Tensor = _off_identity(wide).norm()
    return norm


def _maps(weight: Weight, mask: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, values (a view) and mask of each linear map in a weight, (rows, in, *kernel)."""
    parts = blocks(weight, weight.parameter.detach())
    for index, (values, kept) in enumerate(zip(parts, blocks(weight, mask), strict=True)):
        yield f"{weight.name}[{index}]" if len(parts) > 1 else weight.name, values, kept


def _off_identity(wide: Tensor) -> Tensor:
    """A @ A.T - I"""
    return wide @ wide.T - torch.eye(len(wide), dtype=wide.dtype, device=wide.device)


def _lbfgs(start: Tensor, kept: Tensor, steps: int) -> Tensor:
    """The kept entries alone are the variables, so no other can become anything but 0."""
    if not kept.any():
        return start
    if start.shape[0] > start.shape[1]:
        return _lbfgs(start.T, kept.T, steps).T
    matrix = start.clone(memory_format=torch.contiguous_format)
    free = matrix[kept].requires_grad_()

    def objective() -> Tensor:
        matrix[kept] = free.detach()
        off = _off_identity(matrix)
        free.grad = (off @ matrix)[kept]  # of 1/4 * ||G - I||_F**2
        return off.square().sum() / 4

    optimizer = torch.optim.LBFGS(
        [free],
        max_iter=_STRETCH,
        max_eval=2 * _STRETCH,
        tolerance_grad=0,
        tolerance_change=0,
        history_size=_STRETCH,
        line_search_fn="strong_wolfe",
    )
    least, best = objective(), start
    for begin in range(0, steps, _STRETCH):
        if least < _EXACT * len(start):
            break
        optimizer.param_groups[0]["max_iter"] = min(_STRETCH, steps - begin)
        optimizer.step(objective)
        reached = objective()
        settled = reached > (1 - _SETTLED) * least
        if reached < least:
            least, best = reached, matrix.clone()
        if settled:
            break
    return best


def _sgd(start: Tensor, kept: Tensor, steps: int) -> Tensor:
    matrix = start.clone(memory_format=torch.contiguous_format)
    for _ in range(steps):
        off = _off_identity(matrix)
        norm = off.norm()
        if norm == 0:
            break
        matrix -= 0.1 * (2 / norm) * (off @ matrix) * kept  # the gradient of ||G - I||_F
    return matrix
