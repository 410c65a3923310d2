"""The layers of a model that a kernel can run, and how each is made from its weights' entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from torch import Tensor, nn

from tersor.core.call_order import hooked, norm_of
from tersor.run import attention, recurrent
from tersor.run.attention import DeployedAttention
from tersor.run.calls import Activation
from tersor.run.deployed import Deployed
from tersor.run.following import NOTHING, Following, activation_of
from tersor.run.layers import (
    CsrLinear,
    DeployedConv2d,
    DeployedEmbedding,
    DeployedLinear,
    DeployedMaxPool2d,
)
from tersor.run.naming import laid_out, of_integers, tiles
from tersor.run.packing import Entries, code_bits, scaled_rows, widest_tile
from tersor.run.recurrent import DeployedRecurrent

Source = Callable[[str], Entries]
"""The entries of a weight, as a matrix (rows, the rest), by its name within the layer."""

_DENSEST = 0.7  # share of kept weights above which a large sparse matrix was never the fastest
_SMALL = 50_000  # weights of a layer whose time is mostly that of a call
_CONV_BLOCK = 32


@dataclass(frozen=True, eq=False)
class Site:
    """A layer that a kernel can run.

    Args:
        name: qualified name.
        layer: the layer itself.
        weights: names of its weights within it.
        norm, activation: the modules behind it that a kernel takes over, or None.
        following: their names.
    """

    name: str
    layer: nn.Module
    weights: tuple[str, ...]
    norm: nn.Module | None = None
    activation: nn.Module | None = None
    following: Following = NOTHING

    def chain(self, first: nn.Module) -> nn.Module:
        """`first` in the layer's place, with what follows it."""
        rest = [m for m in (self.norm, self.activation) if m is not None]
        return nn.Sequential(first, *rest) if rest else first

    def without_following(self) -> Site:
        return replace(self, norm=None, activation=None, following=NOTHING)

    def make(self, kernel: str, source: Source) -> Deployed | None:
        """The layer on a kernel, or None if its values cannot be laid out so."""
        layer = self.layer
        if isinstance(layer, nn.MultiheadAttention):
            return self._attention(layer, kernel, source)
        if isinstance(layer, nn.LSTM | nn.GRU):
            return self._recurrent(layer, kernel, source)
        if isinstance(layer, nn.MaxPool2d):
            return DeployedMaxPool2d(self.name, layer)
        entries = source("weight")
        if isinstance(layer, nn.Embedding):
            packed = laid_out(kernel, entries, row_block=1)
            if packed is None:
                return None
            return DeployedEmbedding(
                self.name, kernel, packed[1], layer.num_embeddings, layer.embedding_dim
            )
        scale, bias = self._scale_and_bias()
        activation = self._activation()
        row_scale = None
        if kernel.startswith("scaled/"):
            turned = isinstance(layer, nn.Conv2d | nn.Linear)
            scaled = scaled_rows(entries if turned else entries.transposed())
            if scaled is None:
                return None
            entries, row_scale = scaled
        elif not isinstance(layer, nn.Conv2d | nn.Linear):  # Hugging Face's Conv1D, (in, out)
            entries = entries.transposed()
        if isinstance(layer, nn.Conv2d):
            entries = entries.spread(layer.groups)
            packed = laid_out(kernel, entries, row_block=_CONV_BLOCK)
            if packed is None:
                return None
            return DeployedConv2d(
                self.name,
                kernel,
                packed[1],
                layer,
                padding=_padding(layer),
                row_scale=row_scale,
                scale=scale,
                bias=bias,
                activation=activation,
            )
        if kernel == "csr":
            if scale is not None or activation != "none":
                return None
            return CsrLinear(self.name, entries.dense(), bias)
        packed = laid_out(kernel, entries)
        if packed is None:
            return None
        return DeployedLinear(
            self.name,
            kernel,
            *packed,
            entries.rows,
            entries.columns,
            row_scale=row_scale,
            scale=scale,
            bias=bias,
            activation=activation,
        )

    def takes(self, kernel: str) -> bool:
        """Whether there is such a kernel for a layer of this kind, whatever its values are."""
        layer = self.layer
        kind, _, tile = kernel.partition("/")
        if isinstance(layer, nn.MaxPool2d):
            return kernel == "pool"
        if kind == "scaled" and not isinstance(layer, nn.Conv2d) and not self._is_linear():
            return False
        if kind in ("sparse", "values", "scaled"):
            return tile.isascii() and tile.isdecimal() and len(tile) <= 5 and int(tile) > 0
        if kernel == "folded":
            return self.norm is not None
        if kernel in ("codes", "row codes") or of_integers(kernel):
            return not isinstance(layer, nn.Conv2d | nn.Embedding)
        attention_or_other = nn.Conv2d | nn.Embedding | nn.MultiheadAttention | nn.RNNBase
        return kernel == "csr" and not isinstance(layer, attention_or_other)

    def kernels(self, entries: dict[str, Entries], batch_sizes: tuple[int, ...]) -> list[str]:
        """Kernels worth timing for the values of this layer."""
        layer = self.layer
        if isinstance(layer, nn.MaxPool2d):
            return ["pool"]
        found: list[str] = []
        all_of = list(entries.values())
        weights = sum(e.rows * e.columns for e in all_of)
        kept = sum(len(e.positions) for e in all_of) / weights
        few = all(e.book is not None for e in all_of)
        if kept <= _DENSEST or weights <= _SMALL:
            widest = min(widest_tile(e) for e in all_of)
            columns = max(e.columns for e in all_of)
            if isinstance(layer, nn.Conv2d):
                columns *= layer.groups
            found += [f"sparse/{tile}" for tile in tiles(widest, columns)]
            if any(code_bits(e) > 4 for e in all_of):
                found += [f"values/{tile}" for tile in tiles(4096, columns)]
            if not few and (isinstance(layer, nn.Conv2d) or self._is_linear()):
                found += [f"scaled/{tile}" for tile in tiles(256, columns)]
        if isinstance(layer, nn.Embedding):
            return found[:1]
        if isinstance(layer, nn.Conv2d):
            return found
        # Above a few samples looking up codes of 8 bits was never the fastest.
        short = all(e.book is not None and len(e.book) <= 16 for e in all_of)
        if few and (short or min(batch_sizes) <= 8):
            found.append("codes")
        if kept > 0.2:
            found += ["integers"] if len(all_of) > 1 else self._integers(all_of[0])
            if not short:
                found.append("row codes")
        if kept <= _DENSEST and not isinstance(layer, nn.MultiheadAttention | nn.RNNBase):
            found.append("csr")
        return found

    def _integers(self, entries: Entries) -> list[str]:
        """The kernel for the integers of a weight, by its name."""
        turned = self._is_linear() and not isinstance(self.layer, nn.Linear)
        grid = (entries.transposed() if turned else entries).grid
        return [] if grid is None else [grid.name]

    def _is_linear(self) -> bool:
        """Whether it is a linear layer, torch's or Hugging Face's Conv1D."""
        kinds = nn.Conv2d | nn.Embedding | nn.MultiheadAttention | nn.RNNBase | nn.MaxPool2d
        return not isinstance(self.layer, kinds)

    def _scale_and_bias(self) -> tuple[Tensor | None, Tensor | None]:
        bias = getattr(self.layer, "bias", None)
        bias = None if bias is None else bias.detach()
        if self.norm is None:
            return None, bias
        scale, shift = norm_of(self.norm)
        return scale, shift if bias is None else bias * scale + shift

    def _activation(self) -> Activation:
        activation = None if self.activation is None else activation_of(self.activation)
        return "none" if activation is None else activation

    def _attention(
        self, layer: nn.MultiheadAttention, kernel: str, source: Source
    ) -> DeployedAttention | None:
        fits = True

        def project(weight: str, first: int, last: int, bias: Tensor | None) -> DeployedLinear:
            nonlocal fits
            entries = source(weight)
            part = entries.some_rows(first, last) if weight == "in_proj_weight" else entries
            packed = laid_out(kernel, part)
            fits = fits and packed is not None
            matrix, storage = packed or ("sparse", torch.zeros(0, dtype=torch.uint8))
            name = f"{self.name}.{weight}"
            return DeployedLinear(name, kernel, matrix, storage, part.rows, part.columns, bias=bias)

        made = DeployedAttention(self.name, kernel, layer, project)
        return made if fits else None

    def _recurrent(
        self, layer: nn.LSTM | nn.GRU, kernel: str, source: Source
    ) -> DeployedRecurrent | None:
        packed = {name: laid_out(kernel, source(name)) for name in self.weights}
        found = {name: p for name, p in packed.items() if p is not None}
        if len(found) < len(packed):
            return None
        return DeployedRecurrent(self.name, kernel, layer, found.__getitem__)


