"""Weight decay as a sparse penalty: lasso, l_p and group lasso, as numbers that can be checked."""

from tersor.prune.equivalence.convex import activation_patterns, relu_group_lasso
from tersor.prune.equivalence.factors import (
    balanced_factors,
    conservation_error,
    decayed,
    imbalance,
    penalised,
    product_of,
    train_factors,
)
from tersor.prune.equivalence.solvers import gradient_flow, minimise, proximal_gradient
from tersor.prune.equivalence.sparse import lasso, lp_threshold
from tersor.prune.equivalence.units import (
    UnitForm,
    decay_penalty,
    rescale_,
    train_units_,
    unit_form,
    unit_imbalance,
)

__all__ = [
    "UnitForm",
    "activation_patterns",
    "balanced_factors",
    "conservation_error",
    "decay_penalty",
    "decayed",
    "gradient_flow",
    "imbalance",
    "lasso",
    "lp_threshold",
    "minimise",
    "penalised",
    "product_of",
    "proximal_gradient",
    "relu_group_lasso",
    "rescale_",
    "train_factors",
    "train_units_",
    "unit_form",
    "unit_imbalance",
]
