"""`Repeat`: the path of a repeated solve by the own Cholesky, with what happens around the engine in as
few calls as can be.

After the engine the caches hold its numbers, and every function and object that Python touches must be
fetched anew: at 10,000 unknowns that takes longer than the passes over the numbers. So what the general
path finds out step by step is one compiled call before the engine and one after it, the tensors are
there before, and the objects of the last solve are used again where nobody else holds them. Whatever is
not the usual case is left to the general path.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..engines import REGISTRY, Declined
from .conditioning import MARGIN
from .equations import COMPONENTWISE, NORMWISE, Equations
from .factored import Factored
from .passes import passes_for
from .passes.layout import DOMINANT, SAME, UNFIT, Row

if TYPE_CHECKING:
    from .cache import _Slot

__all__ = ["HAS_LOCK", "Repeat", "repeat_of"]

_Limits = ctypes.c_double * 3
_references = sys.getrefcount
HAS_LOCK = getattr(sys, "_is_gil_enabled", lambda: True)()  # once it is, it remains so


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
        assert pattern.unsigned is not None and pattern.pairs is not None
        self._held = *pattern.unsigned, *pattern.pairs
        self.n, self.nnz = eq.n, pattern.nnz
        self._bounds = _Limits(NORMWISE * eq.eps, COMPONENTWISE * eq.eps, MARGIN * eq.eps)
        self._limits = ctypes.addressof(self._bounds)
        self._calls = passes_for(eq.values.dtype).calls

    def store_of(self, factored: Factored) -> None:
        """Nothing: factors of these steps are no tensors."""

    def solve(self, slot: _Slot, values: Tensor, b: Tensor, x: Tensor) -> Factored | None:
        """The factor for contiguous values (nnz,), with A^-1 b (n,) put into x; None where that is not
        for here.
        """
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
            or not HAS_LOCK
        ):
            slot.factored = kept
            return None
        system = kept.notes.get("system") or self._row(kept)
        places = x.data_ptr(), b.data_ptr()
        verdict = self._calls.prepare(team, system.at, values.data_ptr(), self._limits)
        if verdict == UNFIT:
            return None
        if verdict != SAME and not self._anew(kept, eq, system, verdict == DOMINANT):
            return None
        slot.factored = kept
        try:
            kept.attempt.numeric.solve_at(*places)  # type: ignore[attr-defined]
        except Declined:
            error = -1.0
        else:
            error = self._calls.judge(team, system.at, *places, self._limits)
        if error < 0:
            x.detach().numpy()[:] = kept.solve(b.detach().numpy())
        else:
            kept.steps, kept.residual = 0, error
        return kept

    def _row(self, factored: Factored) -> Row:
        """What compiled calls read of a system, kept with it; it may outlive these steps."""
        eq = factored.equations
        system = Row(eq.n, self._held, (eq.values, eq.diagonal))
        factored.notes["system"] = system
        return system

    def _anew(self, kept: Factored, eq: Equations, system: Row, is_dominant: bool) -> bool:
        """Turn the factor of other values into that of those which are in `eq` now, if it can be."""
        eq.sizes = system.found
        for of_others in "magnitudes", "row_sums":
            eq.__dict__.pop(of_others, None)
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
        if self.kind == "spd" or not is_dominant:
            attempt = planner.judged(eq, self.kind, attempt)
        kept.attempt = attempt
        return True

    def adjoint(
        self, factored: Factored, g: Tensor, x: Tensor, table: Any = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(A_bar (nnz,), b_bar (n,), A_bar at the places of a `Slots.table` (m,)) for the gradient g of
        x; the last is None without a table, and where it takes another pass.
        """
        eq, attempt, team = factored.equations, factored.attempt, self._calls.team(self.nnz)
        assert attempt is not None
        if eq.mirrored and team is not None:
            system = factored.notes.get("system") or self._row(factored)
            y, out = x.new_empty(self.n), x.new_empty(self.nnz)
            triplets = None if table is None else x.new_empty(table[1])
            places = y.data_ptr(), g.data_ptr()
            others = x.data_ptr(), out.data_ptr()
            slots = (0, 0) if triplets is None else (table.at, triplets.data_ptr())
            try:
                attempt.numeric.solve_at(*places)  # type: ignore[attr-defined]
            except Declined:
                pass
            else:
                error = self._calls.adjoint(team, system.at, *places, *others, *slots, self._limits)
                if error >= 0:
                    factored.steps, factored.residual = 0, error
                    return out, y, triplets
        lam, A_bar = factored.adjoint(g.detach().numpy(), x.detach().numpy(), False)
        return torch.from_numpy(A_bar), torch.from_numpy(lam), None


def repeat_of(factored: Factored, known: Any) -> Repeat | None:
    """Solves like this one, or None where the general path is as good; `known` if it serves them."""
    attempt, eq, planner = factored.attempt, factored.equations, factored.planner
    if (
        attempt is None
        or attempt.choice.engine != "multifrontal"
        or not eq.mirrored
        or not planner.method.check
        or not hasattr(passes_for(eq.values.dtype), "calls")
        or eq.pattern.pairs is None
    ):
        return None
    if isinstance(known, Repeat) and known.symbolic is attempt.symbolic and known.kind == factored.kind:
        return known
    return Repeat(factored)
