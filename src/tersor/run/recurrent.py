"""Recurrent layers whose weights lie in kernel storage: torch's LSTM and GRU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from tersor import _native
from tersor.core.errors import ConfigError
from tersor.run.calls import Matrix, refuse_gradient, require
from tersor.run.deployed import Deployed
from tersor.run.layers import dense_of
from tersor.run.operators import define, traced

_CELLS = ("LSTM", "GRU")
_GATES = {"LSTM": 4, "GRU": 3}

# cell, reverse; address, size and kind of the input's and the state's matrix; their biases.
_Call = tuple[int, bool, int, int, bool, int, int, bool, int, int]

State = Tensor | tuple[Tensor, Tensor]
"""h of a GRU; (h, c) of an LSTM."""


def why_not(layer: nn.LSTM | nn.GRU) -> str:
    """The reason why this layer stays as it is, or ""."""
    if layer.proj_size > 0:
        return f"proj_size={layer.proj_size}: a projected state has no kernel"
    return ""


class DeployedRecurrent(Deployed):
    """`nn.LSTM` or `nn.GRU` in eval mode, whose dropout is inactive.

    Shapes: as torch's: x (T, N, input_size), (N, T, input_size) with `batch_first`, or
    (T, input_size) -> (out, (h, c)) of an LSTM, (out, h) of a GRU.

    Args:
        layer: gives the sizes and the biases; its weights are not read.
        pack: the layout and the bytes of the weight of a name, such as "weight_ih_l0".

    Raises:
        ConfigError: `why_not` gives a reason.
    """

    def __init__(
        self,
        name: str,
        kernel: str,
        layer: nn.LSTM | nn.GRU,
        pack: Callable[[str], tuple[Matrix, Tensor]],
    ) -> None:
        super().__init__(name, kernel)
        reason = why_not(layer)
        if reason:
            raise ConfigError(f"{name}: {reason}")
        self.mode = layer.mode
        self.input_size, self.hidden_size = layer.input_size, layer.hidden_size
        self.num_layers, self.bidirectional = layer.num_layers, layer.bidirectional
        self.bias, self.batch_first = layer.bias, layer.batch_first
        self.dropout, self.proj_size = layer.dropout, layer.proj_size
        self._matrices: list[Matrix] = []
        for part in self._parts():
            matrix, packed = pack(f"weight_{part}")
            self._matrices.append(matrix)
            self.register_buffer(f"packed_{part}", packed)
            if self.bias:
                bias = layer.get_parameter(f"bias_{part}").detach()
                self.register_buffer(f"bias_{part}", bias.to(torch.float32).contiguous().clone())

    def weights(self) -> dict[str, Tensor]:
        """The weights under torch's names, made from the storage; a zero has lost its sign."""
        rows = _GATES[self.mode] * self.hidden_size
        out = {}
        for part, matrix, columns in zip(
            self._parts(), self._matrices, self._columns(), strict=True
        ):
            packed = self.get_buffer(f"packed_{part}")
            out[f"weight_{part}"] = dense_of(matrix, packed, rows, columns)
        return out

    def flatten_parameters(self) -> None:
        """Does nothing: models call it before the layer, for torch's kernels on a GPU."""

    def forward(self, input: Tensor, hx: State | None = None) -> tuple[Tensor, State]:
        plain = isinstance(input, PackedSequence) or not traced(input)
        if plain:
            self._check(input, hx)
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(1)
        if batched and self.batch_first:
            x = x.transpose(0, 1)
        h, c = self._state(x, hx, batched)
        if plain:
            if self._prepared is None:
                # The addresses, and what keeps them good whatever becomes of the buffers.
                self._prepared = self._calls(), [b.detach() for b in self.buffers()]
            out, h, c = _run(x, h, c, self._prepared[0], self.hidden_size)
        else:
            out, h, c = torch.ops.tersor.recurrent(x, h, c, *self._arguments(), self.hidden_size)
            c = c if self.mode == "LSTM" else None
        if batched and self.batch_first:
            out = out.transpose(0, 1)
        if not batched:
            out, h, c = out.squeeze(1), h.squeeze(1), None if c is None else c.squeeze(1)
        return out, (h if c is None else (h, c))

    def _parts(self) -> list[str]:
        """Ends of the weights' and biases' names, in the order of `_calls`."""
        ends = ("", "_reverse") if self.bidirectional else ("",)
        layers = range(self.num_layers)
        return [f"{kind}_l{i}{end}" for i in layers for end in ends for kind in ("ih", "hh")]

    def _columns(self) -> list[int]:
        directions = 2 if self.bidirectional else 1
        inputs = [self.input_size] + [directions * self.hidden_size] * (self.num_layers - 1)
        return [n for i in inputs for _ in range(directions) for n in (i, self.hidden_size)]

    def _arguments(self) -> tuple[list[Tensor], list[Tensor], list[int], int, bool]:
        parts = self._parts()
        packed = [self.get_buffer(f"packed_{part}") for part in parts]
        biases = [self.get_buffer(f"bias_{part}") for part in parts] if self.bias else []
        coded = [int(matrix == "codes") for matrix in self._matrices]
        return packed, biases, coded, _CELLS.index(self.mode), self.bidirectional

    def _calls(self) -> list[_Call]:
        try:
            for name, buffer in self.named_buffers():
                require(buffer, name, torch.float32 if name.startswith("bias") else torch.uint8)
        except ConfigError as error:
            raise self._located(error) from None
        return _calls(*self._arguments())

    def _state(self, x: Tensor, hx: State | None, batched: bool) -> tuple[Tensor, Tensor | None]:
        if hx is None:
            count = self.num_layers * (2 if self.bidirectional else 1)
            h = x.new_zeros((count, x.shape[1], self.hidden_size))
            return h, (torch.zeros_like(h) if self.mode == "LSTM" else None)
        h, c = (hx, None) if isinstance(hx, Tensor) else hx
        if batched:
            return h, c
        return h.unsqueeze(1), None if c is None else c.unsqueeze(1)

    def _check(self, x: Tensor | PackedSequence, hx: State | None) -> None:
        """Raise ConfigError for what the kernels cannot take."""
        try:
            if isinstance(x, PackedSequence):
                raise ConfigError(
                    "a PackedSequence, expected a tensor; pad_packed_sequence makes one, whose "
                    "steps behind the end of a sequence are to be left out"
                )
            require(x)
            wrong = x.dim() not in (2, 3) or x.shape[-1] != self.input_size
            if wrong:
                order = "N, T" if self.batch_first else "T, N"
                expected = f"({order}, {self.input_size}) or (T, {self.input_size})"
                raise ConfigError(f"input of shape {tuple(x.shape)}, expected {expected}")
            steps = x.shape[1 if x.dim() == 3 and self.batch_first else 0]
            if steps == 0:
                raise ConfigError(f"input of shape {tuple(x.shape)}, expected at least one step")
            refuse_gradient(x)
            if hx is not None:
                self._check_state(x, hx)
        except ConfigError as error:
            raise self._located(error) from None

    def _check_state(self, x: Tensor, hx: State) -> None:
        states = {"h": hx} if isinstance(hx, Tensor) else dict(zip("hc", hx, strict=False))
        wanted = ["h"] if self.mode == "GRU" else ["h", "c"]
        if list(states) != wanted or isinstance(hx, Tensor) != (self.mode == "GRU"):
            expected = "h" if self.mode == "GRU" else "(h, c)"
            raise ConfigError(f"a state of {len(states)} tensors, expected {expected}")
        batch = () if x.dim() == 2 else (x.shape[0 if self.batch_first else 1],)
        count = self.num_layers * (2 if self.bidirectional else 1)
        shape = (count, *batch, self.hidden_size)
        for name, state in states.items():
            require(state, name)
            if state.shape != shape:
                raise ConfigError(f"{name} of shape {tuple(state.shape)}, expected {shape}")
            refuse_gradient(state)

    def extra_repr(self) -> str:
        return (
            f"{self.mode}, {self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, "
            f"bias={self.bias}, batch_first={self.batch_first}, "
            f"bidirectional={self.bidirectional}, kernel={self.kernel}"
        )