def sites(model: nn.Module, follow: dict[str, Following]) -> tuple[list[Site], dict[str, str]]:
    """The layers of a model that a kernel may run, and for the others with weights the reason.

    Args:
        model: any module.
        follow: what follows each layer, by name.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    found: list[Site] = []
    skipped: dict[str, str] = {}
    inside: tuple[str, ...] = ()
    seen: set[int] = set()
    for name, module in model.named_modules():
        if inside and name.startswith(inside):
            continue  # the projection inside of an attention
        weights = weights_of(module)
        if (not weights and not _is_pool(module)) or id(module) in seen:
            continue
        seen.add(id(module))
        if isinstance(module, nn.MultiheadAttention):
            inside = (*inside, f"{name}.")
        reason = _why_not(module, weights)
        if reason:
            skipped[name] = reason
            continue
        f = follow.get(name, NOTHING)
        norm = None if f.norm is None else modules[f.norm]
        activation = None if f.activation is None else modules[f.activation]
        found.append(Site(name, module, weights, norm, activation, f))
    return found, skipped


def weights_of(module: nn.Module) -> tuple[str, ...]:
    """Names of the weights of a layer whose forward pass is torch's own, else none."""
    forward = type(module).forward
    if forward in (nn.Linear.forward, nn.Conv2d.forward, nn.Embedding.forward):
        return ("weight",)
    if type(module).__name__ == "Conv1D" and isinstance(getattr(module, "nf", None), int):
        return ("weight",)
    if forward is nn.MultiheadAttention.forward and isinstance(module, nn.MultiheadAttention):
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        own = ("in_proj_weight",) if module._qkv_same_embed_dim else names
        return (*own, "out_proj.weight")
    if forward in (nn.LSTM.forward, nn.GRU.forward):
        return tuple(n for n, _ in module.named_parameters() if n.startswith("weight"))
    return ()


