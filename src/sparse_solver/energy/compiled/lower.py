"""From a function of torch tensors to a tape of scalar operations.

The function is traced on one element. Then a tensor is a tensor of numbers of operations: what only
moves data is done by torch itself on these, the rest entry by entry.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .tape import UNARY, Tape

__all__ = ["lower"]

_MOVES = {  # move data only
    f"aten.{name}"
    for name in (
        "view _unsafe_view reshape select slice unsqueeze squeeze permute transpose t expand stack cat "
        "unbind split split_with_sizes clone alias detach diagonal flip roll repeat "
        "narrow movedim flatten unflatten contiguous lift_fresh_copy lift_fresh tril triu view_as "
        "expand_as squeeze_ unsqueeze_ swapaxes chunk expand_copy view_copy select_copy"
    ).split()
}
_SAME = {"aten._to_copy", "aten.to", "aten.lift_fresh_copy", "aten.clone", "aten.detach", "aten.alias"}
_MATRIX = 4  # closed formulas up to this size


def lower(
    f: Callable[..., Tensor], names: Sequence[str], samples: Sequence[Tensor]
) -> tuple[Tape, list[int], list[list[int]]]:
    """(tape, the numbers of the entries of f's result, those of the entries of each argument).

    Parameters
    ----------
    f : callable
        Returns a tensor.
    names : sequence of str
        Expressions for the entries of each argument, with ``{}`` for the index of the entry.
    samples : sequence of Tensor
        Arguments of the right shapes and dtypes; numbers don't matter.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    traced = make_fx(f)(*samples)
    traced.graph.eliminate_dead_code()
    tape = Tape()
    args = []
    for name, sample in zip(names, samples, strict=True):
        ids = [tape.input(name.format(i)) for i in range(sample.numel())]
        args.append(ids)
    environment: dict[Any, Any] = {}
    arguments = iter(torch.tensor(a).reshape(s.shape) for a, s in zip(args, samples, strict=True))
    out: Any = None
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            environment[node] = next(arguments)
        elif node.op == "get_attr":
            environment[node] = _constants(tape, getattr(traced, node.target))
        elif node.op == "output":
            out = environment[node.args[0]]
        else:
            given = torch.fx.node.map_arg((node.args, node.kwargs), environment.__getitem__)
            environment[node] = _apply(tape, node.target, *given)
    return tape, out.reshape(-1).tolist(), args


def _constants(tape: Tape, t: Tensor) -> Tensor:
    return torch.tensor([tape.const(v) for v in t.detach().reshape(-1).tolist()]).reshape(t.shape)


def _apply(tape: Tape, target: Any, args: tuple, kwargs: dict) -> Any:
    if target is operator.getitem:
        whole, i = args
        return whole[i] if i < len(whole) else None  # parts that nobody needs were not made
    name = str(target).rsplit(".", 1)[0] if str(target).count(".") > 1 else str(target)
    if name in _SAME:
        kind = kwargs.get("dtype")
        if kind is not None and not kind.is_floating_point:
            raise NotImplementedError(f"compile=True cannot turn numbers into {kind}; leave it out")
        return args[0]
    if name in _MOVES:
        return target(*args, **kwargs)
    rule = _RULES.get(name)
    if rule is None and not any(isinstance(a, Tensor) for a in args):
        made = target(*args, **kwargs)
        if isinstance(made, Tensor):  # eye, arange and so on
            return _constants(tape, made)
    if rule is None:
        raise NotImplementedError(
            f"compile=True does not know the operation {target}; leave compile out, or write "
            "local_energy with products, sums, small matrices and elementary functions"
        )
    return rule(tape, *args, **kwargs)


def _integers(tape: Tape, ids: Tensor) -> Tensor:
    """The constants that ids stand for, to index with."""
    numbers = [tape.value(i) for i in ids.reshape(-1).tolist()]
    if any(v is None for v in numbers):
        raise NotImplementedError("compile=True indexes with constants only; leave it out")
    return torch.tensor([int(v) for v in numbers if v is not None]).reshape(ids.shape)


def _index(tape: Tape, a: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    return a[tuple(slice(None) if i is None else _integers(tape, i) for i in indices)]


# ---- entry by entry ----


def _ids(tape: Tape, *given: Any) -> tuple[Tensor, ...]:
    tensors = [g if isinstance(g, Tensor) else torch.tensor(tape.const(float(g))) for g in given]
    return torch.broadcast_tensors(*tensors)


def _pointwise(tape: Tape, f: Callable[..., int], *given: Any) -> Tensor:
    tensors = _ids(tape, *given)
    flat = [t.reshape(-1).tolist() for t in tensors]
    return torch.tensor([f(*entry) for entry in zip(*flat)], dtype=torch.int64).reshape(
        tensors[0].shape
    )


def _binary(method: str) -> Callable[..., Tensor]:
    return lambda tape, a, b: _pointwise(tape, getattr(tape, method), a, b)


def _with_alpha(method: str) -> Callable[..., Tensor]:
    def rule(tape: Tape, a: Any, b: Any, alpha: float = 1) -> Tensor:
        b = b if alpha == 1 else _pointwise(tape, tape.mul, b, alpha)
        return _pointwise(tape, getattr(tape, method), a, b)

    return rule


def _unary(name: str) -> Callable[..., Tensor]:
    return lambda tape, a: _pointwise(tape, lambda i: tape.unary(name, i), a)


def _compare(name: str) -> Callable[..., Tensor]:
    return lambda tape, a, b: _pointwise(tape, lambda i, j: tape.compare(name, i, j), a, b)


def _larger(sign: str) -> Callable[..., Tensor]:
    def one(tape: Tape, a: int, b: int) -> int:
        # Where both are equal torch gives each half of the derivative.
        half = tape.mul(tape.const(0.5), tape.add(a, b))
        strict = tape.where(tape.compare(sign, a, b), a, b)
        return tape.where(tape.compare("eq", a, b), half, strict)

    return lambda tape, a, b: _pointwise(tape, lambda i, j: one(tape, i, j), a, b)


def _sigmoid(tape: Tape, a: int) -> int:
    one = tape.const(1)
    return tape.div(one, tape.add(one, tape.unary("exp", tape.neg(a))))


def _clamp(tape: Tape, a: Tensor, low: Any = None, high: Any = None, **more: Any) -> Tensor:
    low, high = more.get("min", low), more.get("max", high)
    if low is not None:
        a = _pointwise(tape, lambda i, j: tape.where(tape.compare("ge", i, j), i, j), a, low)
    if high is not None:
        a = _pointwise(tape, lambda i, j: tape.where(tape.compare("le", i, j), i, j), a, high)
    return a


# ---- sums and small matrices ----


def _reduce(
    tape: Tape, a: Tensor, dim: Any, keepdim: bool, f: Callable[[int, int], int], empty: float
) -> Tensor:
    dims = range(a.ndim) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    dims = sorted(d % max(1, a.ndim) for d in dims)
    rest = [d for d in range(a.ndim) if d not in dims]
    rows = a.permute(*rest, *dims).reshape(*(a.shape[d] for d in rest), -1)
    flat = rows.reshape(-1, rows.shape[-1]).tolist() if rows.numel() else []
    sums = []
    for row in flat:
        total = row[0]
        for i in row[1:]:
            total = f(total, i)
        sums.append(total)
    if not flat:
        sums = [tape.const(empty)] * rows.shape[:-1].numel()
    out = torch.tensor(sums, dtype=torch.int64).reshape(rows.shape[:-1])
    if keepdim:
        for d in dims:
            out = out.unsqueeze(d)
    return out


def _sum(tape: Tape, a: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    return _reduce(tape, a, dim, keepdim, tape.add, 0.0)


def _mean(tape: Tape, a: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    total = _sum(tape, a, dim, keepdim)
    return _pointwise(tape, tape.mul, total, total.numel() / max(1, a.numel()))


def _prod(tape: Tape, a: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    return _reduce(tape, a, dim, keepdim, tape.mul, 1.0)


def _norm(
    tape: Tape, a: Tensor, p: float = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Tensor:
    if p == 1:
        return _sum(tape, _unary("abs")(tape, a), dim, keepdim)
    if p != 2:
        raise NotImplementedError(f"compile=True knows the 1- and 2-norm, not the {p}-norm")
    squares = _pointwise(tape, tape.mul, a, a)
    return _unary("sqrt")(tape, _sum(tape, squares, dim, keepdim))


def _matmul(tape: Tape, a: Tensor, b: Tensor) -> Tensor:
    terms = _pointwise(tape, tape.mul, a.unsqueeze(-1), b.unsqueeze(-3))
    return _sum(tape, terms, -2)


def _dot(tape: Tape, a: Tensor, b: Tensor) -> Tensor:
    return _sum(tape, _pointwise(tape, tape.mul, a, b), -1)


def _addmm(tape: Tape, c: Tensor, a: Tensor, b: Tensor, beta: float = 1, alpha: float = 1) -> Tensor:
    product = _pointwise(tape, tape.mul, _matmul(tape, a, b), alpha)
    return _pointwise(tape, tape.add, product, _pointwise(tape, tape.mul, c, beta))


def _determinant(tape: Tape, rows: list[list[int]]) -> int:
    """By expansion along the first row; minors are shared through the tape."""
    if len(rows) == 1:
        return rows[0][0]
    total = tape.const(0)
    for j, a in enumerate(rows[0]):
        minor = tape.mul(a, _determinant(tape, [r[:j] + r[j + 1 :] for r in rows[1:]]))
        total = tape.sub(total, minor) if j % 2 else tape.add(total, minor)
    return total


def _matrices(a: Tensor, what: str) -> list[list[list[int]]]:
    if a.shape[-1] > _MATRIX:
        raise NotImplementedError(
            f"compile=True knows {what} up to size {_MATRIX}, not {tuple(a.shape[-2:])}"
        )
    return a.reshape(-1, *a.shape[-2:]).tolist()


def _det(tape: Tape, a: Tensor, *_: Any) -> tuple[Tensor, ...]:
    dets = [_determinant(tape, m) for m in _matrices(a, "determinants")]
    return (torch.tensor(dets, dtype=torch.int64).reshape(a.shape[:-2]),)


def _slogdet(tape: Tape, a: Tensor, *_: Any) -> tuple[Tensor, ...]:
    (det,) = _det(tape, a)
    return _unary("sign")(tape, det), _unary("log")(tape, _unary("abs")(tape, det))


def _inverse(tape: Tape, a: Tensor, *_: Any, **__: Any) -> tuple[Tensor, ...]:
    n, out = a.shape[-1], []
    for rows in _matrices(a, "inverses"):
        det = _determinant(tape, rows)
        for i, j in itertools.product(range(n), range(n)):
            minor = [r[:i] + r[i + 1 :] for k, r in enumerate(rows) if k != j]
            cofactor = _determinant(tape, minor) if minor else tape.const(1)
            out.append(tape.div(tape.neg(cofactor) if (i + j) % 2 else cofactor, det))
    return (torch.tensor(out, dtype=torch.int64).reshape(a.shape),)


def _square(tape: Tape, a: Tensor) -> Tensor:
    return _pointwise(tape, tape.mul, a, a)


def _where(tape: Tape, c: Tensor, a: Any, b: Any) -> Tensor:
    return _pointwise(tape, tape.where, c, a, b)


def _full(value: float | None) -> Callable[..., Tensor]:
    def rule(tape: Tape, size: Any, *args: Any, **_: Any) -> Tensor:
        shape = size.shape if isinstance(size, Tensor) else size
        return torch.full(tuple(shape), tape.const(args[0] if value is None else value))

    return rule


def _cross(tape: Tape, a: Tensor, b: Tensor, dim: int = -1) -> Tensor:
    a, b = torch.broadcast_tensors(a, b)
    (a1, a2, a3), (b1, b2, b3) = a.unbind(dim), b.unbind(dim)

    def entry(p: Tensor, q: Tensor, r: Tensor, s: Tensor) -> Tensor:
        return _pointwise(
            tape, tape.sub, _pointwise(tape, tape.mul, p, q), _pointwise(tape, tape.mul, r, s)
        )

    return torch.stack([entry(a2, b3, a3, b2), entry(a3, b1, a1, b3), entry(a1, b2, a2, b1)], dim)


_RULES: dict[str, Callable[..., Any]] = {
    **{f"aten.{n}": _unary(n) for n in UNARY if n != "sign"},
    "aten.index": _index,
    "aten.index_select": lambda tape, a, dim, i: a.index_select(dim, _integers(tape, i)),
    "aten.sgn": _unary("sign"),
    "aten.sign": _unary("sign"),
    "aten.add": _with_alpha("add"),
    "aten.sub": _with_alpha("sub"),
    "aten.rsub": lambda tape, a, b, alpha=1: _with_alpha("sub")(tape, b, a, alpha),
    "aten.mul": _binary("mul"),
    "aten.div": _binary("div"),
    "aten.pow": _binary("power"),
    "aten.neg": lambda tape, a: _pointwise(tape, tape.neg, a),
    "aten.reciprocal": lambda tape, a: _pointwise(tape, tape.div, 1.0, a),
    "aten.rsqrt": lambda tape, a: _pointwise(tape, tape.div, 1.0, _unary("sqrt")(tape, a)),
    "aten.square": _square,
    "aten.sigmoid": lambda tape, a: _pointwise(
        tape,
        lambda i: tape.div(tape.const(1), tape.add(tape.const(1), tape.unary("exp", tape.neg(i)))),
        a,
    ),
    "aten.relu": lambda tape, a: _pointwise(
        tape, lambda i: tape.where(tape.compare("gt", i, tape.const(0)), i, tape.const(0)), a
    ),
    "aten.atan2": lambda tape, a, b: _pointwise(tape, lambda i, j: tape._new("atan2", i, j), a, b),
    "aten.maximum": _larger("gt"),
    "aten.minimum": _larger("lt"),
    "aten.clamp": _clamp,
    "aten.clamp_min": _clamp,
    "aten.clamp_max": lambda tape, a, high: _clamp(tape, a, None, high),
    "aten.where": _where,
    **{f"aten.{n}": _compare(n) for n in ("lt", "le", "gt", "ge", "eq", "ne")},
    "aten.sum": _sum,
    "aten.mean": _mean,
    "aten.prod": _prod,
    "aten.linalg_vector_norm": _norm,
    "aten.norm": lambda tape, a, p=2, *rest, **more: _norm(
        tape, a, 2 if p is None else p, *rest, **more
    ),
    "aten.trace": lambda tape, a: _sum(tape, a.diagonal()),
    "aten.mm": _matmul,
    "aten.bmm": _matmul,
    "aten.mv": lambda tape, a, b: _dot(tape, a, b),
    "aten.dot": _dot,
    "aten.addmm": _addmm,
    "aten.linalg_cross": lambda tape, a, b, dim=-1: _cross(tape, a, b, dim),
    "aten._linalg_det": _det,
    "aten.linalg_det": lambda tape, a: _det(tape, a)[0],
    "aten._linalg_slogdet": _slogdet,
    "aten.linalg_inv_ex": _inverse,
    "aten.inverse": lambda tape, a: _inverse(tape, a)[0],
    "aten.zeros_like": _full(0.0),
    "aten.ones_like": _full(1.0),
    "aten.new_zeros": lambda tape, a, size, **_: _full(0.0)(tape, size),
    "aten.new_ones": lambda tape, a, size, **_: _full(1.0)(tape, size),
    "aten.zeros": _full(0.0),
    "aten.ones": _full(1.0),
    "aten.full": _full(None),
    "aten.full_like": _full(None),
    "aten.scalar_tensor": lambda tape, v, **_: torch.tensor(tape.const(v)),
}
