"""`Planner`: turns values on one pattern into factorisations, keeping every analysis it made."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..engines import REGISTRY, Declined, Symbolic, compiled, simplicial, warm_up
from ..errors import InaccurateSolveError, SingularMatrixError
from ..info import Info
from ..matrix import Pattern
from ..matrix.plain import name_of
from .attempt import Attempt, Spare
from .choose import (
    Choice,
    Future,
    Work,
    choices,
    explicit_first,
    is_for_definite,
    is_for_klu,
    is_opaque,
    is_small,
    may_be_simplicial,
    refusal,
    simplicial_uses,
)
from .conditioning import is_dominant, is_regular, null_unknown, probe, random_vector
from .definite import Definiteness, lowest
from .equations import Equations
from .method import Direct
from .passes import consider
from .structural import check_structure
from .symmetry import classify

__all__ = ["Planner"]

log = logging.getLogger("sparse_solver")

_OFTEN = 16  # uses up to which the choice is thought over each time, and then once in so many


class Planner:
    """Who factors matrices on this pattern, and with which analysis.

    Parameters
    ----------
    pattern : Pattern
        Square.
    assume : str
    method : Direct
    promised : bool
        Whether matrices on this pattern will come again, as an explicit plan says.
    """

    def __init__(self, pattern: Pattern, assume: str, method: Direct, promised: bool = False) -> None:
        self.pattern, self.assume, self.method, self.promised = pattern, assume, method, promised
        self._symbolics: dict[tuple[str, str], Symbolic] = {}
        self._orders: dict[tuple[str, np.dtype], tuple[Choice, ...]] = {}
        # Where the choice may yet change: whose analysis tells how much work there is.
        self._open: dict[tuple[str, np.dtype], Choice] = {}
        self._uses = 0
        self._random: np.ndarray | None = None
        self.lanes: Any = None  # how batches on this pattern are eliminated, if any came
        self.elsewhere: dict[Any, Any] = {}  # by device and dtype, who plans for tensors there
        self._sound = False
        asked = REGISTRY.get(method.engine)
        demanded = asked is not None and is_for_definite(asked.name)
        self.definite = Definiteness(pattern, demanded)
        self._kind_matters = demanded or not is_small(pattern.shape[0])
        self._look = simplicial_uses("compiled")  # uses from which to ask what kind even so

    @property
    def threads(self) -> int:
        """Threads for the engine."""
        return self.method.threads or torch.get_num_threads()

    # ---- analysis ----

    def order(self, kind: str, values: np.ndarray) -> tuple[Choice, ...]:
        """Candidates for this kind of matrix, decided once per kind and dtype, and again while reuse
        may speak for another engine.
        """
        key = kind, values.dtype
        found, first = self._orders.get(key), self._open.get(key)
        if found is None:
            found = self._orders[key] = self._first_order(kind, values)
            log.debug("%s, %s: %s", self.pattern, kind, found[0])
            if self.promised:
                self._prepare(found, kind, values)
        elif first is not None:
            found = self._reconsidered(key, found, first)
        return found

    def explicit(self, order: tuple[Choice, ...], kind: str, dtype: np.dtype) -> tuple[Choice, ...]:
        """The same, those first that answer more than solves; only the engine asked for, if one was."""
        if self.method.engine not in ("auto", "multifrontal"):
            return tuple(sorted(order, key=is_opaque))
        return explicit_first(
            order, self.pattern.shape[0], kind, name_of(dtype), compiled(name_of(dtype))
        )

    def _choices(self, kind: str, dtype: np.dtype, work: Work | None = None) -> tuple[Choice, ...]:
        shape = self.pattern.shape[0], self.pattern.nnz, kind, name_of(dtype), self.method.engine
        future = None
        if work is not None and self.method.engine == "auto":
            states = compiled(name_of(dtype)), simplicial.state(name_of(dtype))
            future = Future(self._uses, self.promised, *states)
        return choices(*shape, work, future)

    def _first_order(self, kind: str, values: np.ndarray) -> tuple[Choice, ...]:
        if not self._sound:
            check_structure(self.pattern)
            self._sound = True
        found = self._choices(kind, values.dtype)
        if not found:
            raise refusal(self.pattern, kind, values.dtype, self.method.engine)
        first = found[0]
        try:
            work = _work(self._analysis(first, values))
        except Declined:
            return found  # the next candidate will be asked when it is its turn
        if work is None:
            return found
        found = self._choices(kind, values.dtype, work)
        self._kind_matters = not (is_for_klu(work) and found[0].path == "klu")
        if self.method.engine == "auto" and not self._is_settled(kind, values.dtype, found[0], work):
            self._open[kind, values.dtype] = first
        return found

    def _is_settled(self, kind: str, dtype: np.dtype, found: Choice, work: Work) -> bool:
        """Whether reuse can speak for no other engine."""
        if found.engine == "simplicial":
            return True
        if not self._kind_matters or found.engine == "multifrontal":
            return kind == "general" or not may_be_simplicial(
                self.pattern.shape[0], name_of(dtype), work
            )
        return False

    def _prepare(self, order: tuple[Choice, ...], kind: str, values: np.ndarray) -> None:
        """Make the analysis that is meant when a plan is asked for, not in the first factorisation."""
        definite = kind == "spd" or lowest(self.pattern, values) > 0
        choice = next((c for c in order if definite or not is_for_definite(c.engine)), order[0])
        try:
            self.symbolic(choice, values)
        except Declined as reason:
            log.info("%s", reason)

    def _reconsidered(
        self, key: tuple[str, np.dtype], found: tuple[Choice, ...], first: Choice
    ) -> tuple[Choice, ...]:
        if self._uses > _OFTEN and self._uses % _OFTEN:
            return found
        work = _work(self._symbolics[first.engine, first.path])
        assert work is not None
        better = self._choices(*key, work)
        if better[0].engine == found[0].engine:
            return found
        log.debug("%s, %s: %s", self.pattern, key[0], better[0])
        if self._is_settled(*key, better[0], work):
            self._open.pop(key, None)
        self._orders[key] = better
        return better

    def symbolic(self, choice: Choice, values: np.ndarray, fresh: bool = False) -> Symbolic:
        """The analysis to factor with by `choice`, kept; made anew on these values if `fresh`."""
        symbolic = self._analysis(choice, values, fresh)
        if symbolic.provisional:
            symbolic = REGISTRY[choice.engine].improved(symbolic, values, self.threads)
            self._symbolics[choice.engine, choice.path] = symbolic
        return symbolic

    def _analysis(self, choice: Choice, values: np.ndarray, fresh: bool = False) -> Symbolic:
        """The same, or one that does no more than tell the work."""
        key = choice.engine, choice.path
        symbolic = self._symbolics.get(key)
        if symbolic is None or fresh:
            engine = REGISTRY[choice.engine]
            if choice.engine == "multifrontal":
                warm_up(name_of(values.dtype))
            symbolic = engine.analyze(self.pattern, choice.path, values, self.threads)
            self._symbolics[key] = symbolic
        return symbolic

    @property
    def analysed(self) -> list[tuple[str, np.dtype]]:
        """Kinds and dtypes for which it was decided who factors."""
        return list(self._orders)

    # ---- numbers ----

    def attempt(
        self, choice: Choice, values: np.ndarray, fresh: bool = False, spare: Spare | None = None
    ) -> Attempt:
        """One factorisation, or `Declined`. `spare` is used up."""
        fresh = fresh or (choice.engine, choice.path) not in self._symbolics
        symbolic = self.symbolic(choice, values, fresh)
        recycle = spare.take(symbolic, values.dtype) if spare is not None else None
        engine = REGISTRY[choice.engine]
        numeric = engine.factorize(symbolic, values, self.threads, recycle)
        return Attempt(choice, symbolic, numeric, fresh or not engine.looks_at_values)

    def others(self, tried: Attempt, eq: Equations, kind: str) -> Iterator[Attempt]:
        """What else can be done when an attempt is not accurate: analyse these values, then the
        next candidates.
        """
        order = self.order(kind, eq.values)
        remaining = [c for c in order if c != tried.choice]
        if REGISTRY[tried.choice.engine].looks_at_values:
            remaining.insert(0, tried.choice)
        for choice in remaining:
            try:
                yield self.attempt(choice, eq.values, fresh=True)
            except Declined as reason:
                log.info("%s", reason)

    def factorize(
        self, eq: Equations, spare: Spare | None = None, explicit: bool = False
    ) -> tuple[str, Attempt]:
        """(kind, attempt) for these values, judged regular and, where assumed so, definite; by an
        engine that answers more than solves, if `explicit` and there is one.

        Raises
        ------
        ValueError
            If the values contradict `assume`.
        SingularMatrixError, NotPositiveDefiniteError, InaccurateSolveError
        """
        consider(self._uses, self.pattern.nnz, eq.values.dtype)
        kind = self.kind(eq.values, explicit, eq.mirrored)
        dominant = is_dominant(eq)
        if not dominant:
            self._check_rows(eq)
        attempt = self._first_that_works(kind, eq, spare, explicit)
        return kind, self.judged(eq, kind, attempt, dominant)

    def judged(
        self, eq: Equations, kind: str, attempt: Attempt, dominant: bool | None = None
    ) -> Attempt:
        """The attempt, or a better one, found definite, if that was assumed, and regular."""
        if kind == "spd":
            self.definite.check(attempt.numeric, eq)
        if self.method.check and not (is_dominant(eq) if dominant is None else dominant):
            return self._check_regular(eq, kind, attempt)
        return attempt

    def kind(self, values: np.ndarray, explicit: bool = False, mirrored: bool | None = None) -> str:
        """What these values make of A; not looked at where nothing depends on it."""
        matters = not is_small(self.pattern.shape[0]) if explicit else self._kind_matters
        if self.assume != "auto" or matters:
            return classify(self.pattern, values, self.assume, mirrored)
        return self._kind_of_small(values) if self._uses >= self._look else "general"

    def _kind_of_small(self, values: np.ndarray) -> str:
        """Looked at once a step in one compiled call would pay, and not again and again in vain."""
        dtype, kind, again = name_of(values.dtype), "general", 2 * self._uses
        if self.method.engine == "auto" and may_be_simplicial(self.pattern.shape[0], dtype):
            wanted = simplicial_uses(simplicial.state(dtype))
            if self._uses >= wanted:
                kind = classify(self.pattern, values, "auto")
            else:
                again = min(again, wanted)
        if kind == "general":
            self._look = again
        return kind

    def _check_rows(self, eq: Equations) -> None:
        if eq.sizes.least == 0:
            check_structure(self.pattern)  # has better words for a row without entries
            row = int(np.flatnonzero(eq.row_sums == 0)[0])
            raise SingularMatrixError(
                f"A (shape {self.pattern.shape}) is singular: row {row} has only zeros", index=row
            )

    def _first_that_works(
        self, kind: str, eq: Equations, spare: Spare | None, explicit: bool = False
    ) -> Attempt:
        reasons = []
        order = self.order(kind, eq.values)
        self._uses += 1
        for choice in self.explicit(order, kind, eq.values.dtype) if explicit else order:
            if is_for_definite(choice.engine) and not self.definite.is_possible(kind, eq.sizes.lowest):
                continue
            # On kept pivots, on the kept analysis, on an analysis of these very values.
            kept = [False] if spare is not None and spare.fits(choice) else []
            known = (choice.engine, choice.path) in self._symbolics
            if not REGISTRY[choice.engine].looks_at_values:
                kept, known = [], False
            for fresh in [*kept, False, True] if known else [False]:
                try:
                    return self.attempt(choice, eq.values, fresh, spare)
                except Declined as reason:
                    log.info("%s", reason)
                    reasons.append(str(reason))
                    if is_for_definite(choice.engine):
                        self.definite.missed(kind, eq, reason)
        index = null_unknown(eq)
        if index is not None:
            raise SingularMatrixError(
                f"A (shape {self.pattern.shape}) is singular; a null vector is largest at unknown "
                f"{index}",
                index=index,
            )
        raise InaccurateSolveError(f"no engine could factor A: {'; '.join(reasons)}")

    def _check_regular(self, eq: Equations, kind: str, attempt: Attempt) -> Attempt:
        if self._random is None:
            self._random = random_vector(eq.n)
        if not probe(eq, attempt.numeric, self._random):
            return attempt
        singular = None
        try:
            if is_regular(eq, attempt.numeric):
                return attempt
        except SingularMatrixError as verdict:
            if attempt.fresh:
                raise
            singular = verdict
        # The suspicion came from a factor that is itself no good, or made as for other values: ask
        # better ones.
        for other in self.others(attempt, eq, kind):
            if is_regular(eq, other.numeric):
                return other
        if singular is not None:  # and nobody contradicts: engines decline where a pivot is zero
            raise singular
        return attempt

    def info(self, kind: str | None = None, attempt: Attempt | None = None, **facts: object) -> Info:
        """Facts on what was planned and, given an attempt, done."""
        n, nnz = self.pattern.shape[0], self.pattern.nnz
        if attempt is None:
            if not self._orders:
                return Info("none", "none", "nothing analysed yet", kind or "unknown", n, nnz)
            (kind_, _), order = next(reversed(self._orders.items()))
            symbolic = self._symbolics.get((order[0].engine, order[0].path))
            choice, kind, numeric = order[0], kind or kind_, None
        else:
            choice, symbolic, numeric = attempt.choice, attempt.symbolic, attempt.numeric
        return Info(
            engine=choice.engine,
            path=choice.path,
            reason=choice.reason,
            kind=kind or "unknown",
            n=n,
            nnz=nnz,
            nnz_factor=getattr(numeric, "nnz_factor", None) or getattr(symbolic, "nnz_factor", None),
            flops=getattr(symbolic, "flops", None),
            memory=getattr(numeric, "memory", None),
            threads=self.threads,
            analyze_seconds=getattr(symbolic, "seconds", None),
            factor_seconds=getattr(numeric, "seconds", None),
            inertia=getattr(numeric, "inertia", None),
            columns=getattr(numeric, "columns", None),
            **facts,  # type: ignore[arg-type]
        )

    def __reduce__(self) -> tuple:
        # Engines' own objects are not picklable: the copy analyses again when first used.
        return Planner, (self.pattern, self.assume, self.method, self.promised)


def _work(symbolic: Symbolic) -> Work | None:
    """What an analysis predicts, if it does."""
    if symbolic.flops is None or not symbolic.nnz_factor:
        return None
    return Work(symbolic.path, symbolic.flops, symbolic.nnz_factor)
