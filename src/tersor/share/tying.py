"""One tensor in several places: tie parameters by name, part them again.

A tied parameter's gradient is the sum over its places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import nn

from tersor.core.errors import ConfigError, did_you_mean
from tersor.core.report import Report, Value

Slots = dict[str, tuple[nn.Module, str]]
"""Every name of every parameter to the module that holds it and its own name there."""


def tie_(model: nn.Module, ties: Mapping[str, str] | Sequence[str]) -> Report:
    """Make parameters one and the same, in place.

    Two modules of one type are tied whole, with their biases; two of different types, as an
    embedding and the linear layer that reads it out, by their `weight` alone. Each may be a single
    parameter, too. The values of the one that is followed stand. Make the optimizer afterwards.

    Args:
        model: changed in place.
        ties: name of a parameter or a module to the name of the one that it shall be; or a list
            of names, which are all tied to the first.

    Returns:
        A report with a row for each parameter that is gone.

    Raises:
        ConfigError: a name is unknown, the shapes, dtypes or devices differ, or names follow
            each other in a circle. Nothing is changed then.

    Source: Inan, Khosravi and Socher 2016, arXiv 1611.01462, section 3 and Press and Wolf 2016,
        arXiv 1608.05859, for the embeddings.

    >>> model = nn.ModuleDict({"encoder": nn.Embedding(50, 8), "decoder": nn.Linear(8, 50)})
    >>> report = tie_(model, {"decoder": "encoder"})
    >>> model["decoder"].weight is model["encoder"].weight, report.summary["parameters after"]
    (True, 450)
    """
    if not isinstance(ties, Mapping):
        names = [ties] if isinstance(ties, str) else list(ties)
        if len(names) < 2:
            raise ConfigError(f"tie_: {names}; expected two names or more")
        ties = dict.fromkeys(names[1:], names[0])
    if not ties:
        raise ConfigError("tie_: an empty mapping; expected a name to the name that it shall be")
    pairs: dict[str, str] = {}
    for follower, leader in ties.items():
        for ours, theirs in _pairs(model, follower, leader):
            if pairs.setdefault(ours, theirs) != theirs:
                raise ConfigError(f"tie_: {ours!r} cannot be both {pairs[ours]!r} and {theirs!r}")
    return tie_parameters_(model, pairs)


def tie_parameters_(model: nn.Module, pairs: Mapping[str, str]) -> Report:
    """Make each of these parameters, by name, the one that it is to follow.

    Raises:
        ConfigError: as `tie_`.
    """
    slots = slots_of(model)
    before = count(model)
    changes, rows, skipped = [], [], {}
    for name in pairs:
        leader = _end_of(name, pairs)
        ours, theirs = (_parameter(model, slots, n) for n in (name, leader))
        if ours is theirs:
            skipped[name] = f"is {leader} already"
            continue
        _require_alike(name, ours, leader, theirs)
        changes.append((ours, theirs))
        shape = "x".join(map(str, ours.shape))
        row: dict[str, Value] = {"name": name, "is": leader, "shape": shape, "gone": ours.numel()}
        rows.append(row)
    heirs = {id(ours): theirs for ours, theirs in changes}
    final = {key: _heir(heirs, key, list(pairs)) for key in heirs}
    for module, own in slots.values():  # what was tied to a follower goes with it
        parameter = module._parameters[own]
        if id(parameter) in final:
            setattr(module, own, final[id(parameter)])
    summary: dict[str, Value] = {"parameters before": before, "parameters after": count(model)}
    return Report("Tied parameters", summary, rows, skipped)


def untie_(model: nn.Module) -> Report:
    """Give every place of a tied parameter a copy of its own, in place; the outputs stay.

    A module that stands in several places stays one: there the module itself is shared.

    Raises:
        ConfigError: no parameter is tied.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    >>> _ = tie_(model, ["0", "1"])
    >>> untie_(model).summary
    {'parameters before': 20, 'parameters after': 40}
    """
    before = count(model)
    seen: set[int] = set()
    done: set[tuple[int, str]] = set()
    rows: list[dict[str, Value]] = []
    for name, (module, own) in slots_of(model).items():
        if (id(module), own) in done:
            continue
        done.add((id(module), own))
        parameter = module._parameters[own]
        assert parameter is not None
        if id(parameter) in seen:
            copy = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            setattr(module, own, copy)
            rows.append({"name": name, "new": parameter.numel()})
        seen.add(id(parameter))
    if not rows:
        raise ConfigError(f"untie_: no parameter of {type(model).__name__} is tied")
    summary: dict[str, Value] = {"parameters before": before, "parameters after": count(model)}
    return Report("Untied parameters", summary, rows)


def ties_of(model: nn.Module) -> dict[str, list[str]]:
    """The parameters that have several names: the first to the others.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    >>> _ = tie_(model, ["0", "1"])
    >>> ties_of(model)
    {'0.weight': ['1.weight'], '0.bias': ['1.bias']}
    """
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {first: others for first, *others in names.values() if others}


def slots_of(model: nn.Module) -> Slots:
    """Where each parameter is held, under all of its names."""
    return {
        f"{path}.{own}" if path else own: (module, own)
        for path, module in model.named_modules(remove_duplicate=False)
        for own, parameter in module._parameters.items()
        if parameter is not None
    }


def count(model: nn.Module) -> int:
    """How many numbers the parameters are; tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _pairs(model: nn.Module, follower: str, leader: str) -> Iterator[tuple[str, str]]:
    """The parameters that two names, of parameters or modules, stand for."""
    slots, modules = slots_of(model), dict(model.named_modules(remove_duplicate=False))
    sides = []
    for name in (follower, leader):
        if name in slots:
            sides.append([""])
        elif name in modules:
            sides.append(list(dict(modules[name].named_parameters(remove_duplicate=False))))
        else:
            known = [n for n in (*slots, *modules) if n]
            raise ConfigError(f"tie_: {name!r}; {did_you_mean(name, known)}")
    ours, theirs = sides
    if ours == [""] or theirs == [""]:
        yield _weight_of(follower, ours), _weight_of(leader, theirs)
    elif type(modules[follower]) is type(modules[leader]):
        if sorted(ours) != sorted(theirs):
            odd = ", ".join(sorted(set(ours) ^ set(theirs)))
            raise ConfigError(f"tie_: {follower!r} and {leader!r}: only one of them has {odd}")
        yield from ((f"{follower}.{own}", f"{leader}.{own}") for own in ours)
    else:
        yield _weight_of(follower, ours), _weight_of(leader, theirs)


