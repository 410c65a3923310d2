"""Supermasks in superposition: one network of fixed random weights, a mask for each task."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tersor.core.checkpoint import load_checkpoint, save_checkpoint
from tersor.core.derivatives import differentiable
from tersor.core.errors import ConfigError, FormatError, did_you_mean
from tersor.core.tables import look_up
from tersor.core.weights import Selectors
from tersor.prune.allocation import kept_count
from tersor.prune.learned.layers import maskable
from tersor.prune.selection import highest
from tersor.prune.supermasks.constants import signed_constant_
from tersor.prune.supermasks.inference import OBJECTIVES, SEARCHES, Objective
from tersor.prune.supermasks.masks import kaiming_scores
from tersor.prune.supermasks.packing import pack, unpack
from tersor.prune.supermasks.straight_through import Frozen, mask_with, straight_through


class SupSup:
    """Learn task after task without forgetting: the weights never change, each task has a mask.

    The weights are signed constants that the seed decides. A mask is the `round(density * n)`
    highest |score| of each layer, as in `edge_popup_`, or all scores above zero. So what is stored
    is the seed, and one bit a weight a task.

    Args:
        model: changed in place: its weights are drawn anew, and frozen.
        density: the share of each layer's weights that a task uses; None: those whose score is
            above zero, at first one half, without sorting, as the authors' code has it for MNIST.
        seed: of the weights, and of the scores that each task begins with.
        select, ignore: which weights take part; of them those of Linear and Conv2d. There may be
            no parameters in other layers, as a file would not hold them.

    Raises:
        ConfigError: the density is out of range, no weight can take part, or there are parameters
            in other layers.

    Source: Wortsman, Ramanujan, Liu, Kembhavi, Rastegari, Yosinski and Farhadi 2020, Supermasks in
        superposition, arXiv 2006.14769. Biases are zero: a mask cannot switch them.

    >>> from tersor.tasks import build_model
    >>> supsup = SupSup(build_model("lenet-300-100", input_shape=(1, 8, 8)), density=0.5)
    >>> supsup.learn("digits", lambda model: None)  # train(model) would come here
    >>> supsup.tasks, supsup.bits_per_task
    (['digits'], 50200)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        density: float | None = 0.5,
        seed: int = 0,
        select: Selectors = None,
        ignore: Selectors = None,
    ) -> None:
        expected = 0.5 if density is None else density
        kept_count(0, expected)
        weights, skipped = maskable(model, select=select, ignore=ignore)
        layers = {id(p) for w in weights for p in w.module.parameters(recurse=False)}
        for name, parameter in model.named_parameters():
            if id(parameter) not in layers:
                reason = skipped.get(name, "of another layer")
                raise ConfigError(
                    f"SupSup: {name!r} would have no mask and not be stored ({reason}); expected "
                    "a model of Linear and Conv2d layers alone"
                )
        signed_constant_(model, expected, seed=seed, select=select, ignore=ignore)
        self.model, self.density, self.seed = model, density, seed
        self._weights = weights
        self._layers: dict[str, _TaskMask] = {}
        self._packed: dict[str, dict[str, Tensor]] = {}
        for weight in weights:
            size = weight.parameter.numel()
            count = None if density is None else kept_count(size, density)
            mask = _TaskMask(torch.zeros_like(weight.parameter), count, Frozen(weight))
            self._layers[weight.name] = mask
            mask_with(weight, mask)

    @property
    def tasks(self) -> list[str]:
        """The tasks that were learned, in this order."""
        return list(self._packed)

    @property
    def bits_per_task(self) -> int:
        """What a mask costs: one bit a weight."""
        return sum(layer.scores.numel() for layer in self._layers.values())

    def learn(self, task: str, train: Callable[[nn.Module], object]) -> None:
        """Learn the mask of a task, from new scores; then the model is at this task.

        Args:
            task: its name; the mask of a task that is there already is replaced.
            train: trains the parameters of the model that require a gradient: the scores.
        """
        for name, layer in self._layers.items():
            weight = next(w for w in self._weights if w.name == name)
            layer.scores.data.copy_(kaiming_scores(weight, self.seed, "supsup", task))
            layer.mixed = None
        train(self.model)
        self._packed[task] = {name: pack(layer.kept()) for name, layer in self._layers.items()}
        self.use(task)

    def use(self, task: str) -> None:
        """Put the model at a task that is known.

        Raises:
            ConfigError: it was not learned.
        """
        if task not in self._packed:
            raise ConfigError(f"task {task!r}: not learned; {did_you_mean(task, self._packed)}")
        for name, layer in self._layers.items():
            layer.mixed = self._masks(name, [task])[0]

    def infer(
        self,
        inputs: Tensor,
        *,
        classes: int,
        search: str = "one_shot",
        objective: str | Objective = "entropy",
    ) -> str:
        """The task of some inputs; the model is where it was afterwards.

        All masks are in use at once, each with the same share; the task is the one whose share
        would lower the objective most.

        Args:
            inputs: (N, *), all of one task; one sample can be enough.
            classes: outputs that are classes; those beyond them are superfluous.
            search: "one_shot", one gradient, or "binary", log2(tasks) of them.
            objective: a name of `OBJECTIVES`, or a function of their form.

        Raises:
            ConfigError: no task was learned, or a name is unknown.
        """
        tasks, found = self._known(), look_up("search", search, SEARCHES)
        return tasks[
            found(
                lambda among: self._gradient(inputs, [tasks[i] for i in among], classes, objective),
                len(tasks),
            )
        ]

    def recognise(
        self,
        inputs: Tensor,
        *,
        classes: int,
        tolerance: float = 1e-3,
        objective: str | Objective = "entropy",
    ) -> str | None:
        """The task of some inputs, or None if they seem to be of none: then learn a new mask.

        That is when k * max(softmax(-gradient)) < 1 + tolerance over the k tasks, so all look
        alike. With a single task it is always so.

        Args, Raises: as `infer`.

        Source: Wortsman et al. 2020, section 3.4 (the scenario NNs); their epsilon.
        """
        tasks = self._known()
        shares = (-self._gradient(inputs, tasks, classes, objective)).softmax(dim=0)
        if len(tasks) * float(shares.max()) < 1 + tolerance:
            return None
        return tasks[int(shares.argmax())]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the seed, the density and the masks to a file.

        Raises:
            StorageError: the disk refuses it; the old file is unchanged.
        """
        save_checkpoint(path, {"seed": self.seed, "density": self.density, "masks": self._packed})

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model: nn.Module,
        *,
        select: Selectors = None,
        ignore: Selectors = None,
    ) -> SupSup:
        """Read what `save` wrote; the weights are drawn again from the seed.

        Args:
            model: of the same architecture; changed in place.
            select, ignore: as they were.

        Raises:
            FormatError: it is no such file, or that of another model.
        """
        state = load_checkpoint(path)
        if set(state) != {"seed", "density", "masks"}:
            raise FormatError(f"{path}: a checkpoint, but not one of SupSup")
        made = cls(
            model, density=state["density"], seed=state["seed"], select=select, ignore=ignore
        )
        for task, masks in state["masks"].items():
            if set(masks) != set(made._layers):
                raise FormatError(
                    f"{path}, task {task!r}: masks of {', '.join(masks)}; "
                    f"expected those of {', '.join(made._layers)}"
                )
            for name, packed in masks.items():
                unpack(packed, made._layers[name].scores.shape, name)
        made._packed = state["masks"]
        if made._packed:
            made.use(made.tasks[-1])
        return made

    def _known(self) -> list[str]:
        if not self._packed:
            raise ConfigError("SupSup: no task was learned yet, so there is none to infer")
        return self.tasks

    def _gradient(
        self, inputs: Tensor, tasks: list[str], classes: int, objective: str | Objective
    ) -> Tensor:
        """The derivative of the objective by the share of each task, at equal shares; (tasks,)."""
        wanted = look_up("objective", objective, OBJECTIVES)
        before = {name: layer.mixed for name, layer in self._layers.items()}
        one = next(iter(self._layers.values())).scores
        shares = one.new_full((len(tasks),), 1 / len(tasks)).requires_grad_()
        try:
            with differentiable(self.model):
                for name, layer in self._layers.items():
                    masks = self._masks(name, tasks)  # (tasks, *weight)
                    layer.mixed = torch.tensordot(shares, masks, dims=1)
                value = wanted(self.model(inputs), classes)
                (gradient,) = torch.autograd.grad(value, [shares])
        finally:
            for name, layer in self._layers.items():
                layer.mixed = before[name]
        return gradient

    def _masks(self, name: str, tasks: list[str]) -> Tensor:
        """The masks of a weight for some tasks, as 0.0 and 1.0; (tasks, *weight)."""
        scores = self._layers[name].scores
        masks = [unpack(self._packed[task][name], scores.shape, name) for task in tasks]
        return torch.stack(masks).to(scores.device, scores.dtype)


class _TaskMask(nn.Module):
    """The mask of one weight: of the scores while a task is learned, else the one that was set."""

    def __init__(self, scores: Tensor, count: int | None, frozen: Frozen) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.count, self.frozen = count, frozen
        self.mixed: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        if self.mixed is not None:
            return weight * self.mixed
        smooth = self.scores if self.count is None else self.scores.abs()
        return weight * straight_through(self.kept(), smooth)

    def kept(self) -> Tensor:
        """True where the weight is in use."""
        if self.mixed is not None:
            return self.mixed.detach() != 0
        if self.count is None:
            return self.scores.detach() > 0
        return highest(self.scores.detach().abs(), self.count)

    def thaw(self, layer: nn.Module, name: str) -> None:
        self.frozen.thaw(layer)
