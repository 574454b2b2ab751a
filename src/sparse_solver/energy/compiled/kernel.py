"""From a tape to a compiled loop over elements, by numba."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .tape import Tape

__all__ = ["compile_loop", "in_parts"]

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_INFIX |= {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_FUNCTIONS = {"atan": "np.arctan", "asin": "np.arcsin", "acos": "np.arccos", "atan2": "np.arctan2"}
_FUNCTIONS["abs"] = "abs"
_MOST = 40_000  # operations, beyond which compiling would take minutes
_WORTH = 4000  # elements for which a thread of its own pays


def compile_loop(
    tape: Tape, outputs: Sequence[int], loads: Sequence[str], arrays: Sequence[str], kind: str
) -> Callable[..., None]:
    """A function of (first, last, x, elements, *arrays, out, ...) that works off elements.

    Parameters
    ----------
    outputs : sequence of int
        Numbers of operations: what each element contributes.
    loads : sequence of str
        Statements that define the inputs.
    arrays : sequence of str
        Names of what is given by node and by element.
    kind : {"energy", "gradient", "hessian"}
    """
    order = tape.needed(outputs)
    if len(order) > _MOST:
        raise NotImplementedError(
            f"compile=True would compile {len(order)} operations (at most {_MOST}); leave it out"
        )
    used = {tape.nodes[i][1] for i in order if tape.nodes[i][0] == "input"}
    body = [s for s in loads if s.split(" = ")[0] in used]
    body += [f"v{i} = {_expression(tape, i)}" for i in order if tape.nodes[i][0] not in _DIRECT]
    results = [_name(tape, i) for i in outputs]
    extra, after = _ENDINGS[kind](results)
    source = [f"def loop(first, last, x, elements, {''.join(a + ', ' for a in arrays)}{extra}):"]
    source += _BEFORE.get(kind, [])
    source += ["    for e in range(first, last):"]
    source += [f"        {s}" for s in [*body, *after]]
    import numba

    from .psd import make_psd

    scope: dict[str, Any] = {"math": math, "np": np, "make_psd": make_psd}
    exec(compile("\n".join(source), f"<{kind} of an element>", "exec"), scope)  # noqa: S102
    return numba.njit(nogil=True, error_model="numpy")(scope["loop"])


_DIRECT = ("const", "input")
_BEFORE = {
    "hessian": ["    h = np.empty(places.shape[1], np.float64)", "    work = np.empty((3, q, q))"]
}


def _energy(results: list[str]) -> tuple[str, list[str]]:
    return "out", [f"out[e] = {results[0]}"]


def _gradient(results: list[str]) -> tuple[str, list[str]]:
    lines = []
    for i, r in enumerate(results):
        lines += [f"g = {r}", f"at = unknowns[e, {i}]", "out[at] += g", "sizes[at] += abs(g)"]
    return "unknowns, out, sizes", lines


def _hessian(results: list[str]) -> tuple[str, list[str]]:
    lines = [f"h[{i}] = {r}" for i, r in enumerate(results)]
    lines += ["if project:", "    make_psd(h, q, work)"]
    lines += [f"for i in range({len(results)}):", "    out[places[e, i]] += h[i]"]
    return "places, out, q, project", lines


_ENDINGS = {"energy": _energy, "gradient": _gradient, "hessian": _hessian}


def _name(tape: Tape, i: int) -> str:
    op, *args = tape.nodes[i]
    if op == "const":
        c = args[0]
        return f"({c!r})" if math.isfinite(c) else "np.nan" if math.isnan(c) else f"({c:+}*np.inf)"
    return args[0] if op == "input" else f"v{i}"


def _expression(tape: Tape, i: int) -> str:
    op, *args = tape.nodes[i]
    a = [_name(tape, j) for j in args]
    if op in _INFIX:
        return f"{a[0]} {_INFIX[op]} {a[1]}"
    if op == "neg":
        return f"-{a[0]}"
    if op == "where":
        return f"{a[1]} if {a[0]} else {a[2]}"
    if op == "pow":
        return f"{a[0]} ** {a[1]}"
    return (
        f"abs({a[0]})"
        if op == "abs"
        else f"np.sign({a[0]})"
        if op == "sign"
        else f"np.{_np(op)}({', '.join(a)})"
    )


def _np(op: str) -> str:
    return {"atan": "arctan", "asin": "arcsin", "acos": "arccos", "atan2": "arctan2"}.get(op, op)


def in_parts(run: Callable[[int, int, int], None], m: int) -> int:
    """run(part, first, last) over m elements, on torch's number of threads; how many parts.

    The parts depend on m and the number of threads only, so that sums repeat bit by bit.
    """
    parts = max(1, min(torch.get_num_threads(), m // _WORTH))
    ends = [m * p // parts for p in range(parts + 1)]
    threads = [threading.Thread(target=run, args=(p, ends[p], ends[p + 1])) for p in range(1, parts)]
    for t in threads:
        t.start()
    run(0, ends[0], ends[1])
    for t in threads:
        t.join()
    return parts


def number_of_parts(m: int) -> int:
    """How many parts `in_parts` will make."""
    return max(1, min(torch.get_num_threads(), m // _WORTH))
