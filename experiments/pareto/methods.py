"""All methods of the comparison: what each does to a trained network.

A method is a row of stages; the steps of training are parted among them in equal shares.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from networks import Subject
from torch import nn

from tersor.core import HeldMasks, MaskSet
from tersor.core.errors import ConfigError
from tersor.core.weights import survey
from tersor.factorize import factorize_
from tersor.prune import GradualPruner
from tersor.quantize import (
    FORMATS,
    Affine,
    CodebookTuner,
    Incremental,
    KMeans,
    LearnedStep,
    Product,
    QuantizedTraining,
    Quantizer,
    StraightThrough,
    Training,
    codebooks_of,
    gptq_,
    quantize_,
)
from tersor.share import GrOWL, SharedRows, SoftSharing, hash_, share_rows_, tie_

Stage = Callable[[Subject], None]
BATCHES = 8  # of the training set, for what looks at data


class DoesNotApplyError(Exception):
    """Why a method has nothing to do in a network."""


@dataclass(frozen=True)
class Method:
    """A family, for the picture, and what is done."""

    family: str
    stages: tuple[Stage, ...]

    def __call__(self, subject: Subject) -> None:
        subject.steps //= max(1, len(self.stages))
        for stage in self.stages:
            stage(subject)


def trained_on(subject: Subject) -> None:
    subject.train()


def at_once(quantizer: Quantizer, subject: Subject) -> None:
    quantize_(subject.model, quantizer)


def tuned(bits: int, subject: Subject) -> None:
    """K-means, and its centroids trained at a tenth of the learning rate."""
    quantize_(subject.model, KMeans(bits))
    subject.train([CodebookTuner(subject.model, codebooks_of(subject.model))], rate=0.1)


def reconstructed(grid: Affine, subject: Subject) -> None:
    """GPTQ; a weight that is no layer's own is rounded to the nearest."""
    done = gptq_(subject.model, grid, subject.task.train, batches=BATCHES)
    names = {str(row["name"]) for row in done.rows}
    rest = [w.name for w in survey(subject.model)[0] if w.name not in names]
    if rest:
        quantize_(subject.model, dict.fromkeys(rest, grid))


def quantized_training(
    training: str | Training | Callable[[int], Training], subject: Subject
) -> None:
    how = training if isinstance(training, str | Training) else training(subject.steps)
    subject.train([QuantizedTraining(subject.model, how)])


