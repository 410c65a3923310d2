"""Optimizers and training steps that the tests of sparse training share."""

import io

import torch
from torch import nn

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, amsgrad=True),
}


def batch(step: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 12, generator=generator, dtype=torch.float64)
    y = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    return x.to(dtype), y.to(dtype)


def loss(model: nn.Module, step: int) -> torch.Tensor:
    x, y = batch(step, next(model.parameters()).dtype)
    return (model(x) - y).square().mean()


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range):
    """Train step by step; after each one its number (from 1) is given."""
    for number in numbers:
        optimizer.zero_grad()
        loss(model, number).backward()
        optimizer.step()
        yield number + 1


def through_a_file(state: dict) -> dict:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def buffers(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> list[torch.Tensor]:
    state = optimizer.state[parameter]
    return [t for t in state.values() if isinstance(t, torch.Tensor) and t.dim()]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bits of float32 as integers: +0.0 is 0, -0.0 is not."""
    return tensor.detach().view(torch.int32)