def _weight_of(name: str, parameters: Iterable[str]) -> str:
    if "" in parameters:
        return name
    if "weight" in parameters:
        return f"{name}.weight"
    raise ConfigError(f"tie_: {name!r} has no parameter 'weight'; name one of its parameters")


def _end_of(name: str, pairs: Mapping[str, str]) -> str:
    """Whom a parameter follows at last."""
    passed = [name]
    while passed[-1] in pairs:
        passed.append(pairs[passed[-1]])
        if passed[-1] in passed[:-1]:
            raise ConfigError(f"tie_: a circle: {' -> '.join(passed)}")
    return passed[-1]


def _heir(heirs: Mapping[int, nn.Parameter], key: int, names: list[str]) -> nn.Parameter:
    """Whom a parameter follows at last, where a name may be that of another's tensor."""
    for _ in heirs:
        parameter = heirs[key]
        key = id(parameter)
        if key not in heirs:
            return parameter
    raise ConfigError(f"tie_: a circle among {', '.join(names[:5])}, some of which are tied now")


def _parameter(model: nn.Module, slots: Slots, name: str) -> nn.Parameter:
    if name not in slots:
        raise ConfigError(
            f"tie_: {type(model).__name__} has no parameter {name!r}; {did_you_mean(name, slots)}"
        )
    module, own = slots[name]
    parameter = module._parameters[own]
    assert parameter is not None
    return parameter


def _require_alike(name: str, ours: nn.Parameter, leader: str, theirs: nn.Parameter) -> None:
    if ours.shape != theirs.shape:
        turned = ours.dim() == 2 and ours.shape == theirs.shape[::-1]
        raise ConfigError(
            f"tie_: {name!r} has shape {tuple(ours.shape)}, but {leader!r} {tuple(theirs.shape)}"
            + (": one is the other transposed, which one tensor cannot be" if turned else "")
        )
    for what in ("dtype", "device"):
        if getattr(ours, what) != getattr(theirs, what):
            raise ConfigError(
                f"tie_: {name!r} has {what} {getattr(ours, what)}, "
                f"but {leader!r} {getattr(theirs, what)}"
            )
