"""`Step`: the path of a repeated small solve, with all its checks, in one compiled call.

The factor of such a step is a tensor and nothing else: values, L and D in one row of numbers. Saved
for backward as any other tensor, it lives as long as the graph needs it. Whatever is not the usual case
is refused here and left to the general path, which knows what to say.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engines import REGISTRY
from ..engines.simplicial import KEPT, Kernel, functions
from .attempt import Attempt
from .conditioning import MARGIN, probe_limit, random_vector
from .equations import COMPONENTWISE, NORMWISE
from .factored import Factored
from .symmetry import ROUNDINGS

__all__ = ["Step", "step_of"]


class Step:
    """Compiled steps on one pattern, for one element type.

    Parameters
    ----------
    factored : Factored
        By the simplicial engine.
    """

    def __init__(self, factored: Factored) -> None:
        attempt, eq = factored.attempt, factored.equations
        assert attempt is not None
        self.planner, self.kind = factored.planner, factored.kind
        self.assume, self.key = self.planner.assume, self.planner.method.key
        self.choice, self.symbolic = attempt.choice, attempt.symbolic
        self.kernel: Kernel = attempt.symbolic.handle
        self.n, self.nnz, dtype = eq.n, len(eq.values), eq.values.dtype
        with torch.inference_mode(False):
            empty = torch.from_numpy(np.empty(0, dtype))
        self.dtype, self._new = empty.dtype, empty.new_empty
        limits = ROUNDINGS * eq.eps, MARGIN * eq.eps, probe_limit(eq.eps, eq.n)
        self._limits = np.array([*limits, NORMWISE * eq.eps, COMPONENTWISE * eq.eps])
        self._random = random_vector(eq.n).astype(dtype)
        own = self._limits.ctypes.data, self._random.ctypes.data
        self._places = np.append(self.kernel.places, np.array(own, np.int64))
        self._table, self._size = self._places.ctypes.data, self.kernel.size
        calls = functions(dtype.name)
        self._forward, self._backward = calls.forward, calls.backward

    def forward(self, values: Tensor, b: Tensor, kept: Tensor | None) -> tuple[int, Tensor, Tensor]:
        """(verdict, factor, x) for contiguous values (nnz,) and b (n,): a sum of KEPT, if the factor is
        `kept`, and SOLVED, if x is accurate; or REFUSED.
        """
        new, x = self._new(self._size), self._new(self.n)
        verdict = self._forward(
            self._table, values.data_ptr(), 0 if kept is None else kept.data_ptr(), new.data_ptr(),
            b.data_ptr(), x.data_ptr(),
        )  # fmt: skip
        return verdict, kept if verdict > 0 and verdict & KEPT else new, x  # type: ignore[return-value]

    def backward(self, store: Tensor, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """(A_bar (nnz,), b_bar (n,)) for the gradient g of x, or None if they may not be accurate."""
        lam, out = self._new(self.n), self._new(self.nnz)
        accurate = self._backward(
            self._table, store.data_ptr(), g.data_ptr(), x.data_ptr(), lam.data_ptr(), out.data_ptr(),
        )  # fmt: skip
        return (out, lam) if accurate else None

    def factored(self, store: Tensor) -> Factored:
        """The factor in the form that the general path knows."""
        numeric = REGISTRY["simplicial"].view(self.symbolic, store.numpy())  # type: ignore[attr-defined]
        attempt = Attempt(self.choice, self.symbolic, numeric, True)
        return Factored.known(self.planner, numeric.values, self.kind, attempt)

    def store_of(self, factored: Factored) -> Tensor:
        """The other way round."""
        with torch.inference_mode(False):
            return torch.from_numpy(factored.attempt.numeric.store)  # type: ignore[union-attr]


def step_of(factored: Factored, known: Any) -> Step | None:
    """Steps like this one compiled, or None where they are not to be; `known` if it serves them."""
    attempt, planner = factored.attempt, factored.planner
    if attempt is None or attempt.choice.engine != "simplicial" or not planner.method.check:
        return None
    if isinstance(known, Step) and known.symbolic is attempt.symbolic and known.kind == factored.kind:
        return known
    return Step(factored)
