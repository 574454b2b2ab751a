"""`Repeat`: the path of a repeated solve by the own Cholesky, with what happens around the engine in as
few calls as can be.

After the engine the caches hold its numbers, and every function and object that Python touches must be
fetched anew: at 10,000 unknowns that takes longer than the passes over the numbers. So what the general
path finds out step by step is one compiled call before the engine and one after it, and the objects of
the last solve are used again where nobody else holds them. Whatever is not the usual case is left to
the general path.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..engines import REGISTRY, Declined
from .conditioning import MARGIN
from .equations import COMPONENTWISE, NORMWISE, Equations
from .factored import Factored
from .passes import passes_for

if TYPE_CHECKING:
    from .cache import _Slot

__all__ = ["Repeat", "repeat_of"]

_Facts = ctypes.c_double * 4
_references = sys.getrefcount
_has_lock = getattr(sys, "_is_gil_enabled", lambda: True)


class Repeat:
    """Solves on one pattern, for one real element type.

    Parameters
    ----------
    factored : Factored
        By an engine for definite matrices, of a matrix with A = A^T to the last bit.
    """

    def __init__(self, factored: Factored) -> None:
        attempt, eq = factored.attempt, factored.equations
        assert attempt is not None
        self.planner, self.kind, self.symbolic = factored.planner, factored.kind, attempt.symbolic
        self._engine = REGISTRY[attempt.choice.engine]
        pattern = eq.pattern
        assert pattern.unsigned is not None and pattern.mates is not None
        self._held = *pattern.unsigned, pattern.mates
        self._system = eq.n, pattern.nnz, *(a.ctypes.data for a in self._held)
        self.n, self.nnz = eq.n, pattern.nnz
        self._limits = NORMWISE * eq.eps, COMPONENTWISE * eq.eps
        self._dominance = MARGIN * eq.eps
        self._calls = passes_for(eq.values.dtype).calls

    def store_of(self, factored: Factored) -> None:
        """Nothing: factors of these steps are no tensors."""

    def solve(self, slot: _Slot, values: Tensor, b: Tensor) -> tuple[Factored, Tensor] | None:
        """(factor, x) for contiguous values (nnz,) and b (n,), or None where that is not for here."""
        kept, team = slot.factored, self._calls.team(self.nnz)
        if team is None or kept is None or kept.attempt is None:
            return None
        if kept.attempt.symbolic is not self.symbolic:
            return None
        slot.factored, mine = None, object()
        eq, alone = kept.equations, _references(mine)
        snapshot = eq.values
        if (
            _references(kept) > alone
            or _references(eq) > alone + 1
            or _references(snapshot) > alone + 1
            or snapshot.base is not None
            or not _has_lock()
        ):
            slot.factored = kept
            return None
        facts, system = _Facts(), kept.notes.get("system") or self._table(kept)
        # Made before the engine empties the caches of what makes them.
        x = b.new_empty(self.n)
        places = x.data_ptr(), b.data_ptr()
        if not self._calls.prepare(team, system, values.data_ptr(), facts):
            if not self._anew(kept, eq, facts):
                return None
        slot.factored = kept
        try:
            kept.attempt.numeric.solve_at(*places)  # type: ignore[attr-defined]
        except Declined:
            return kept, torch.from_numpy(kept.solve(b.detach().numpy()))
        error = self._calls.judge(team, system, *places, *self._limits)
        if error < 0:
            return kept, torch.from_numpy(kept.solve(b.detach().numpy()))
        kept.steps, kept.residual = 0, error
        return kept, x

    def _table(self, factored: Factored) -> Any:
        """What compiled calls read of a system, kept with it; it may outlive these steps."""
        eq = factored.equations
        arrays = (a.ctypes.data for a in (eq.values, eq.row_sums, eq.diagonal))
        table = (ctypes.c_int64 * 9)(*self._system, *arrays)
        table.held = self._held  # type: ignore[attr-defined]
        factored.notes["system"] = table
        return table

    def _anew(self, kept: Factored, eq: Equations, facts: Any) -> bool:
        """Turn the factor of other values into that of those which are in `eq` now, if it can be."""
        eq.norm, eq.margin, eq.lowest, mirrored = facts
        if not (eq.norm < np.inf and eq.lowest > 0 and mirrored):
            return False
        eq.__dict__.pop("magnitudes", None)
        system = kept.notes["system"]
        kept.notes.clear()
        kept.notes["system"] = system
        attempt, planner = kept.attempt, self.planner
        assert attempt is not None
        recycle, kept.attempt = attempt.numeric, None
        planner._uses += 1
        try:
            attempt.numeric = self._engine.factorize(self.symbolic, eq.values, planner.threads, recycle)
        except Declined:
            return False
        if self.kind == "spd" or not eq.margin > self._dominance * eq.norm:
            attempt = planner.judged(eq, self.kind, attempt)
        kept.attempt = attempt
        return True

    def adjoint(self, factored: Factored, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """(A_bar (nnz,), b_bar (n,)) for the gradient g of x."""
        eq, attempt, team = factored.equations, factored.attempt, self._calls.team(self.nnz)
        assert attempt is not None
        if eq.mirrored and team is not None:
            system = factored.notes.get("system") or self._table(factored)
            y, out = x.new_empty(self.n), x.new_empty(self.nnz)
            places = y.data_ptr(), g.data_ptr()
            try:
                attempt.numeric.solve_at(*places)  # type: ignore[attr-defined]
            except Declined:
                pass
            else:
                others = x.data_ptr(), out.data_ptr()
                error = self._calls.adjoint(team, system, *places, *others, *self._limits)
                if error >= 0:
                    factored.steps, factored.residual = 0, error
                    return out, y
        lam, A_bar = factored.adjoint(g.detach().numpy(), x.detach().numpy(), False)
        return torch.from_numpy(A_bar), torch.from_numpy(lam)


def repeat_of(factored: Factored, known: Any) -> Repeat | None:
    """Solves like this one, or None where the general path is as good; `known` if it serves them."""
    attempt, eq, planner = factored.attempt, factored.equations, factored.planner
    if (
        attempt is None
        or attempt.choice.engine != "multifrontal"
        or not eq.mirrored
        or not planner.method.check
        or not hasattr(passes_for(eq.values.dtype), "calls")
        or eq.pattern.mates is None
    ):
        return None
    if isinstance(known, Repeat) and known.symbolic is attempt.symbolic and known.kind == factored.kind:
        return known
    return Repeat(factored)
