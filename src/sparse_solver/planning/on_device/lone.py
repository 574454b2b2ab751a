"""One matrix, factored where its numbers are, that solves accurately or says that it can't.

The device does the work and finds out whether it went well; in all that goes well nothing is read back
but a few numbers per solve, once. Whatever looks wrong - NaN, no symmetry, a breakdown, a singular
matrix, an inaccurate answer - goes to the CPU's planner (`planning/factored.py`), which has the tests,
the words and the user's numbering; if it finds nothing wrong, another path on the device is tried, and
then the CPU answers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...engines import Declined
from ...errors import InaccurateSolveError, NonFiniteError
from ...info import Info
from ..equations import COMPONENTWISE, NORMWISE
from ..factored import Factored
from .equations import TensorEquations, read
from .planner import Attempt, DevicePlanner

__all__ = ["Lone", "Outcome", "Pending", "refined"]

log = logging.getLogger("sparse_solver")

_STEPS = 3  # of refinement; each must halve the error to be worth the next


class Pending:
    """What is asked of new factors, on its way: finite numbers, the symmetry assumed, and surely
    regular or at least not suspicious.
    """

    def __init__(self, planner: DevicePlanner, eq: TensorEquations, kind: str, solve: Callable) -> None:
        # A diagonal that dominates needs no probe. As the last matrix, so this one, presumably.
        self.probed = not planner.dominant
        finite, fits = eq.is_finite(), planner.fits(eq, kind)
        quiet = eq.is_quiet(solve(eq.probe())) if self.probed else torch.zeros_like(finite)
        facts = [finite, torch.ones_like(finite) if fits is None else fits, eq.is_dominant(), quiet]
        self.facts = torch.stack([f.to(torch.float64) for f in facts], 1)


class Outcome:
    """Solutions (items, n, k), which of them are accurate, their errors, and facts read on the way."""

    __slots__ = ("errors", "good", "rest", "steps", "x")

    def __init__(self, x: Tensor, rows: list[list[float]]) -> None:
        self.x, self.steps = x, 0
        self.good = [row[0] == 1 for row in rows]
        self.errors = [row[1] for row in rows]
        self.rest = [row[2:] for row in rows]


def refined(
    eq: TensorEquations,
    solve: Callable[[Tensor, bool], Tensor],
    b: Tensor,
    transposed: bool,
    *pending: Tensor,
) -> Outcome:
    """Solve and refine (Higham, section 12.1). Waits for the device once, and once per refinement."""
    x = solve(b, transposed)
    r, facts = eq.judge(x, b, transposed)
    out = Outcome(x, read(facts, *pending))
    open_ = [not g and math.isfinite(e) for g, e in zip(out.good, out.errors, strict=True)]
    while any(open_) and out.steps < _STEPS:
        y = out.x + solve(r, transposed)
        r, facts = eq.judge(y, b, transposed)
        out.steps += 1
        for i, (good, error) in enumerate(read(facts)):
            better = good == 1 or error <= max(out.errors[i] / 2, NORMWISE * eq.eps)
            open_[i] = open_[i] and better
            if open_[i]:
                out.good[i], out.errors[i] = good == 1, error
        took = torch.tensor(open_, device=y.device).reshape(-1, 1, 1)
        out.x = torch.where(took, y, out.x)
        open_ = [o and not g for o, g in zip(open_, out.good, strict=True)]
    return out


class Lone:
    """See the top of this file.

    Parameters
    ----------
    planner : DevicePlanner
    values : Tensor, shape (1, nnz)
        A snapshot that nobody else writes to.
    spare : Attempt, optional
        An old factorisation that nobody else holds, used up.
    now : bool
        Wait for the outcome and raise what went wrong; else the first solve does.
    """

    def __init__(
        self, planner: DevicePlanner, values: Tensor, spare: Attempt | None = None, now: bool = True
    ) -> None:
        self.planner = planner
        self.equations = TensorEquations(planner.structure, values)
        self.attempt: Attempt | None = None
        self.host: Factored | None = None  # serves by copies where the device can't
        self.steps = 0
        self.residual: float | None = None
        self._pending: Pending | None = None
        self._begin(spare)
        if now:
            self.settle()

    # ---- the factorisation ----

    def _begin(self, spare: Attempt | None = None) -> None:
        planner, eq = self.planner, self.equations
        self.kind = planner.kind(eq)
        paths = planner.paths(self.kind)
        if not paths:  # has words for engines of definite matrices alone
            self._serve(self._ask_host())
            return
        try:
            self.attempt = planner.attempt(paths[0], eq.values, spare)
            if planner.method.check:
                solve = self.attempt.numeric.solve
                self._pending = Pending(planner, eq, self.kind, solve)
        except Declined as reason:
            self._broken(reason)

    def settle(self) -> None:
        """Wait for the outcome of the factorisation; raise if it is none."""
        if self._pending is not None:
            ((*row,),) = read(self._pending.facts)
            self._weigh(row)

    def _weigh(self, row: list[float]) -> None:
        pending, self._pending = self._pending, None
        assert pending is not None and self.attempt is not None
        planner, eq = self.planner, self.equations
        finite, fits, dominant, quiet = (fact == 1 for fact in row)
        planner.dominant = dominant
        if finite and not fits and planner.assume == "auto":
            planner.forget_kind()
            self._begin()
            self.settle()
            return
        if finite and fits:
            if not dominant and not pending.probed:
                answer = self.attempt.numeric.solve(eq.probe())
                quiet = read(eq.is_quiet(answer).reshape(1, 1)) == [[1]]
            if not self.attempt.numeric.failed():
                if not dominant and not quiet:
                    self._ask_host()  # which raises if the suspicion is right
                return
        self._broken(Declined(f"{planner.engine.name}: the factorisation broke down"))

    def _broken(self, reason: Declined) -> None:
        """No factorisation: because there is none, or because this path has none."""
        log.info("%s", reason)
        host = self._ask_host()
        for attempt in self._others():
            self.attempt = attempt
            return
        self._serve(host, reason)

    def _others(self) -> Iterator[Attempt]:
        """What else can be done on the device: analyse these values, then the next paths."""
        planner, tried = self.planner, self.attempt
        again = [tried.path] if tried is not None and not tried.fresh else []
        done = None if tried is None else tried.path
        for path in [*again, *(p for p in planner.paths(self.kind) if p != done)]:
            try:
                attempt = planner.attempt(path, self.equations.values, fresh=True)
            except Declined as reason:
                log.info("%s", reason)
                continue
            if not attempt.numeric.failed():
                yield attempt

    # ---- the CPU ----

    def _numbers(self) -> Any:
        return self.equations.values[0].cpu().numpy().copy()

    def _ask_host(self) -> Factored:
        """These values factored on the CPU: raises all that is wrong with them, in words."""
        return Factored(self.planner.host, self._numbers())

    def _serve(self, host: Factored, reason: Exception | None = None) -> None:
        """Let the CPU answer, unless this engine alone was wanted."""
        if reason is not None and self.planner.method.engine != "auto":
            raise InaccurateSolveError(
                f"engine={self.planner.engine.name!r} could not factor A (n = "
                f"{self.planner.pattern.shape[0]}, {self.equations.values.dtype}): {reason}; another "
                "one can: method=Direct()"
            )
        self.host, self.attempt = host, None

    def _by_host(self, b: Tensor, transposed: bool) -> Tensor:
        assert self.host is not None
        x = self.host.solve(b[0].cpu().contiguous().numpy(), transposed)
        return torch.from_numpy(x).to(b.device).unsqueeze(0)

    # ---- answers ----

    def solve(self, b: Tensor, transposed: bool = False) -> Tensor:
        """x with A x = b, or A^T x = b, for b (1, n, k).

        Raises
        ------
        NonFiniteError, SingularMatrixError, InaccurateSolveError
            As `Factored.solve`; and what the factorisation was to raise, if nobody asked before.
        """
        if self.attempt is None:
            return self._by_host(b, transposed)
        attempt, pending = self.attempt, self._pending
        try:
            if not self.planner.method.check:
                return attempt.numeric.solve(b, transposed)
            facts = () if pending is None else (pending.facts,)
            out = refined(self.equations, attempt.numeric.solve, b, transposed, *facts)
        except Declined as reason:  # a factor inherited through a fork, for example
            self._broken(reason)
            return self.solve(b, transposed)
        if pending is not None and self._pending is pending:
            self._weigh(out.rest[0])
            if self.attempt is not attempt:
                return self.solve(b, transposed)
        self.steps, self.residual = out.steps, out.errors[0]
        return out.x if out.good[0] else self._better(b, transposed)

    def _better(self, b: Tensor, transposed: bool) -> Tensor:
        """After refinement failed."""
        finite = b.isfinite()
        if not bool(finite.all()):
            bad = torch.nonzero(~finite[0])
            shape = tuple(b.shape[1:]) if b.shape[2] > 1 else (b.shape[1],)
            raise NonFiniteError(
                f"b (shape {shape}) holds {len(bad)} entries that are NaN or infinite, the first at "
                f"{bad[0, : len(shape)].tolist()}"
            )
        first = self.residual
        for attempt in self._others():
            out = refined(self.equations, attempt.numeric.solve, b, transposed)
            self.steps, self.residual = out.steps, out.errors[0]
            if out.good[0]:
                self.attempt = attempt
                return out.x
        host = self._ask_host()
        if self.planner.method.engine == "auto":
            self._serve(host)
            return self._by_host(b, transposed)
        raise InaccurateSolveError(
            f"A x = b (n = {self.planner.pattern.shape[0]}, {b.dtype}) could not be solved to "
            f"{NORMWISE:.0e} eps normwise and {COMPONENTWISE:.0e} eps componentwise with "
            f"engine={self.planner.engine.name!r}: backward error {first:.1e}"
        )

    def info(self) -> Info:
        """Facts, the latest solve's among them."""
        planner = self.planner
        if self.attempt is None:
            assert self.host is not None
            return self.host.info(transfer=f"{planner.device} served by a CPU engine through copies")
        facts = {"iterations": self.steps, "residual": self.residual}
        return planner.info(self.kind, self.attempt, **facts)
