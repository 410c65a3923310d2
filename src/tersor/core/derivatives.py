"""Derivatives of a loss in some weights of a model as it is used, which stays as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tersor.core.seeding import rng_state, set_rng_state
from tersor.core.weights import Weight

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs and targets to a scalar, the mean over the samples of the batch."""


@contextlib.contextmanager
def differentiable(model: nn.Module, weights: Iterable[Weight] = ()) -> Iterator[None]:
    """Eval mode in which these weights have gradients; afterwards all is as it was.

    That is the training flag of each module, `requires_grad` of each weight (frozen ones too) and
    the global random generators. Take gradients by `torch.autograd.grad`, which leaves `.grad`.
    """
    flags = [(module, module.training) for module in model.modules()]
    parameters = [weight.parameter for weight in weights]
    frozen = [p for p in parameters if not p.requires_grad]
    state = rng_state()
    model.eval()
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        # cuDNN's recurrent layers refuse a backward pass in eval mode; torch's own do not.
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=not _is_recurrent(model)):
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module, training in flags:
            module.training = training
        set_rng_state(state)


@contextlib.contextmanager
def twice_differentiable(model: nn.Module, weights: Iterable[Weight]) -> Iterator[None]:
    """As `differentiable`, with attention as plain matrix products: fused, it has no second one."""
    with differentiable(model, weights), sdpa_kernel(SDPBackend.MATH):
        yield


def mean_hessian_product(
    model: nn.Module,
    weights: Sequence[Weight],
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Loss,
    vectors: Sequence[Tensor],
) -> list[Tensor]:
    """H v, H the Hessian of the mean loss over all samples of all batches; one tensor per weight.

    Args:
        batches: inputs and targets on the model's device; one at least.
        loss: `outputs, targets -> scalar`, the mean over the batch.
    """
    parameters = [weight.parameter for weight in weights]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    samples = 0
    with twice_differentiable(model, weights):
        for inputs, targets in batches:
            samples += len(inputs)
            found = hessian_product(loss(model(inputs), targets), parameters, vectors)
            for total, part in zip(sums, found, strict=True):
                total.add_(part, alpha=len(inputs))
    return [total.div_(samples) for total in sums]


def hessian_product(
    loss: Tensor, parameters: Sequence[Tensor], vectors: Sequence[Tensor]
) -> list[Tensor]:
    """The Hessian of a scalar in these parameters, times a vector given as one tensor of each.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> hessian_product((x[0] * x[1]).square(), [x], [torch.tensor([1.0, 0.0])])
    [tensor([8., 8.])]
    """
    slopes = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    along = torch.stack([(s * v).sum() for s, v in zip(slopes, vectors, strict=True)]).sum()
    if not along.requires_grad:  # the scalar is linear in all of them
        return [torch.zeros_like(parameter) for parameter in parameters]
    return list(torch.autograd.grad(along, parameters, materialize_grads=True))


def _is_recurrent(model: nn.Module) -> bool:
    return any(isinstance(module, nn.RNNBase) for module in model.modules())
