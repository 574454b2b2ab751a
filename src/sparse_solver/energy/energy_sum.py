"""Sums of energies over different kinds of elements, on the union of their patterns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..matrix import SparseMatrix
from .element_sum import ElementSum, check_project

__all__ = ["EnergySum"]


class EnergySum:
    """The sum of several `ElementSum`, made by ``E1 + E2``.

    Called as its terms are, but with a tuple of parameters for each term, and nodal quantities as a
    tuple of tuples: ``E(x, (a, b), (c,), nodal=((t,), ()))``.
    """

    def __init__(self, terms: tuple[ElementSum, ...]) -> None:
        self.terms = terms

    @classmethod
    def of(cls, first: Any, second: Any) -> Any:
        """The sum of two energies, or NotImplemented."""
        terms: list[ElementSum] = []
        for part in (first, second):
            if isinstance(part, EnergySum):
                terms += part.terms
            elif isinstance(part, ElementSum):
                terms.append(part)
            else:
                return NotImplemented
        return cls(tuple(terms))

    def __call__(self, x: Tensor, *params: tuple, nodal: tuple = ()) -> Tensor:
        """The energy: x of shape (n, d) or (n,), and for each term the tuple of its parameters."""
        terms = [E(x, *p, nodal=t) for E, p, t in self._each(params, nodal)]
        return torch.stack(terms).sum()

    def gradient(self, x: Tensor, *params: tuple, nodal: tuple = ()) -> Tensor:
        """The derivative of the energy in x, of x's shape."""
        terms = [E.gradient(x, *p, nodal=t) for E, p, t in self._each(params, nodal)]
        return sum(terms[1:], terms[0])

    def hessian(
        self, x: Tensor, *params: tuple, nodal: tuple = (), project: str = "none"
    ) -> SparseMatrix:
        """The second derivative in x, on the union of the patterns; see `ElementSum.hessian`."""
        check_project(project)
        each = self._each(params, nodal)
        total, *others = (E.hessian(x, *p, nodal=t, project=project) for E, p, t in each)
        for other in others:
            total = total + other
        return total

    def _sizes(self, x: Tensor, *params: tuple, nodal: tuple = ()) -> tuple[Tensor, Tensor]:
        terms = [E._sizes(x, *p, nodal=t) for E, p, t in self._each(params, nodal)]
        return sum(e for e, _ in terms), sum(s for _, s in terms)  # type: ignore[return-value]

    def _forces(self, x: Tensor, *params: tuple, nodal: tuple = ()) -> tuple[Tensor, Tensor]:
        terms = [E._forces(x, *p, nodal=t) for E, p, t in self._each(params, nodal)]
        return sum(g for g, _ in terms), sum(s for _, s in terms)  # type: ignore[return-value]

    def _each(self, params: tuple, nodal: tuple) -> list[tuple[ElementSum, tuple, tuple]]:
        count = len(self.terms)
        if len(params) != count or not all(isinstance(p, (tuple, list)) for p in params):
            kinds = ", ".join(type(p).__name__ for p in params)
            raise TypeError(
                f"this energy has {count} terms and got the parameters ({kinds}); expected a tuple for "
                "each term: E(x, " + ", ".join(["(...)"] * count) + "), () for one without parameters"
            )
        nodal = nodal or ((),) * count
        if len(nodal) != count or not all(isinstance(t, (tuple, list)) for t in nodal):
            raise TypeError(
                f"this energy has {count} terms; expected nodal to be a tuple of {count} tuples"
            )
        return list(zip(self.terms, params, nodal, strict=True))

    def __add__(self, other: Any) -> Any:
        return EnergySum.of(self, other)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms))