def weight_matrix(layer: nn.Module, name: str) -> Tensor:
    """A weight of a layer as a matrix (rows, the rest)."""
    weight = layer.get_parameter(name).detach()
    return weight.reshape(weight.shape[0], -1)


def _why_not(module: nn.Module, weights: tuple[str, ...]) -> str:
    for name in weights:
        owner, _, last = name.rpartition(".")
        held = module.get_submodule(owner)._parameters
        if last not in held and f"{last}_orig" in held:
            return "pruned by a mask that is not in its weight: torch.nn.utils.prune.remove first"
        if last not in held:
            return "parametrised: torch.nn.utils.parametrize.remove_parametrizations first"
        weight = module.get_parameter(name)
        if weight.dtype != torch.float32:
            return f"{weight.dtype}, and the kernels take torch.float32"
        if weight.device.type not in ("cpu", "meta"):
            return f"on {weight.device}, and the kernels run on the CPU"
        if weight.numel() == 0:
            return "no weights"
    if _is_pool(module) and (module.return_indices or module.ceil_mode or module.dilation != 1):
        return "indices, ceil_mode or a dilation"
    if hooked(module):
        return "hooks are registered on it"
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return f"padding with {module.padding_mode!r}"
    if isinstance(module, nn.Conv2d) and _uneven(module):
        return "a padding that is not the same on both sides"
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return "max_norm changes the table while it is read"
    if isinstance(module, nn.MultiheadAttention):
        return attention.why_not(module)
    if isinstance(module, nn.LSTM | nn.GRU):
        return recurrent.why_not(module)
    return ""


def _is_pool(module: nn.Module) -> TypeGuard[nn.MaxPool2d]:
    return type(module).forward is nn.MaxPool2d.forward


def _reach(layer: nn.Conv2d) -> Iterator[int]:
    for k, d in zip(layer.kernel_size, layer.dilation, strict=True):
        yield d * (k - 1)


def _uneven(layer: nn.Conv2d) -> bool:
    return layer.padding == "same" and any(reach % 2 for reach in _reach(layer))


def _padding(layer: nn.Conv2d) -> tuple[int, int]:
    if layer.padding == "valid":
        return 0, 0
    if layer.padding == "same":
        y, x = (reach // 2 for reach in _reach(layer))
        return y, x
    return int(layer.padding[0]), int(layer.padding[1])
