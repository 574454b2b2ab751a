"""What a factorisation answers besides solves: the determinant, and entries of the inverse.

Some engines' factorisations do nothing but solve. Then another engine factors the matrix once more,
once, and is kept beside the first. With T_ij = (A^-1)_ji at A's nonzeros, whose sum of products with
dA is the derivative of log det A, everything here is one family:

    chain(M_1, ..., M_m)_ij = (A^-1 M_1 A^-1 ... M_m A^-1)_ji    at A's nonzeros (i, j)

T is the chain of none. For up to one M it comes from the triangular factors, in the time of a few
factorisations (`inverse.py`); for any number, from n solves, 64 at a time (`blocks.py`).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..engines import REGISTRY, Declined, Numeric, compiled
from ..errors import InaccurateSolveError, SingularMatrixError
from ..matrix.threads import dot
from . import blocks
from .attempt import Attempt
from .choose import Choice, choices, explicit_first, is_for_definite, is_opaque
from .conditioning import random_vector
from .equations import Equations
from .factored import Factored

__all__ = ["Singular", "ask", "chain", "factored_or_singular", "slogdet"]

log = logging.getLogger("sparse_solver")
Answer = TypeVar("Answer")

SMALL = 64  # unknowns up to which one block solve answers, without compiled loops
_ROW = 1e4  # units of eps by which products of A and entries of its inverse may miss one


@dataclass(frozen=True)
class Singular:
    """A matrix found singular: its determinant is known all the same."""

    error: SingularMatrixError


def factored_or_singular(make: Callable[[], Factored]) -> Factored | Singular:
    """The factored matrix, or word that it is singular."""
    try:
        return make()
    except SingularMatrixError as error:
        return Singular(error.with_traceback(None))


def regular(f: Factored | Singular) -> Factored:
    """f, if it is no singular matrix; else its error is raised."""
    if isinstance(f, Singular):
        raise copy.copy(f.error)  # whoever catches it may write on it
    return f


# ---- who answers ----


def ask(f: Factored, question: Callable[[Numeric], Answer], kind: str | None = None) -> Answer:
    """The first answer to `question`: by f's factorisation, by those made for earlier questions, or by
    one made now, which is kept. A factorisation is asked only if it solves accurately, unless
    ``check=False``.

    Raises
    ------
    Declined
        If nobody can answer.
    """
    for attempt in _attempts(f, kind or f.kind):
        try:
            if f.planner.method.check and not _is_sound(f, attempt):
                raise Declined(f"{attempt.choice.engine} {attempt.choice.path}: inaccurate")
            answer = question(attempt.numeric)
        except Declined as reason:
            log.info("%s", reason)
            continue
        helpers = f.notes.setdefault("helpers", [])
        if attempt is not f.attempt and attempt not in helpers:
            helpers.append(attempt)
        return answer
    raise Declined("no engine here can answer")


def _attempts(f: Factored, kind: str) -> Iterator[Attempt]:
    known = list(f.notes.get("helpers", ()))
    assert f.attempt is not None
    if not is_opaque(f.attempt.choice):
        known.insert(0, f.attempt)
    yield from known
    done = {a.choice.path for a in known if a.fresh or not _looks(a.choice)}
    for choice in _candidates(f, kind):
        if choice.path not in done:
            try:
                yield f.planner.attempt(choice, f.equations.values, fresh=_looks(choice))
            except Declined as reason:
                log.info("%s", reason)


def _looks(choice: Choice) -> bool:
    return REGISTRY[choice.engine].looks_at_values


def _candidates(f: Factored, kind: str) -> list[Choice]:
    """Whatever engine was asked for: it solves, and the others answer what it can't."""
    eq, planner = f.equations, f.planner
    n, dtype = eq.n, eq.values.dtype.name
    if kind == "general" and planner.assume == "auto":  # perhaps not looked at so far
        kind = planner.kind(eq.values, True)
    order = explicit_first(choices(n, eq.pattern.nnz, kind, dtype), n, kind, dtype, compiled(dtype))
    found = [c for c in order if not is_opaque(c)]
    if is_for_definite(found[0].engine) and not planner.definite.is_possible(kind, eq.sizes.lowest):
        del found[0]
    if REGISTRY["rslab"].why_not() is None and all(c.path != "klu" for c in found):
        found.append(Choice("rslab", "klu", "hands out its factors"))
    return found


