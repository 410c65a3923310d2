"""The search: each layer's kernels are timed, the fastest takes its place; then all together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tersor.core.call_order import order_of_calls
from tersor.core.machine import flushes_denormals
from tersor.run.deployed import Deployed
from tersor.run.example import Arguments, batch_of, call, copy_of, difference
from tersor.run.following import followings
from tersor.run.layers import DeployedChain, DeployedLinear
from tersor.run.modules import chain, copied, folded, replace_site
from tersor.run.packing import entries_of
from tersor.run.plan import LayerPlan, Machine, Plan
from tersor.run.racing import race
from tersor.run.sites import Site, sites, weight_matrix

Progress = Callable[[str, int, int], None]
"""Called with the layer, how many are done, and how many there are."""

GAIN = 0.97  # a kernel must take at most this share of the dense layer's time
_TIE = 1.03  # times as slow as the fastest is about as fast
_CLOSE = 1e-5  # and differ from it by at most this share of the largest value
_FAR_OFF = 1e-3  # so much of the largest output is no other order of sums
_DENORMAL = torch.finfo(torch.float32).tiny


@dataclass(eq=False)
class Choice:
    """One search for the fastest kernels; `work` is changed."""

    work: nn.Module
    example: Arguments
    sizes: tuple[int, ...]
    machine: Machine
    prefer: str
    chosen: set[str] | None
    progress: Progress | None
    linear: dict[str, dict[str, DeployedLinear]] = field(default_factory=dict)
    """The candidates of each linear layer by kernel, the fastest first."""

    def run(self) -> Plan:
        """Search, change the model, and say what was found."""
        batches = {size: batch_of(self.example, size) for size in self.sizes}
        plain = copied(self.work)
        inputs, outputs = self._inputs(batches)
        order = order_of_calls(self.work)
        found, skipped = sites(self.work, followings(self.work, order))
        found = [_fitting(site, inputs.get(id(site.layer), {})) for site in found]
        denormals = sum(_denormals(p) for p in self.work.parameters())
        layers = []
        for done, site in enumerate(found):
            if self.progress is not None:
                self.progress(site.name, done, len(found))
            layers.append(self._layer(site, inputs.get(id(site.layer))))
        if self.progress is not None:
            self.progress("whole model", len(found), len(found))
        notes = [f"{name}: stays as it is: {reason}" for name, reason in skipped.items()]
        chains = []
        joined: list[str] = []
        for members in runs(plain, order, found):
            taken = self._chain(members, inputs, joined)
            if taken:
                chains.append(tuple(taken))
                layers = [
                    replace(line, **taken[line.name]) if line.name in taken else line
                    for line in layers
                ]
        times = _whole(plain, self.work, batches)
        worst = _difference(self.work, batches, outputs)
        undo = ""
        if worst > _FAR_OFF >= _difference(plain, batches, outputs):  # the second: not by chance
            # What follows a layer is read off the model's code, which may do otherwise.
            undo = f"outputs differ by {worst:.1e} of the largest"
        elif self.prefer == "speed" and not _not_slower(times):
            # Layers gained one by one and not together: their noise was taken for a gain.
            undo = "no gain for the model as a whole"
        if undo:
            notes.append(f"{undo}: all layers stay as they are")
            _restore(self.work, plain)
            layers = [_undone(layer, undo) for layer in layers]
            chains, joined = [], []
            times = {name: dict(times["dense"]) for name in times}
            worst = _difference(self.work, batches, outputs)
        return Plan(
            layers=tuple(layers),
            machine=self.machine,
            batch_sizes=self.sizes,
            milliseconds=times,
            difference=worst,
            denormals=denormals,
            flushed=flushes_denormals(),
            notes=(*notes, *joined),
            chains=tuple(chains),
        )

    def _inputs(
        self, batches: Mapping[int, Arguments]
    ) -> tuple[dict[int, dict[int, Any]], dict[int, Any]]:
        """What each layer is called with at each batch size, by its id; and the model's outputs."""
        inputs: dict[int, dict[int, Any]] = {}
        outputs: dict[int, Any] = {}
        for size, batch in batches.items():

            def record(module: nn.Module, args: Any, kwargs: Any, _: Any, size: int = size) -> None:
                inputs.setdefault(id(module), {}).setdefault(size, copy_of((args, kwargs)))

            layers = [site.layer for site in sites(self.work, {})[0]]
            hooks = [m.register_forward_hook(record, with_kwargs=True) for m in layers]
            try:
                outputs[size] = call(self.work, batch)
            finally:
                for hook in hooks:
                    hook.remove()
        return inputs, outputs

    def _layer(self, site: Site, inputs: dict[int, Any] | None) -> LayerPlan:
        """Choose what the layer runs on, and put it into the model."""
        named = [f"{site.name}.{w}" if site.name else w for w in site.weights]
        dense_bytes = sum(4 * site.layer.get_parameter(w).numel() for w in site.weights)
        entries = {w: entries_of(weight_matrix(site.layer, w)) for w in site.weights}
        kept = sum(len(e.positions) for e in entries.values())
        line = LayerPlan(
            name=site.name,
            kind=type(site.layer).__name__,
            kernel="dense",
            density=4 * kept / dense_bytes if dense_bytes else 1.0,
            weight_bytes=dense_bytes,
            dense_bytes=dense_bytes,
            milliseconds={},
        )
        if self.chosen is not None and named and not self.chosen & set(named):
            return replace(line, reason="not selected")
        if inputs is None or len(inputs) < len(self.sizes):
            return replace(line, reason="not called with the example input")
        named_as_torch = isinstance(site.layer, nn.MultiheadAttention)
        if not named_as_torch and not all(args for args, _ in inputs.values()):
            return replace(line, reason="called with its input by name")
        line = replace(line, norm=site.following.norm)
        candidates: dict[str, nn.Module] = {}
        for kernel in site.kernels(entries, self.sizes):
            made = site.make(kernel, entries.__getitem__)
            if made is not None and self._close(site, made, inputs):
                candidates[kernel] = made
        if site.norm is not None:
            fold = replace(
                site, activation=None, following=replace(site.following, activation=None)
            )
            candidates["folded"] = replace(site, norm=None).chain(folded(fold))
        if not candidates:
            return replace(line, norm=None, reason="no kernel for such values")
        whole = {"dense": site.chain(site.layer), **candidates}
        times = {
            size: race({name: caller(m, *inputs[size]) for name, m in whole.items()})
            for size in self.sizes
        }
        by_kernel = {name: {s: times[s][name] for s in self.sizes} for name in whole}
        kernel = self._fastest(by_kernel, candidates, dense_bytes)
        ordered = sorted(candidates, key=lambda name: _geometric(by_kernel[name]))
        linear = {n: m for n in ordered if isinstance(m := candidates[n], DeployedLinear)}
        if linear:
            self.linear[site.name] = linear
        line = replace(line, milliseconds=by_kernel, kernel=kernel)
        if kernel == "dense" and self.prefer == "memory":
            return replace(line, norm=None, reason="no kernel takes less memory")
        if kernel == "dense":
            best = min(candidates, key=lambda name: _geometric(by_kernel[name]))
            gain = _geometric(by_kernel["dense"]) / _geometric(by_kernel[best])
            return replace(line, norm=None, reason=f"the best, {best}, is {gain:.2f} x as fast")
        if kernel == "folded":
            replace_site(self.work, fold, folded(fold))
            return line
        replace_site(self.work, site, candidates[kernel])
        made_bytes = _weight_bytes(candidates[kernel])
        return replace(line, weight_bytes=made_bytes, activation=site.following.activation)

    def _chain(
        self, members: list[Site], inputs: Mapping[int, Mapping[int, Any]], notes: list[str]
    ) -> dict[str, dict[str, Any]]:
        """Let linear layers be one call if that is faster; what is then to be said of each."""
        if any(site.name not in self.linear for site in members):
            return {}
        best = [next(iter(self.linear[site.name].items())) for site in members]
        now = [m for site in members for m in _modules_of(site, self.work)]
        both = {"apart": nn.Sequential(*now), "chain": DeployedChain([m for _, m in best])}
        first = inputs[id(members[0].layer)]
        times = {
            size: race({name: caller(m, *first[size]) for name, m in both.items()})
            for size in self.sizes
        }
        if self.prefer == "speed" and any(t["chain"] > GAIN * t["apart"] for t in times.values()):
            return {}
        said: dict[str, dict[str, Any]] = {}
        for site, (kernel, made) in zip(members, best, strict=True):
            replace_site(self.work, site, made)
            said[site.name] = {
                "kernel": kernel,
                "weight_bytes": made.weight_bytes,
                "norm": site.following.norm,
                "activation": site.following.activation,
                "reason": "",
            }
        chain(self.work, tuple(said))
        text = ", ".join(
            f"batch {size}: {t['apart']:.4f} to {t['chain']:.4f} ms" for size, t in times.items()
        )
        notes.append(f"{', '.join(said)}: in one call, {text}")
        return said

    def _close(self, site: Site, made: nn.Module, inputs: dict[int, Any]) -> bool:
        """Whether a kernel gives the layer's output, to the order of its sums."""
        args, kwargs = inputs[self.sizes[0]]
        want = site.chain(site.layer)(*args, **kwargs)
        return difference(want, made(*args, **kwargs)) <= _CLOSE

    def _fastest(
        self,
        times: Mapping[str, Mapping[int, float]],
        candidates: Mapping[str, nn.Module],
        dense_bytes: int,
    ) -> str:
        taken = {name: _weight_bytes(made) for name, made in candidates.items()}
        if self.prefer == "memory":
            small = [n for n in candidates if n != "folded" and taken[n] <= dense_bytes]
            return min(small, key=lambda n: taken[n], default="dense")
        dense = times["dense"]
        gaining = [n for n in candidates if all(times[n][b] <= GAIN * dense[b] for b in dense)]
        if not gaining:
            return "dense"
        # Of those that are about as fast as the fastest, the smallest.
        limit = _TIE * min(_geometric(times[n]) for n in gaining)
        fast = [n for n in gaining if _geometric(times[n]) <= limit]
        return min(fast, key=lambda n: (taken[n], _geometric(times[n])))


