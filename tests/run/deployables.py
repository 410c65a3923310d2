"""Small networks with few values and many zeros, and races whose times are made up."""

import copy

import torch
from torch import nn

from tersor.run import choosing


def few_values_(model, density=0.3, seed=0):
    """Let each weight matrix have zeros and 15 values; biases and norms are random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                kept = torch.rand(parameter.shape, generator=generator) < density
                drawn = (drawn * 4).round().clamp(-7, 8).where(kept, torch.tensor(0.0)) / 16 + 0.0
            parameter.copy_(drawn)
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                drawn = torch.randn(buffer.shape, generator=generator)
                buffer.copy_(drawn.abs() + 0.5 if name.endswith("var") else drawn)
    return model.eval()


def mlp(seed=0):
    return few_values_(
        nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 24), nn.GELU(), nn.Linear(24, 5)),
        seed=seed,
    )


def cnn(seed=0):
    return few_values_(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 6, 3, stride=2, groups=2),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(6 * 3 * 3, 10),
            nn.BatchNorm1d(10),
        ),
        seed=seed,
    )


def images(batch=4, seed=0):
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def vectors(batch=4, width=40, seed=0):
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(seed))


def race_by(monkeypatch, time):
    """Let time(name, batch) be the milliseconds of every call that is timed from here on."""

    def race(calls, **_):
        out = next(iter(calls.values()))()
        out = out[0] if isinstance(out, tuple) else out
        return {name: time(name, out.shape[0]) for name in calls}

    monkeypatch.setattr(choosing, "race", race)


def prefer(monkeypatch, *kernels, chains=False):
    """Let layers on these kernels, and the model made of them, take half the time of others."""
    fast = {*kernels, "deployed", "chain" if chains else "apart"}
    race_by(monkeypatch, lambda name, _: 1.0 if {name, name.split("/")[0]} & fast else 2.0)


def in_float64(model, *arguments):
    def wide(a):
        return a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a

    with torch.no_grad():
        return copy.deepcopy(model).double()(*map(wide, arguments))


def gap(got, want):
    """Largest difference as a share of the largest value."""
    return ((got.double() - want.double()).abs().max() / want.double().abs().max()).item()