def _is_sound(f: Factored, attempt: Attempt) -> bool:
    """Whether one solve for a random vector is accurate as it is, without refinement; not asked of
    definite matrices, for elimination without pivoting is stable then.
    """
    eq, numeric = f.equations, attempt.numeric
    known = f.notes.setdefault("sound", [])
    if attempt in known or numeric.inertia == (eq.n, 0, 0):
        return True
    b = random_vector(eq.n).astype(eq.values.dtype)
    with np.errstate(all="ignore"):
        x = numeric.solve(b)
        sound = eq.judge(x, b, False)[1]
    if sound:
        known.append(attempt)
    return sound


# ---- the determinant ----


def slogdet(f: Factored | Singular) -> tuple[complex, float]:
    """(sign, log|det A|); (0, -inf) for a singular matrix."""
    if isinstance(f, Singular):
        return 0.0, -np.inf
    if not f.equations.n:
        return 1.0, 0.0
    found = f.notes.get("slogdet")
    if found is None:
        try:
            found = ask(f, lambda numeric: numeric.slogdet())
        except Declined as reason:
            found = _agreed(f, reason)
        f.notes["slogdet"] = found
    return found


def _agreed(f: Factored, reason: Declined) -> tuple[complex, float]:
    """What two factorisations with pivots of their own agree on: for matrices so badly scaled that a
    solve needs refinement, a determinant still need not.
    """
    answers: list[tuple[complex, float]] = []
    digits = f.equations.eps**0.5
    for attempt in _attempts(f, f.kind):
        try:
            sign, logabs = attempt.numeric.slogdet()
        except Declined as declined:
            log.info("%s", declined)
            continue
        for other in answers:
            apart = abs(logabs - other[1]) / max(1.0, abs(logabs))
            if apart <= digits and abs(sign - other[0]) <= digits:
                return other
        answers.append((sign, logabs))
    raise InaccurateSolveError(
        f"log det A (n = {f.equations.n}, {f.equations.values.dtype}): {reason} accurately"
    )


# ---- entries of the inverse ----


def chain(f: Factored | Singular, Ms: Sequence[np.ndarray] = ()) -> np.ndarray:
    """(A^-1 M_1 A^-1 ... M_m A^-1)_ji at the nonzeros (i, j), shape (nnz,); each M (nnz,)."""
    f = regular(f)
    eq = f.equations
    if len(Ms) == 0 and "inverse" in f.notes:
        return f.notes["inverse"]
    if eq.n <= SMALL or len(Ms) > 1:
        found = blocks.chain(f, Ms)
    else:
        try:
            found = ask(f, lambda numeric: _from_factors(f, numeric, Ms))
        except Declined:
            found = blocks.chain(f, Ms)
    found = found.astype(eq.values.dtype, copy=False)
    if len(Ms) == 0:
        f.notes["inverse"] = found
    return found


def _from_factors(f: Factored, numeric: Numeric, Ms: Sequence[np.ndarray]) -> np.ndarray:
    from . import inverse  # compiled loops: not before they are needed

    eq, pattern = f.equations, f.equations.pattern
    check = f.planner.method.check
    if not len(Ms):
        try:
            if not pattern.is_symmetric:
                raise Declined("entries of the inverse are wanted where A has none")
            T = numeric.selected_inverse()
            if eq.values.dtype.kind == "c" or f.kind not in ("symmetric", "spd"):
                T = T[pattern.transposed_order]
            if check:
                _check_trace(eq, T)
        except Declined:
            T = inverse.entries(numeric.factors(), pattern)
            if check:
                _check_rows(eq, T)
        return T
    T, dT = inverse.tangent(numeric.factors(), pattern, Ms[0])
    if check:
        _check_rows(eq, T)
    return -dT


def _check_trace(eq: Equations, T: np.ndarray) -> None:
    """tr(A A^-1) = n: all that is asked of an engine's own selected inverse."""
    trace = dot(eq.values, T)
    error = abs(trace - eq.n)
    if error <= _ROW * eq.eps * abs(trace):  # which is no more than the sum of sizes
        return
    if not error <= _ROW * eq.eps * dot(np.abs(eq.values), np.abs(T)).real:
        raise Declined("entries of the inverse are inaccurate")


def _check_rows(eq: Equations, T: np.ndarray) -> None:
    """sum_j A_ij (A^-1)_ji = 1 for every row i, and sum_i (A^-1)_ji A_ij = 1 for every column j."""
    terms = eq.values.astype(T.dtype, copy=False) * T
    sizes, ones = np.abs(terms), np.ones(eq.n)
    for transposed in (False, True):
        error = np.abs(eq._sums(ones.astype(T.dtype), transposed, terms) - 1)
        if not (error <= _ROW * eq.eps * eq._sums(ones, transposed, sizes)).all():
            raise Declined("entries of the inverse are inaccurate")
