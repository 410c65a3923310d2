"""Back to plain layers: what was shared by a rule becomes a weight of equal values."""

from __future__ import annotations

from torch import nn

from tersor.core.errors import ConfigError
from tersor.core.report import Report, Value
from tersor.share import hashing, templates
from tersor.share.hashed_layers import HASHED


def materialize_(model: nn.Module) -> Report:
    """Turn hashed layers and layers of templates into plain ones with equal weights, in place.

    The values stay shared, so the file stays small; but nothing holds them together in further
    training. Weights that are tied stay tied: `untie_` parts them.

    Returns:
        A report with a row for each weight.

    Raises:
        ConfigError: nothing in the model is hashed or made of templates.

    >>> from tersor.share import HashedLinear
    >>> model = nn.Sequential(HashedLinear(100, 10, density=0.01))
    >>> report = materialize_(model)
    >>> type(model[0]).__name__, len(model[0].weight.abs().unique()) <= 10
    ('Linear', True)
    """
    rows: list[dict[str, Value]] = []
    for name, layer in list(model.named_modules()):
        if type(layer) in HASHED.values():
            buckets = len(layer.buckets)
            hashing.to_plain_(layer)
            rows.append({"name": f"{name}.weight".lstrip("."), "kind": "hashed", "values": buckets})
        elif type(layer) in templates.TEMPLATED.values():
            templates.to_plain_(layer)
            rows.append({"name": f"{name}.weight".lstrip("."), "kind": "templates"})
    if not rows:
        raise ConfigError(
            f"materialize_: nothing in {type(model).__name__} is hashed or made of templates"
        )
    return Report("Plain layers", {"layers": len(rows)}, rows)
