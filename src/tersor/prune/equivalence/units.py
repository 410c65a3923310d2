"""Weight decay on a layer of ReLU units is a group lasso over units.

min over |w2_j| w1_j = beta_j of |w1_j|**2 + |w2_j|**2  =  2 |beta_j|_2, at |w1_j| = |w2_j|

It says which units die, not which single weights. It holds for activations with f(c x) = c f(x)
for c > 0 (ReLU, leaky ReLU, none), and for biases without weight decay. All of them are, up to a
factor, f(x) = max(x, 0) + leak * min(x, 0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from tersor.core.errors import ConfigError
from tersor.core.report import Report
from tersor.prune.equivalence.solvers import minimise

OutputLoss = Callable[[Tensor], Tensor]
"""Outputs of shape (N, out) to a scalar."""


@dataclass(frozen=True)
class UnitForm:
    """A layer of units in the form of the group lasso: each a length, times a direction.

    outputs = sum_j directions_j * f(beta_j . x + gamma_j) + offset

    Args:
        beta: `(units, in)`, |w2_j| * w1_j.
        gamma: `(units,)`, |w2_j| * b_j; None if the first layer has no bias.
        directions: `(units, out)`, w2_j / |w2_j|; for one output the signs, 0 for a dead unit.
        offset: `(out,)`, the bias of the second layer; None if it has none.
    """

    beta: Tensor
    gamma: Tensor | None
    directions: Tensor
    offset: Tensor | None

    def outputs(self, inputs: Tensor, *, leak: float = 0.0) -> Tensor:
        """Shapes: (N, in) -> (N, out)."""
        hidden = F.leaky_relu(F.linear(inputs, self.beta, self.gamma), leak)
        outputs: Tensor = F.linear(hidden, self.directions.T, self.offset)
        return outputs

    def penalty(self) -> Tensor:
        """2 * sum_j |beta_j|_2, the group lasso."""
        lengths: Tensor = self.beta.norm(dim=1)
        return 2 * lengths.sum()

    def layers(self) -> tuple[nn.Linear, nn.Linear]:
        """The two layers of least weight decay that compute the same."""
        units, width = self.beta.shape
        kind = {"device": self.beta.device, "dtype": self.beta.dtype}
        first = skip_init(nn.Linear, width, units, bias=self.gamma is not None, **kind)
        out = self.directions.shape[1]
        second = skip_init(nn.Linear, units, out, bias=self.offset is not None, **kind)
        root = self.beta.norm(dim=1).sqrt()
        # A unit with beta 0 and gamma not has no least decay: any split is as good.
        split = torch.where(root > 0, root, 1.0)
        with torch.no_grad():
            first.weight.copy_(self.beta / split[:, None])
            second.weight.copy_((self.directions * root[:, None]).T)
            if self.gamma is not None:
                first.bias.copy_(self.gamma / split)
                constant = (root == 0) & (self.gamma != 0)
                second.weight[:, constant] = self.directions[constant].T
            if self.offset is not None:
                second.bias.copy_(self.offset)
        return first, second


def unit_form(first: nn.Linear, second: nn.Linear) -> UnitForm:
    """The group-lasso form of two layers with a homogeneous activation between them.

    Raises:
        ConfigError: the layers do not fit each other.

    Source: Neyshabur, Tomioka and Srebro 2015, arXiv 1412.6614, section 4; Tibshirani 2021,
    Equivalences between sparse models and neural networks, section 3. Their second layer has one
    output; for several the sign becomes the direction of the unit's outgoing weights.

    >>> first, second = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
    >>> inputs = torch.randn(5, 3, dtype=torch.double)
    >>> form = unit_form(first, second)
    >>> torch.allclose(form.outputs(inputs), second(torch.relu(first(inputs))))
    True
    """
    _require_fit(first, second)
    with torch.no_grad():
        lengths = second.weight.norm(dim=0)
        return UnitForm(
            beta=lengths[:, None] * first.weight,
            gamma=None if first.bias is None else lengths * first.bias,
            directions=(second.weight / torch.where(lengths > 0, lengths, 1.0)).T.clone(),
            offset=None if second.bias is None else second.bias.clone(),
        )


def decay_penalty(first: nn.Linear, second: nn.Linear) -> Tensor:
    """|W1|**2 + |W2|**2, what weight decay on the weights (not on the biases) sums up."""
    return first.weight.square().sum() + second.weight.square().sum()


def unit_imbalance(first: nn.Linear, second: nn.Linear) -> Tensor:
    """|w1_j|**2 - |w2_j|**2 of each unit; zero at every minimum with weight decay.

    Under gradient flow without decay, |w1_j|**2 + b_j**2 - |w2_j|**2 is conserved.

    Source: Du, Hu and Lee 2018, arXiv 1806.00900, theorem 2.1.
    """
    with torch.no_grad():
        return first.weight.square().sum(1) - second.weight.square().sum(0)


def rescale_(first: nn.Linear, second: nn.Linear) -> Report:
    """Balance the units, in place: the same function at the least weight decay.

    w1_j *= c, b_j *= c, w2_j /= c,   c = sqrt(|w2_j| / |w1_j|)

    A unit that is zero whatever comes in loses its weights on the other side, too. A unit without
    incoming weights but with a bias is a constant, whose decay falls for ever as c grows; it is
    left as it is.

    Args:
        first, second: layers with a positively homogeneous activation between them.

    Raises:
        ConfigError: the layers do not fit each other.

    Source: Neyshabur, Salakhutdinov and Srebro 2015, arXiv 1506.02617, section 2.

    >>> first, second = nn.Linear(3, 4).double(), nn.Linear(4, 1).double()
    >>> report = rescale_(first, second)
    >>> report.summary["decay after"] < report.summary["decay before"]
    True
    >>> bool(unit_imbalance(first, second).abs().max() < 1e-12)
    True
    """
    _require_fit(first, second)
    before = float(decay_penalty(first, second).detach())
    with torch.no_grad():
        incoming, outgoing = first.weight.norm(dim=1), second.weight.norm(dim=0)
        shift = torch.zeros_like(incoming) if first.bias is None else first.bias
        dead = (outgoing == 0) | ((incoming == 0) & (shift == 0))
        constant = (incoming == 0) & ~dead
        factor = torch.where(dead | constant, 1.0, (outgoing / incoming).sqrt())
        first.weight.mul_(factor[:, None])
        second.weight.div_(factor)
        first.weight[dead] = 0.0
        second.weight[:, dead] = 0.0
        if first.bias is not None:
            first.bias.mul_(factor)
            first.bias[dead] = 0.0
    return Report(
        "Balancing units",
        {
            "units": len(factor),
            "dead units": int(dead.sum()),
            "constant units": int(constant.sum()),
            "decay before": before,
            "decay after": float(decay_penalty(first, second).detach()),
        },
    )


def train_units_(
    first: nn.Linear,
    second: nn.Linear,
    loss: OutputLoss,
    inputs: Tensor,
    decay: float,
    *,
    leak: float = 0.0,
) -> float:
    """Train the two layers with weight decay, in place: a local minimum by L-BFGS.

    loss(outputs) + decay * (|W1|**2 + |W2|**2), biases without decay

    At the minimum the kinks of most units lie at samples, where no descent by gradients arrives.
    So |x| is first smoothed to sqrt(x**2 + width**2), the width 0.1, 0.01 and so on to 1e-8.

    Args:
        first, second: where training starts; float64 for the last digits.
        loss: of the outputs, shape (N, out).
        inputs: (N, in), all of the data.
        decay: above 0.
        leak: the activation's slope below zero; 0 is ReLU, 1 is none.

    Returns:
        The value that is reached, with the activation as it is.

    Raises:
        ConfigError: the layers do not fit each other.
    """
    _require_fit(first, second)
    biases = [layer.bias for layer in (first, second) if layer.bias is not None]

    def objective(x: list[Tensor], width: float) -> Tensor:
        w1, w2, *rest = x
        seen = F.linear(inputs, w1, None if first.bias is None else rest.pop(0))
        size = (seen.square() + width**2).sqrt() if width else seen.abs()
        hidden = (1 + leak) / 2 * seen + (1 - leak) / 2 * size
        outputs = F.linear(hidden, w2, rest.pop() if rest else None)
        return loss(outputs) + decay * (w1.square().sum() + w2.square().sum())

    found: list[Tensor] = [first.weight, second.weight, *biases]
    for digits in range(1, 9):
        smooth = partial(objective, width=10.0**-digits)
        found = minimise(smooth, found, steps=300, restarts=2)
    with torch.no_grad():
        for parameter, value in zip([first.weight, second.weight, *biases], found, strict=True):
            parameter.copy_(value)
        return float(objective(found, 0.0))


def _require_fit(first: nn.Linear, second: nn.Linear) -> None:
    if second.in_features != first.out_features:
        raise ConfigError(
            f"units: the first layer has {first.out_features} outputs, "
            f"but the second takes {second.in_features} inputs"
        )
