"""The modules of the copy that is deployed: copied, replaced, given tensors of their own."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from tersor.run.deployed import Deployed
from tersor.run.layers import DeployedChain, DeployedLinear
from tersor.run.sites import Site


def copied(model: nn.Module) -> nn.Module:
    """The model in eval mode with modules of its own; the tensors are shared.

    They need a gradient if the model's do: torch takes other, partly slower ways without.
    An `nn.TransformerEncoder` does not pack padded sequences, for which it takes the dense weights
    out of its layers: padded positions come out as in training, and not as zeros.
    """
    kept: dict[int, Any] = {}
    for parameter in model.parameters():
        kept[id(parameter)] = nn.Parameter(parameter.detach(), parameter.requires_grad)
    for buffer in model.buffers():
        kept[id(buffer)] = buffer.detach()
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # a weight that pruning computed
                kept[id(value)] = value.detach().clone()
    work = copy.deepcopy(model, kept).eval()
    for module in work.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
        if type(module) is Linear:  # of a model that was deployed before
            module.__class__ = nn.Linear  # type: ignore[assignment]
    return work


def own(work: nn.Module) -> None:
    """Give what is left of the model's own tensors a copy, so that training it changes nothing.

    None of them needs a gradient then.
    """
    deployed = {id(t) for m in work.modules() if isinstance(m, Deployed) for t in m.buffers()}
    for tensor in (*work.parameters(), *work.buffers()):
        if id(tensor) not in deployed:
            tensor.data = tensor.data.clone()
    work.requires_grad_(False)
    for module in work.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear


class Linear(nn.Linear):
    """`nn.Linear` for weights that need no gradient.

    torch multiplies sequences that are not contiguous, such as the output of an LSTM with
    `batch_first`, as one matrix if the weight needs a gradient, and one by one, which is slower,
    if it does not (`should_fold` in ATen/native/LinearAlgebra.cpp).
    """

    def forward(self, input: Tensor) -> Tensor:
        if not input.is_contiguous() and input.dim() > 2:
            input = input.contiguous()
        return functional.linear(input, self.weight, self.bias)


def put(work: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module at a qualified name, and at every other name of the one that stood there."""
    old = work.get_submodule(name)
    for parent in list(work.modules()):
        for child, at in list(parent._modules.items()):
            if at is old:
                parent._modules[child] = module


def replace_site(work: nn.Module, site: Site, made: nn.Module) -> None:
    """Put `made` in the place of a layer and of what follows it."""
    for name in (site.following.norm, site.following.activation):
        if name is not None:
            put(work, name, nn.Identity().eval())
    put(work, site.name, made)
    for module in work.modules():
        # torch's fast path of an encoder layer takes the dense weights out of the layer's parts.
        if isinstance(module, nn.TransformerEncoderLayer) and _holds_deployed(module):
            module.activation_relu_or_gelu = 0


def folded(site: Site) -> nn.Module:
    """The layer itself with its batch norm in its weights."""
    if isinstance(site.layer, nn.Conv2d):
        return fuse_conv_bn_eval(site.layer, site.norm)  # type: ignore[arg-type]
    return fuse_linear_bn_eval(site.layer, site.norm)  # type: ignore[arg-type, type-var]


def _holds_deployed(module: nn.Module) -> bool:
    return any(isinstance(part, Deployed) for part in module.modules())


def chain(work: nn.Module, names: tuple[str, ...]) -> None:
    """Let deployed linear layers that follow each other be one call, at the place of the first."""
    layers = [work.get_submodule(name) for name in names]
    assert all(isinstance(layer, DeployedLinear) for layer in layers)
    for name in names[1:]:
        put(work, name, nn.Identity().eval())
    put(work, names[0], DeployedChain(layers))  # type: ignore[arg-type]
