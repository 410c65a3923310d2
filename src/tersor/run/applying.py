"""A plan that is there is followed: the same kernels, and nothing is timed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from torch import nn

from tersor.core.call_order import order_of_calls
from tersor.core.errors import ConfigError
from tersor.run.choosing import runs
from tersor.run.following import followings
from tersor.run.modules import chain, folded, replace_site
from tersor.run.packing import entries_of
from tersor.run.plan import LayerPlan, Machine, Plan, read_plan
from tersor.run.reading import Weights, fill, stored_entries
from tersor.run.sites import Site, Source, sites, weight_matrix


def known_plan(
    plan: str | os.PathLike[str] | Plan | None, machine: Machine, sizes: tuple[int, ...]
) -> tuple[Plan | None, tuple[str, ...]]:
    """The plan to follow, and what is to be said of it."""
    if plan is None:
        return None, ()
    if isinstance(plan, Plan):
        other = () if plan.machine == machine else (_other_machine(plan, machine),)
        return plan, (*plan.notes, *other)
    if not Path(plan).is_file():
        return None, ()
    found = read_plan(plan)
    if found.machine != machine:
        return None, (f"{plan}: measured anew; {_other_machine(found, machine)}",)
    if not set(sizes) <= set(found.batch_sizes):
        old = ", ".join(map(str, found.batch_sizes))
        return None, (f"{plan}: measured anew; it was made for batch sizes {old}",)
    return found, found.notes


def _other_machine(plan: Plan, machine: Machine) -> str:
    return f"the plan was made on {plan.machine}, and this is {machine}"


def follow_plan(work: nn.Module, plan: Plan, weights: Weights | None) -> None:
    """Make the layers that a plan says."""
    order = order_of_calls(work)
    known = {site.name: site for site in sites(work, followings(work, order))[0]}
    planned: list[tuple[LayerPlan, Site]] = []
    for layer in plan.layers:
        site = known.get(layer.name)
        if site is None or type(site.layer).__name__ != layer.kind:
            raise ConfigError(
                f"deploy: the plan has a layer {layer.name!r} of {layer.kind}, which the model "
                "has not; the plan is of another model"
            )
        if layer.kernel != "dense":
            site = _as_planned(site, layer)
            if not site.takes(layer.kernel):
                raise ConfigError(
                    f"deploy: the plan lets {layer.name!r} run on {layer.kernel!r}, which "
                    f"{layer.kind} has not; remove the plan, and it is measured anew"
                )
            planned.append((layer, site))
    _require_chains(
        plan, runs(work, order, [s for line, s in planned if line.kernel not in ("csr", "folded")])
    )
    deployed = [(layer, site) for layer, site in planned if layer.kernel != "folded"]
    if weights is not None:
        fill(work, weights, {f"{site.name}.{w}" for _, site in deployed for w in site.weights})
    for layer, site in planned:
        if layer.kernel == "folded":
            replace_site(work, site, folded(site))
            continue
        made = site.make(layer.kernel, _source(site, weights))
        if made is None:
            raise ConfigError(
                f"deploy: {layer.name!r} cannot run on {layer.kernel} as the plan says: its "
                "values are others; remove the plan, and it is measured anew"
            )
        replace_site(work, site, made)
    for names in plan.chains:
        chain(work, names)


def _require_chains(plan: Plan, found: list[list[Site]]) -> None:
    """Raise ConfigError if layers that are to be one call do not follow each other."""
    followed = [tuple(site.name for site in run) for run in found]
    for names in plan.chains:
        parts = (run[i : i + len(names)] for run in followed for i in range(len(run)))
        if len(names) < 2 or names not in parts:
            raise ConfigError(
                f"deploy: the plan has {', '.join(map(repr, names))} in one call, and in the model "
                "they do not follow each other on kernels; remove the plan, and it is measured anew"
            )


def _as_planned(site: Site, layer: LayerPlan) -> Site:
    """The site with just those followers that the plan took over."""
    if (site.following.norm, site.following.activation) == (layer.norm, layer.activation):
        return site
    if layer.norm is None and layer.activation is None:
        return site.without_following()
    if layer.norm == site.following.norm and layer.activation is None:
        return replace(site, activation=None, following=replace(site.following, activation=None))
    raise ConfigError(f"deploy: {site.name!r} is followed by other layers than the plan says")


def _source(site: Site, weights: Weights | None) -> Source:
    if weights is None:
        return lambda name: entries_of(weight_matrix(site.layer, name))
    return lambda name: stored_entries(
        weights, f"{site.name}.{name}" if site.name else name, site.layer.get_parameter(name).shape
    )