def _calls(
    packed: Sequence[Tensor],
    biases: Sequence[Tensor],
    coded: Sequence[int],
    cell: int,
    bidirectional: bool,
) -> list[_Call]:
    """The first arguments of `_native.recurrent` for each layer and direction."""
    calls: list[_Call] = []
    for i in range(0, len(packed), 2):
        x, h = ((packed[k].data_ptr(), packed[k].numel(), bool(coded[k])) for k in (i, i + 1))
        b, b_h = (v.data_ptr() for v in biases[i : i + 2]) if biases else (0, 0)
        calls.append((cell, bidirectional and i // 2 % 2 == 1, *x, *h, b, b_h))
    return calls


def _run(
    x: Tensor, h: Tensor, c: Tensor | None, calls: Sequence[_Call], hidden: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x (T, N, inputs) through all layers: the last one's outputs, and the states after it."""
    x = x.contiguous()
    h = h.clone(memory_format=torch.contiguous_format)
    c = None if c is None else c.clone(memory_format=torch.contiguous_format)
    steps, batch = x.shape[:2]
    directions = 2 if any(call[1] for call in calls) else 1
    width = directions * hidden
    threads = torch.get_num_threads()
    for i, call in enumerate(calls):
        if i % directions == 0:
            before, x = x, x.new_empty((steps, batch, width))
        if x.numel() == 0:
            continue
        out = x.data_ptr() + i % directions * hidden * x.element_size()
        sizes = (steps, batch, before.shape[2], hidden)
        states = (h[i].data_ptr(), 0 if c is None else c[i].data_ptr())
        _native.recurrent(*call, *(before.data_ptr(), *sizes, *states, out, width, threads))
    return x, h, c


def _operator(
    x: Tensor,
    h: Tensor,
    c: Tensor | None,
    packed: Sequence[Tensor],
    biases: Sequence[Tensor],
    coded: Sequence[int],
    cell: int,
    bidirectional: bool,
    hidden: int,
) -> tuple[Tensor, Tensor, Tensor]:
    _require_fit(x, h, c, packed, biases, coded, cell, bidirectional, hidden)
    out, h, c = _run(x, h, c, _calls(packed, biases, coded, cell, bidirectional), hidden)
    return out, h, h.new_empty(0) if c is None else c


def _require_fit(
    x: Tensor,
    h: Tensor,
    c: Tensor | None,
    packed: Sequence[Tensor],
    biases: Sequence[Tensor],
    coded: Sequence[int],
    cell: int,
    bidirectional: bool,
    hidden: int,
) -> None:
    """Raise ConfigError for arguments with which the kernel would leave their memory."""
    mode = _CELLS[cell]
    each = 4 if bidirectional else 2
    matrices, kinds = len(packed), len(coded)
    wrong = not packed or matrices % each or kinds != matrices or len(biases) not in (0, matrices)
    if wrong:
        raise ConfigError(
            f"{matrices} matrices of {kinds} kinds with {len(biases)} biases, expected {each} of "
            "each for a layer, or no biases"
        )
    if (c is None) != (mode == "GRU"):
        raise ConfigError(f"{mode} {'without' if c is None else 'with'} c, which LSTM alone has")
    if x.dim() != 3:
        raise ConfigError(f"x of shape {tuple(x.shape)}, expected (T, N, inputs)")
    state, rows = (len(packed) // 2, x.shape[1], hidden), (_GATES[mode] * hidden,)
    given = [("x", x, x.shape), ("h", h, state), *(("bias", b, rows) for b in biases)]
    for name, value, shape in [*given, *([] if c is None else [("c", c, state)])]:
        require(value, name)
        if value.shape != shape:
            raise ConfigError(f"{name} of shape {tuple(value.shape)}, expected {shape}")


def _fake(x: Tensor, h: Tensor, c: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, bidirectional, hidden = rest
    out = x.new_empty((*x.shape[:2], hidden * (2 if bidirectional else 1)))
    return out, h.new_empty(h.shape), h.new_empty(0 if c is None else c.shape)


# The third tensor is c, without elements for a GRU.
define(
    "recurrent",
    "(Tensor x, Tensor h, Tensor? c, Tensor[] packed, Tensor[] biases, int[] coded, int cell, "
    "bool bidirectional, SymInt hidden) -> (Tensor, Tensor, Tensor)",
    _operator,
    _fake,
)