def _difference(
    model: nn.Module, batches: Mapping[int, tuple[Any, ...]], outputs: Mapping[int, Any]
) -> float:
    """Largest difference of a model's outputs from others, relative to their largest value."""
    return max(difference(outputs[size], call(model, batch)) for size, batch in batches.items())


def _fitting(site: Site, inputs: Mapping[int, Any]) -> Site:
    """The site without a batch norm behind (N, L, C), which is not one of the layer's features."""
    if not isinstance(site.layer, nn.Linear) or site.norm is None:
        return site
    flat = all(args and args[0].dim() == 2 for args, _ in inputs.values())
    return site if flat else site.without_following()


def _undone(layer: LayerPlan, reason: str) -> LayerPlan:
    if layer.kernel == "dense":
        return layer
    return replace(
        layer,
        kernel="dense",
        weight_bytes=layer.dense_bytes,
        norm=None,
        activation=None,
        reason=reason,
    )


def runs(model: nn.Module, order: Mapping[str, str], found: list[Site]) -> list[list[Site]]:
    """Linear layers of which each is called with what the one before and its activation give."""
    modules = dict(model.named_modules(remove_duplicate=False))
    linear = {site.name: site for site in found if isinstance(site.layer, nn.Linear)}

    def next_of(site: Site) -> Site | None:
        last = site.following.activation or site.following.norm or site.name
        after = order.get(last)
        while after is not None and isinstance(modules[after], nn.Dropout | nn.Identity):
            after = order.get(after)
        return linear.get(after) if after is not None else None

    behind = {name: next_of(site) for name, site in linear.items()}
    inner = {site.name for site in behind.values() if site is not None}
    all_runs = []
    for name, site in linear.items():
        run = [site]
        while name not in inner and (after := behind[run[-1].name]) is not None:
            run.append(after)
        if len(run) > 1:
            all_runs.append(run)
    return all_runs


