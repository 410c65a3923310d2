"""Let neighbouring layers have one attention map: of several Q K^T one is left."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from tersor.core.errors import ConfigError
from tersor.core.report import Report, Value
from tersor.share.attention_maps import (
    attention_similarity,
    attentions,
    mean_of_pairs,
    neighbour_groups,
)
from tersor.share.shared_attention import AttentionSource, SharedAttention
from tersor.share.tying import count


def share_attention_(
    model: nn.Module,
    groups: Sequence[int] | None = None,
    *,
    threshold: float = 0.9,
    data: Iterable[Any] | None = None,
    batches: int | None = None,
    layers: Sequence[str] | None = None,
) -> Report:
    """Let the layers of a group use the attention map of its first one, in place.

    Of the weights for queries and keys those of the first layer are left, values and outputs stay
    each layer's own. The outputs change, so train afterwards, with an optimizer made then; the
    layers may be compared again, and groups grow. Dropout of a map is that of the first layer.

    Args:
        model: its `nn.MultiheadAttention`s become `AttentionSource` and `SharedAttention`.
        groups: for each layer the number of its group ([0, 0, 1]), neighbours alone; None: found
            by `attention_similarity` on data.
        threshold: what the mean similarity of a group's pairs has to exceed, where it is found.
        data, batches: as in `attention_similarity`; needed where `groups` is None.
        layers: names of the attentions, in the order in which they are called; None: all that can
            take part, in the order of the data's calls or else of the modules.

    Returns:
        A report with a row for each layer that uses another's map now.

    Raises:
        ConfigError: the threshold is out of range, `groups` does not fit the layers or has no two
            in a group, there is no data, or a group's layers have different heads. Nothing is
            changed then.

    Source: Xiao, Li, Zhu, Yu and Liu 2019, arXiv 1906.11024 (SAN); of self-attention alone, not
        of the attention of a decoder to an encoder.

    >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 3)
    >>> report = share_attention_(model, [0, 0, 1])
    >>> [(row["name"], row["map of"]) for row in report.rows]
    [('layers.1.self_attn', 'layers.0.self_attn')]
    >>> report.summary["parameters before"] - report.summary["parameters after"] == 2 * (8 * 8 + 8)
    True
    """
    found, skipped = attentions(model, layers)
    names, similarity = list(found), None
    if groups is None:
        if not 0 <= threshold < 1:
            raise ConfigError(f"threshold: {threshold}; expected 0 <= threshold < 1")
        if data is None:
            raise ConfigError("share_attention_: expected groups, or data to find them on")
        names, similarity = attention_similarity(model, data, batches=batches, layers=layers)
        skipped |= {n: "no self-attention on this data" for n in found if n not in names}
        groups = neighbour_groups(similarity, threshold)
    else:
        _check_groups(groups, names)
    members = [[n for n, g in zip(names, groups, strict=True) if g == group] for group in groups]
    chosen = list(dict.fromkeys(tuple(group) for group in members if len(group) > 1))
    for group in chosen:
        _require_alike(found, group)
    before = count(model)
    rows: list[dict[str, Value]] = []
    for group in chosen:
        share_map_(model, _with_followers(model, group))
        for name in group[1:]:
            row: dict[str, Value] = {"name": name, "map of": group[0]}
            if similarity is not None:
                row["similarity"] = _mean(similarity, names, group)
            rows.append(row)
    summary: dict[str, Value] = {
        "layers": len(names),
        "maps": len(names) - len(rows),
        "parameters before": before,
        "parameters after": count(model),
    }
    notes = []
    if similarity is not None and not rows:
        near = similarity.diagonal(1)
        near = near[near.isfinite()]
        most = f"; the most alike have {float(near.max()):.3f}" if len(near) else ""
        notes.append(f"No two neighbours are more alike than {threshold}{most}: nothing changed.")
    return Report("Shared attention", summary, rows, skipped, notes)


def share_map_(model: nn.Module, names: Sequence[str]) -> None:
    """Let the first of these attentions be the source of the others' map."""
    first, *others = names
    source = model.get_submodule(first)
    if not isinstance(source, AttentionSource):
        assert isinstance(source, nn.MultiheadAttention)  # the callers looked
        source = AttentionSource(source)
        _put(model, first, source)
    for name in others:
        module = model.get_submodule(name)
        if isinstance(module, SharedAttention):
            module.follow(source)
        else:
            assert isinstance(module, nn.MultiheadAttention | AttentionSource)
            _put(model, name, SharedAttention(module, source))


def map_groups(model: nn.Module) -> list[list[str]]:
    """The names of the layers of each map that is shared, its source first."""
    groups: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, AttentionSource):
            groups.setdefault(id(module), []).insert(0, name)
        elif isinstance(module, SharedAttention):
            groups.setdefault(id(module.source), []).append(name)
    return list(groups.values())


def _with_followers(model: nn.Module, names: Sequence[str]) -> list[str]:
    """These sources, each with the layers that use its map already."""
    followers = {group[0]: group for group in map_groups(model)}
    return [name for source in names for name in followers.get(source, [source])]


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of an attention, whose layer takes no fused form any more."""
    parent_name, _, own = name.rpartition(".")
    parent = model.get_submodule(parent_name)
    setattr(parent, own, module)
    for above in model.modules():
        if isinstance(above, nn.TransformerEncoder):
            above.use_nested_tensor = False  # it would read the weights of attention itself


def _check_groups(groups: Sequence[int], names: Sequence[str]) -> None:
    if len(groups) != len(names):
        raise ConfigError(
            f"groups: {len(groups)} numbers for {len(names)} layers: {', '.join(names[:5])}"
        )
    changes = sum(a != b for a, b in itertools.pairwise(groups))
    if changes + 1 != len(set(groups)):
        raise ConfigError(f"groups: {list(groups)}; expected neighbours alone in a group")
    if len(set(groups)) == len(names):
        raise ConfigError(f"groups: {list(groups)}; expected two layers or more in one of them")


def _require_alike(found: dict[str, Any], group: Sequence[str]) -> None:
    for what in ("num_heads", "batch_first"):
        values = {name: getattr(found[name], what) for name in group}
        if len(set(values.values())) > 1:
            raise ConfigError(f"share_attention_: {what} differs: {values}")


def _mean(similarity: Tensor, names: Sequence[str], group: Sequence[str]) -> float:
    return round(mean_of_pairs(similarity, [names.index(name) for name in group]), 4)
