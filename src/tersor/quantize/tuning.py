"""Train the shared values: a centroid moves by the sum of the gradients of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.core.errors import ConfigError
from tersor.core.hooks import Attachment, require_owned
from tersor.quantize.codebook import Codebook


class CodebookTuner:
    """Fine-tune codebooks inside any training loop; who shares a value goes on sharing it.

    Before a step the gradient of each kept weight becomes the sum over its cluster,

        dL/dC_k = sum(dL/dW_ij for all ij with code k),

    so torch's optimizer moves all weights of a cluster alike, as if it held the centroid; after the
    step they are set to the very same value. A sum is large: take a smaller learning rate than for
    weights. All that is not in a codebook (biases, other weights) trains as ever.

    Subvectors that are shared (`quantize_vectors_`) are as many shared values.

    Args:
        model: a model whose weights share values, as `quantize_` leaves it.
        codebooks: as `codebooks_of` or `quantize_vectors_` give them; kept up to date in
            `self.codebooks`.
        average: the mean of the gradients instead of their sum, for the same learning rate as for
            weights. Optimizers that divide by the size of gradients, as Adam does, hardly see it.

    Raises:
        ConfigError: the model lacks a weight, or its shape is another one.

    Source: Han, Mao and Dally 2016, arXiv 1510.00149, section 3.3, eq. 3; the mean is that of Stock
    et al. 2020, arXiv 1907.05686, section 3.3.

    >>> from tersor.quantize import codebooks_of, quantize_
    >>> model = nn.Linear(8, 8)
    >>> _ = quantize_(model, 1)
    >>> tuner = CodebookTuner(model, codebooks_of(model))
    >>> optimizer = torch.optim.SGD(model.parameters(), 0.01)
    >>> with tuner.attach(optimizer):
    ...     model(torch.ones(1, 8)).sum().backward()
    ...     optimizer.step()
    >>> len(model.weight.unique())
    2
    """

    finished = True  # the structure is there from the first step on

    def __init__(
        self, model: nn.Module, codebooks: Mapping[str, Codebook], *, average: bool = False
    ) -> None:
        self.average = average
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self._shared: dict[str, _Shared] = {}
        for name, codebook in codebooks.items():
            if name not in parameters or parameters[name].shape != codebook.codes.shape:
                raise ConfigError(
                    f"codebook {name!r}: {type(model).__name__} has no such weight "
                    f"of shape {tuple(codebook.codes.shape)}"
                )
            last = int(codebook.codes.max()) if codebook.codes.numel() else -1
            if last >= len(codebook.centroids):
                raise ConfigError(
                    f"codebook {name!r}: code {last}, but the codebook has "
                    f"{len(codebook.centroids)} entries"
                )
            self._shared[name] = _Shared(parameters[name], codebook)

    @property
    def codebooks(self) -> dict[str, Codebook]:
        """The codebooks as they are now."""
        return {name: shared.codebook() for name, shared in self._shared.items()}

    def attach(self, optimizer: Optimizer) -> Attachment:
        """Tune through every step of this optimizer, until detached.

        The optimizer must be new or have moved a cluster's weights alike so far: moments of dense
        training would pull them apart, and the first weight of a cluster would decide.

        Raises:
            ConfigError: the optimizer does not step one of the weights.
        """
        require_owned(optimizer, [(name, s.parameter) for name, s in self._shared.items()])
        for shared in self._shared.values():
            shared.to_device()
            shared.write()
        return Attachment(optimizer, before=self._before_step, after=self._after_step)

    def state_dict(self) -> dict[str, Any]:
        """The centroids and codes of every tensor."""
        return {
            name: {"centroids": book.centroids.cpu(), "codes": book.codes.cpu()}
            for name, book in self.codebooks.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`; the weights take its values."""
        for name, parts in state.items():
            parameter = self._shared[name].parameter
            self._shared[name] = shared = _Shared(parameter, Codebook(**parts))
            shared.to_device()
            shared.write()

    def _before_step(self) -> None:
        for shared in self._shared.values():
            shared.sum_gradients(average=self.average)

    def _after_step(self) -> None:
        for shared in self._shared.values():
            shared.read()
            shared.write()


class _Shared:
    """One weight tensor and its codebook, with the kept entries as flat indices."""

    def __init__(self, parameter: nn.Parameter, codebook: Codebook) -> None:
        self.parameter = parameter
        self._all_codes = codebook.codes
        flat = codebook.codes.flatten()
        self.kept = (flat >= 0).nonzero().flatten()  # (a,) where in the flat tensor
        self.codes = flat[self.kept].long()  # (a,) which centroid
        self.centroids = codebook.centroids.detach().clone()  # (k,)
        # One kept entry of each cluster, to read the centroid from; its own code for an empty one.
        self.used = self.codes.unique()
        order = self.codes.sort(stable=True)
        first = torch.searchsorted(order.values, self.used)
        self.first = self.kept[order.indices[first]]

    def codebook(self) -> Codebook:
        return Codebook(self.centroids.clone(), self._all_codes)

    def to_device(self) -> None:
        device = self.parameter.device
        for name in ("kept", "codes", "centroids", "used", "first"):
            setattr(self, name, getattr(self, name).to(device))

    @torch.no_grad()
    def sum_gradients(self, *, average: bool) -> None:
        gradient = self.parameter.grad
        if gradient is None:
            return
        # In float64: the sum over a large cluster in float32 would depend on the order.
        flat = gradient.reshape(-1)
        sums = torch.zeros(len(self.centroids), dtype=torch.float64, device=flat.device)
        sums.index_add_(0, self.codes, flat[self.kept].double())
        if average:
            sums /= torch.bincount(self.codes, minlength=len(sums)).clamp(min=1)
        summed = torch.zeros_like(flat)
        summed[self.kept] = sums.to(flat.dtype)[self.codes]
        gradient.copy_(summed.view(gradient.shape))

    @torch.no_grad()
    def read(self) -> None:
        moved = self.parameter.reshape(-1)[self.first]
        stays = self.centroids[self.used]
        # A centroid that lands on zero would look pruned: it waits for the next step.
        self.centroids[self.used] = torch.where(moved == 0, stays, moved)

    @torch.no_grad()
    def write(self) -> None:
        flat: Tensor = self.centroids.new_zeros(self.parameter.numel())
        flat[self.kept] = self.centroids[self.codes]
        self.parameter.copy_(flat.view(self.parameter.shape))