def incremental(steps: int) -> Training:
    return Incremental(max(1, steps // 4))


def pruned(density: float, subject: Subject) -> None:
    """Magnitude, over all layers, gradually in the first half of the steps."""
    end = max(1, subject.steps // 2)
    every = max(1, end // 20)
    subject.train([GradualPruner(subject.model, density, end=end, every=every)])


def hashed(density: float, subject: Subject) -> None:
    hash_(subject.model, density)
    subject.train()


def factorized(method: str, budget: float, subject: Subject) -> None:
    data = None
    if method == "activation_svd":
        data = list(itertools.islice(subject.task.train, BATCHES))
    try:
        report = factorize_(subject.model, method=method, budget=budget, data=data)
    except ConfigError as error:  # the budget is out of reach
        raise DoesNotApplyError(str(error)) from error
    if not report.rows:
        weights = {weight.name for weight in survey(subject.model)[0]}
        reasons = [reason for name, reason in report.skipped.items() if name in weights]
        usual = max(set(reasons), key=reasons.count)
        raise DoesNotApplyError(usual)
    subject.train()


def low_rank_plus_sparse(rank: float, density: float, subject: Subject) -> None:
    """A rank of so much of each layer's largest, and so many entries beside it, which stay."""
    ranks = {}
    for name, layer in subject.model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            ranks[f"{name}.weight"] = max(1, round(rank * min(layer.weight.flatten(1).shape)))
    ranks = {n: r for n, r in ranks.items() if n in {w.name for w in survey(subject.model)[0]}}
    factorize_(subject.model, ranks, method="low_rank_sparse", density=density)
    sparse = {
        name: parameter.detach() != 0
        for name, parameter in subject.model.named_parameters()
        if ".sparse." in name and name.endswith("weight")
    }
    subject.train([HeldMasks(subject.model, MaskSet(sparse))])


def tied(subject: Subject) -> None:
    """The embedding becomes the output layer's weight."""
    if not isinstance(getattr(subject.model, "embed", None), nn.Embedding):
        raise DoesNotApplyError("it has no embedding that an output layer could be tied to")
    tie_(subject.model, {"embed": "fc"})
    subject.train()


def soft_sharing(strength: float, subject: Subject) -> None:
    if subject.network.name == "transformer-lm":
        raise DoesNotApplyError("a mixture over 3 million weights takes longer than all other rows")
    sharing = SoftSharing(subject.model, strength=strength, learning_rate=5e-3)
    subject.train([sharing])
    sharing.harden_()


def equal_rows(strength: float, slope: float, subject: Subject) -> None:
    """GrOWL on the linear layer of the most weights, then its equal rows tied."""
    layers = [
        (layer.weight.numel(), name)
        for name, layer in subject.model.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    name = max(layers)[1]
    if subject.network.name != "lenet-5":
        raise DoesNotApplyError("rows of inputs are shared in fully connected layers")
    half = Subject(subject.network, subject.model, subject.task, subject.steps // 2, subject.seed)
    half.train([GrOWL(subject.model, strength, slope, select=[name])])
    clusters, _ = share_rows_(subject.model, select=[name])
    half.train([SharedRows(subject.model, clusters)])


def _stage(act: Callable[..., None], *settings: object) -> Stage:
    return partial(act, *settings)


_INT8, _INT4 = Affine(8), Affine(4, range="mse")

METHODS: dict[str, Method] = {
    "dense": Method("float", ()),
    "dense, trained on": Method("float", (trained_on,)),
    "fp16": Method("float", (_stage(at_once, FORMATS["fp16"]),)),
    "bf16": Method("float", (_stage(at_once, FORMATS["bf16"]),)),
    "pruned 90 %": Method("pruned", (_stage(pruned, 0.1),)),
    "pruned 95 %": Method("pruned", (_stage(pruned, 0.05),)),
    **{f"k-means {b}": Method("codebook", (_stage(at_once, KMeans(b)),)) for b in range(2, 9)},
    **{f"k-means {b}, tuned": Method("codebook", (_stage(tuned, b),)) for b in (2, 3, 4)},
    "product, 256 vectors": Method("codebook", (_stage(at_once, Product()),)),
    "int8, tensor": Method("integers", (_stage(at_once, Affine(8, "tensor")),)),
    "int8, channel": Method("integers", (_stage(at_once, _INT8),)),
    "int8, groups of 64": Method("integers", (_stage(at_once, Affine(8, "group", 64)),)),
    "int4, tensor": Method("integers", (_stage(at_once, Affine(4, "tensor", range="mse")),)),
    "int4, channel": Method("integers", (_stage(at_once, _INT4),)),
    "int4, groups of 32": Method("integers", (_stage(at_once, Affine(4, "group", 32)),)),
    "GPTQ 4": Method("integers", (_stage(reconstructed, _INT4),)),
    "LSQ 4": Method("integers", (_stage(quantized_training, LearnedStep(4)),)),
    "LSQ 2": Method("integers", (_stage(quantized_training, LearnedStep(2)),)),
    "ternary (TTQ)": Method("few values", (_stage(quantized_training, "ttq"),)),
    "binary (XNOR weights)": Method("few values", (_stage(quantized_training, "xnor"),)),
    "powers of two (INQ 5)": Method("few values", (_stage(quantized_training, incremental),)),
    "hashed 1/4": Method("shared", (_stage(hashed, 1 / 4),)),
    "hashed 1/16": Method("shared", (_stage(hashed, 1 / 16),)),
    "soft sharing": Method("shared", (_stage(soft_sharing, 1e-5),)),
    "GrOWL": Method("shared", (_stage(equal_rows, 0.03, 1e-5),)),
    "tied embedding": Method("shared", (tied,)),
    "SVD 1/2": Method("factors", (_stage(factorized, "svd", 0.5),)),
    "SVD 1/4": Method("factors", (_stage(factorized, "svd", 0.25),)),
    "SVD of outputs 1/4": Method("factors", (_stage(factorized, "activation_svd", 0.25),)),
    "Tucker 1/2": Method("factors", (_stage(factorized, "tucker", 0.5),)),
    "spatial SVD 1/2": Method("factors", (_stage(factorized, "spatial_svd", 0.5),)),
    "CP 1/2": Method("factors", (_stage(factorized, "cp", 0.5),)),
    "tensor train 1/4": Method("factors", (_stage(factorized, "tensor_train", 0.25),)),
    "low rank + sparse": Method("factors", (_stage(low_rank_plus_sparse, 0.2, 0.05),)),
    "pruned 90 %, k-means 4": Method("several", (_stage(pruned, 0.1), _stage(tuned, 4))),
    "pruned 95 %, k-means 4": Method("several", (_stage(pruned, 0.05), _stage(tuned, 4))),
    "pruned 90 %, int4": Method(
        "several", (_stage(pruned, 0.1), _stage(quantized_training, StraightThrough(_INT4)))
    ),
    "SVD 1/2, pruned 80 %, int8": Method(
        "several",
        (
            _stage(factorized, "svd", 0.5),
            _stage(pruned, 0.2),
            _stage(quantized_training, StraightThrough(Affine(8, "tensor"))),
        ),
    ),
    "tied, k-means 4": Method("several", (tied, _stage(tuned, 4))),
}
"""Name of a row to its method."""

QUICK = ("dense", "bf16", "pruned 90 %", "k-means 4", "int8, tensor", "SVD 1/2")
"""The rows of `--quick`."""
