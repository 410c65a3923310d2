"""A model for inference: each layer on the kernel that was the fastest for its values."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.threads import threads as core_threads
from tersor.core.weights import Selectors, prunable
from tersor.run.applying import follow_plan, known_plan
from tersor.run.choosing import GAIN, Choice, Progress, caller
from tersor.run.example import Arguments, arguments, batch_of, checked_sizes
from tersor.run.modules import copied, own
from tersor.run.plan import Machine, Plan
from tersor.run.racing import race
from tersor.run.reading import Weights, fill, require_values
from tersor.run.sites import weights_of


def deploy(
    model: nn.Module,
    example_input: Tensor | tuple[Any, ...] | Mapping[str, Any],
    *,
    batch_sizes: Iterable[int] | None = None,
    threads: int | None = None,
    plan: str | os.PathLike[str] | Plan | None = None,
    weights: Weights | None = None,
    prefer: str = "speed",
    select: Selectors = None,
    ignore: Selectors = None,
    compile: bool = False,
    progress: Progress | None = None,
) -> nn.Module:
    """A copy of a model for inference on this machine's CPU, never slower than the model itself.

    For each layer the kernels that its values allow are timed against torch's layer at the batch
    sizes asked for, in turns, and the fastest is taken if it gains at all of them; then the whole
    model is timed, and if that gained nothing the copy keeps torch's layers. Batch norms behind
    convolutions and linear layers are folded into them, activations behind a kernel are done by it.
    Sums are added in another order than torch's: `plan_of(deployed).difference` says how far apart
    the outputs are. They are the same bits for every number of threads and every call.

    Args:
        model: float32 on the CPU; it is not changed. With `weights` it may be on the meta device.
        example_input: what the model is called with: a batch, a tuple of arguments, or a mapping of
            named ones.
        batch_sizes: to time at; the tensors of `example_input` are cut or repeated along their
            first dimension. None = the example as it is.
        threads: of torch while it is timed; None = as they are.
        plan: a plan, or the name of its file. A file that is there and was made for this model on
            a machine like this one is taken and nothing is timed; else it is made and written.
        weights: read the weights from there instead of from the model: an open `.terse` file. With
            a plan they go straight to kernel storage, and no dense weight of such a layer is made.
        prefer: "speed", or "memory" = of the kernels the smallest, though it may be slower.
        select, ignore: layers, as in `tersor.prune_`.
        compile: also time `torch.compile` of the result, which takes a compiler and minutes, and
            return that if it is the fastest.
        progress: called as layers are done.

    Raises:
        ConfigError: an argument is out of its range, the example does not fit the model, or the
            plan is of another model.

    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    >>> deployed = deploy(model, torch.zeros(1, 64))
    >>> [layer.name for layer in plan_of(deployed).layers]
    ['0', '2']
    """
    example = arguments(example_input)
    if prefer not in ("speed", "memory"):
        raise ConfigError(f"deploy: prefer {prefer!r}, expected 'speed' or 'memory'")
    sizes = checked_sizes(batch_sizes, example)
    if threads is not None and threads < 1:
        raise ConfigError(f"deploy: threads {threads}, expected 1 or more")
    if weights_of(model) or isinstance(model, nn.MaxPool2d):
        raise ConfigError(
            f"deploy: the model is a single {type(model).__name__}; put it into nn.Sequential"
        )
    with core_threads(threads) as used, torch.no_grad():
        machine = Machine.here(used)
        known, notes = known_plan(plan, machine, sizes)
        work = copied(model)
        if weights is None:
            require_values(work)
        if known is not None:
            follow_plan(work, known, weights)
            if select is not None or ignore is not None or prefer != "speed":
                notes = (*notes, "a plan is followed: prefer, select and ignore are for a search")
            made = replace(known, notes=notes)
        else:
            if weights is not None:
                fill(work, weights, set())
            chosen = _names(work, select, ignore)
            made = Choice(work, example, sizes, machine, prefer, chosen, progress).run()
            made = replace(made, notes=(*notes, *made.notes))
            if plan is not None and not isinstance(plan, Plan):
                made.save(plan)
        own(work)
        object.__setattr__(work, "_tersor_plan", made)
        return _compiled(work, example, sizes) if compile else work


def plan_of(deployed: nn.Module) -> Plan:
    """The plan of a model that `deploy` returned. ConfigError: it did not."""
    made = getattr(getattr(deployed, "_orig_mod", deployed), "_tersor_plan", None)
    if made is None:
        raise ConfigError(f"{type(deployed).__name__} was not made by tersor.deploy")
    return made  # type: ignore[no-any-return]


def _names(work: nn.Module, select: Selectors, ignore: Selectors) -> set[str] | None:
    """Weights that are to be deployed; None = all."""
    if select is None and ignore is None:
        return None
    return {
        name
        for weight in prunable(work, select=select, ignore=ignore)
        for name in (weight.name, *weight.aliases)
    }


def _compiled(work: nn.Module, example: Arguments, sizes: tuple[int, ...]) -> nn.Module:
    """The model compiled, if that is faster at every batch size."""
    compiled = torch.compile(work)
    batches = {size: batch_of(example, size) for size in sizes}
    times = {
        size: race({"plain": caller(work, *b), "compiled": caller(compiled, *b)})  # type: ignore[arg-type]
        for size, b in batches.items()
    }
    made = plan_of(work)
    fast = all(t["compiled"] <= GAIN * t["plain"] for t in times.values())
    text = "; ".join(
        f"batch {s}: {t['compiled']:.3f} ms against {t['plain']:.3f} ms" for s, t in times.items()
    )
    note = f"torch.compile {'taken' if fast else 'not taken'}: {text}"
    object.__setattr__(work, "_tersor_plan", replace(made, notes=(*made.notes, note)))
    return compiled if fast else work  # type: ignore[return-value]
