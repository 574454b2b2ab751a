"""Summing duplicates and picking entries, as one pair of adjoint operations.

`scatter_sum(t, slots)` adds entry k of `t` to place `slots[k]`; `gather(v, slots)` reads place
`slots[k]`. Each is the transpose of the other, so each is the other's derivative and every
order follows. torch's own `index_add` serves small inputs best; for large ones it runs one element
at a time, where a precomputed incidence matrix with a compiled product is an order of magnitude
faster. Both add in the order of the triplets.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
import torch.autograd.forward_ad as fwAD
from scipy.sparse import _sparsetools  # type: ignore[attr-defined]
from torch import Tensor

from .plain import are_vectors, is_of_the_host, is_plain, numbers
from .rule import Rule, directly
from .threads import by_parts

_is_compiling = torch.compiler.is_dynamo_compiling  # what else traces brings its own tensors
_compiled: dict[str, Any] = {}  # loops by the dtype's character, from `use_compiled`
_calls: dict[torch.dtype, Any] = {}
_Table = ctypes.c_int64 * 8
_pass, _will_be_executed = torch._C._current_graph_task_id, torch._C._will_engine_execute_node
_Leaf: Any = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]
_FEW = 20_000  # triplets up to which torch's operation costs less than a rule of our own

__all__ = ["Slots", "awaiting", "gather", "leave", "scatter_sum", "use_compiled"]


class Slots:
    """Where each of m triplets lands among nnz places; its sorted order is made when first needed.

    Parameters
    ----------
    index : LongTensor, shape (m,)
        The place of each triplet.
    size : int
        The number of places, nnz.
    """

    def __init__(self, index: Tensor, size: int) -> None:
        self.index, self.size, self.count = index, size, len(index)
        self._is_narrow = max(size, self.count) < 2**31
        self._incidence: tuple[np.ndarray, np.ndarray] | None = None
        self._singles: tuple[np.ndarray, ...] | None = None
        self._ones: dict[np.dtype, np.ndarray] = {}
        self._narrow: np.ndarray | None = None
        self._devices: dict[torch.device, Tensor] = {}
        self._zeros: dict[torch.dtype, Tensor] = {}
        self._table: Any = None
        self.is_shared = False  # whether the sums' gradient was seen to come from several places

    def zeros(self, dtype: torch.dtype) -> Tensor:
        """As many as there are places, on the host: read, never written to."""
        zeros = self._zeros.get(dtype)
        if zeros is None:
            with torch.inference_mode(False):
                zeros = torch.zeros(self.size, dtype=dtype, device="cpu")
            self._zeros[dtype] = zeros
        return zeros

    def on(self, device: torch.device) -> Tensor:
        """The index on `device`, copied there once."""
        if device.type == "cpu":
            return self.index
        if device not in self._devices:
            with torch.inference_mode(False):  # graphs will save it
                self._devices[device] = self.index.to(device)
        return self._devices[device]

    @property
    def incidence(self) -> tuple[np.ndarray, np.ndarray]:
        """(pointer, triplets of each place in turn), in the narrowest integers that hold them."""
        if self._incidence is None:
            order, begin = self._sorted()
            kind = np.int32 if self._is_narrow else np.int64
            self._incidence = begin.astype(kind), order.astype(kind)
        return self._incidence

    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """The triplets of each place in turn, and where those of each begin there, and end."""
        index = self.index.numpy()
        count = np.bincount(index, minlength=self.size)
        return np.argsort(index, kind="stable"), np.append(0, np.cumsum(count))

    @property
    def singles(self) -> tuple[np.ndarray, ...]:
        """(a triplet of each place, the ascending places with more or none, and as `incidence` the
        triplets of these), uint32: what compiled loops sum by, since most places have one. There must
        be a triplet, and fewer than 2^31 of them and of places.
        """
        if self._singles is None:
            order, begin = self._sorted()
            count = np.diff(begin)
            others = np.flatnonzero(count != 1)
            pointer = np.append(0, np.cumsum(count[others]))
            single = order[np.minimum(begin[:-1], len(order) - 1)]
            order = order[np.repeat(count != 1, count)]
            self._singles = tuple(a.astype(np.uint32) for a in (single, others, pointer, order))
        return self._singles

    @property
    def narrow(self) -> np.ndarray:
        """The index in 32 bits; fewer than 2^31 places and triplets."""
        if self._narrow is None:
            self._narrow = self.index.numpy().astype(np.uint32)
        return self._narrow

    @property
    def table(self) -> Any:
        """What compiled calls read, as an array of words that holds what it points to: how many places,
        triplets, and places with not exactly one, then the addresses of `singles` and of `narrow`. Hold
        it during a call: two threads that come first at once make it twice, and one of them goes. Its
        `is_full` tells whether each place has a triplet.
        """
        if self._table is None:
            arrays = *self.singles, self.narrow
            table: Any = _Table(self.size, self.count, len(arrays[1]), *(a.ctypes.data for a in arrays))
            table.held, table.at = arrays, ctypes.addressof(table)
            table.is_full = bool(np.diff(arrays[2]).all())
            self._table = table
        return self._table

    def sum(self, triplets: np.ndarray) -> np.ndarray:
        """Sums of `triplets` (m,) by place, always in the order of the triplets."""
        compiled = _compiled.get(triplets.dtype.char)
        if compiled is not None and self.count and self._is_narrow:
            out = np.empty(self.size, triplets.dtype)
            given = *self.singles, triplets, out
            by_parts(self.size, self.count, lambda start, stop: compiled.sum(*given, start, stop))
            return out
        pointer, order = self.incidence
        ones = self._ones.get(triplets.dtype)
        if ones is None:
            ones = self._ones.setdefault(triplets.dtype, np.ones(len(order), triplets.dtype))
        out = np.zeros(self.size, dtype=triplets.dtype)

        def rows(start: int, stop: int) -> None:
            part = pointer[start : stop + 1], order, ones, triplets, out[start:stop]
            _sparsetools.csr_matvec(stop - start, len(order), *part)

        by_parts(self.size, len(order), rows)
        return out

    def take(self, values: np.ndarray) -> np.ndarray | None:
        """Of `values` (nnz,) those at the places, (m,), by a compiled loop; None if there is none."""
        compiled = _compiled.get(values.dtype.char)
        if compiled is None or not self._is_narrow:
            return None
        out = np.empty(self.count, values.dtype)
        given = self.narrow, np.ascontiguousarray(values), out
        by_parts(self.count, self.count, lambda start, stop: compiled.take(*given, start, stop))
        return out


def use_compiled(dtype: str, loops: Any) -> None:
    """Use compiled loops, with functions `sum` and `take`, for this dtype (its character); `calls` has
    the same by addresses.
    """
    _compiled[dtype] = loops
    _calls[torch.from_numpy(np.empty(0, dtype)).dtype] = loops.calls


def _scatter(t: Tensor, slots: Slots) -> Tensor:
    if t.ndim == 1 and t.device.type == "cpu" and is_plain(t):
        return torch.from_numpy(slots.sum(np.ascontiguousarray(numbers(t))))
    return _index_add(t, slots)


def _index_add(t: Tensor, slots: Slots) -> Tensor:
    return t.new_zeros((*t.shape[:-1], slots.size)).index_add(-1, slots.on(t.device), t)


class _ScatterSum(Rule):
    @staticmethod
    def forward(t: Tensor, slots: Slots) -> Tensor:
        return _scatter(t, slots)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.slots = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        return gather(g, ctx.slots), None

    @staticmethod
    def jvp(ctx: Any, tdot: Tensor, _: None) -> Tensor:  # type: ignore[override]
        return scatter_sum(tdot, ctx.slots)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, t: Tensor, slots: Slots) -> tuple:  # type: ignore[override]
        return scatter_sum(t.movedim(in_dims[0], 0), slots), 0


class _Gather(Rule):
    @staticmethod
    def forward(v: Tensor, slots: Slots) -> Tensor:
        return _read(v, slots)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.slots = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        return scatter_sum(g, ctx.slots), None

    @staticmethod
    def jvp(ctx: Any, vdot: Tensor, _: None) -> Tensor:  # type: ignore[override]
        return gather(vdot, ctx.slots)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, v: Tensor, slots: Slots) -> tuple:  # type: ignore[override]
        return gather(v.movedim(in_dims[0], 0), slots), 0


@directly
class _Sum(torch.autograd.Function):
    """`_ScatterSum` of ordinary tensors, by compiled calls and without what torch does for transforms;
    by this thread or torch's team.

    Who makes the gradient of the sums may make that of the triplets with it, while its numbers are in
    the cache, and leave them as `both`: the backward pass's number, this gradient, and that. They are
    used if the very same gradient comes, and in that pass. See `awaiting`.
    """

    @staticmethod
    def forward(ctx: Any, t: Tensor, given: tuple[Slots, Any, Any]) -> Tensor:
        (slots, calls, team), ctx.given, ctx.both = given, given, None
        table, out = slots._table or slots.table, t.new_empty(slots.size)
        calls.sum(team, table.at, t.data_ptr(), out.data_ptr())
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        both, ctx.both = ctx.both, None
        slots, calls, _ = ctx.given
        if both is not None and both[0] == _pass() and not torch.is_grad_enabled():
            if both[1] is g and g._version == 0:
                return both[2], None
            slots.is_shared = True  # more was added: next time, too, by the looks of it
        team = calls.team(slots.count)
        if team is None or torch.is_grad_enabled() or not are_vectors(g, g):
            return gather(g, slots), None
        table, out = slots._table or slots.table, g.new_empty(slots.count)
        calls.take(team, table.at, g.data_ptr(), out.data_ptr())
        return out, None


_sum = super(torch.autograd.Function, _Sum).apply  # type: ignore[misc]
_Summed: Any = _Sum._backward_cls  # type: ignore[attr-defined]


def awaiting(sums: Tensor) -> tuple[Any, Any]:
    """(The node that made `sums`, the table of its slots) if this backward pass may go on from their
    gradient to that of the triplets, which may then be left there, see `leave`. Else (None, None), also
    where hooks on `sums` will see the gradient: they are not to edit it, but sometimes do.
    """
    node: Any = sums.grad_fn
    if type(node) is _Summed and sums._backward_hooks is None and _pass() >= 0:
        slots, following = node.given[0], node.next_functions[0][0]
        # Of leaves torch does not tell; `node` may be as far as a pass goes that is to end there.
        asked = node if type(following) is _Leaf else following
        if not slots.is_shared and _will_be_executed(asked):
            table = slots._table or slots.table
            if table.is_full:
                return node, table
    return None, None


def leave(node: Any, of_sums: Tensor, of_triplets: Tensor) -> None:
    """Leave two gradients at a node, the second made from the first."""
    node.both = _pass(), of_sums, of_triplets


def scatter_sum(t: Tensor, slots: Slots) -> Tensor:
    """Sum triplets by place: t (*B, m) -> (*B, nnz). Differentiable to any order."""
    # A compiler differentiates and fuses torch's own operation.
    if _is_compiling():
        return _index_add(t, slots)
    if slots.count <= _FEW:
        if t.dim() == 1 and is_of_the_host(t):
            zeros = slots._zeros.get(t.dtype)
            zeros = slots.zeros(t.dtype) if zeros is None else zeros
            return zeros.index_add(0, slots.index, t)
        return _index_add(t, slots)
    calls = _calls.get(t.dtype)
    if calls is not None and slots._is_narrow and are_vectors(t, t):
        team = calls.team(slots.count)
        if team is not None:
            return _sum(t, (slots, calls, team))
    if torch.compiler.is_compiling():
        return _index_add(t, slots)
    return _ScatterSum.apply(t, slots)


def gather(v: Tensor, slots: Slots) -> Tensor:
    """Read places: v (*B, nnz) -> (*B, m). Differentiable to any order."""
    if slots.count <= _FEW or torch.compiler.is_compiling():
        return v.index_select(-1, slots.on(v.device))
    return _Gather.apply(v, slots) if torch.is_grad_enabled() else _read(v, slots)


def _read(v: Tensor, slots: Slots) -> Tensor:
    if v.ndim == 1 and v.is_cpu and is_plain(v) and fwAD._current_level < 0:
        found = slots.take(numbers(v))
        if found is not None:
            return torch.from_numpy(found)
    return v.index_select(-1, slots.on(v.device))