def _modules_of(site: Site, work: nn.Module) -> list[nn.Module]:
    """What stands in the model now for a layer and what follows it."""
    names = (site.name, site.following.norm, site.following.activation)
    return [work.get_submodule(name) for name in names if name is not None]


def _restore(work: nn.Module, plain: nn.Module) -> None:
    """Put the modules of `plain` back into `work`."""
    work._modules.update(plain._modules)


def _weight_bytes(module: nn.Module) -> int:
    """Bytes of the weights of a candidate, on a kernel or dense."""
    dense = sum(p.numel() * p.element_size() for p in module.parameters() if p.dim() > 1)
    return dense + sum(m.weight_bytes for m in module.modules() if isinstance(m, Deployed))


def _geometric(times: Mapping[int, float]) -> float:
    return math.exp(sum(math.log(t) for t in times.values()) / len(times))


def caller(module: nn.Module, args: Any, kwargs: Any) -> Callable[[], object]:
    return lambda: module(*args, **kwargs)


def _whole(
    plain: nn.Module, work: nn.Module, batches: Mapping[int, Arguments]
) -> dict[str, dict[int, float]]:
    """Times of the whole model, before and after."""
    times: dict[str, dict[int, float]] = {"dense": {}, "deployed": {}}
    for size, batch in batches.items():
        both = {"dense": caller(plain, *batch), "deployed": caller(work, *batch)}
        for name, milliseconds in race(both, seconds=0.5, least=9).items():
            times[name][size] = milliseconds
    return times


def _not_slower(times: Mapping[str, Mapping[int, float]]) -> bool:
    return all(times["deployed"][b] <= times["dense"][b] for b in times["dense"])


def _denormals(weight: Tensor) -> int:
    if weight.dtype != torch.float32:
        return 0
    return int(((weight.abs() < _DENORMAL) & (weight != 0)).sum())
