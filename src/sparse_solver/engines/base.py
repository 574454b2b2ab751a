"""The engine contract: what an adapter around a numeric library must offer, and nothing more.

An engine works on numbers in a pattern's canonical order: NumPy arrays, or torch tensors where it works
on another device (`Engine.tensors`). It knows nothing of autograd, of
caches or of accuracy: it analyses, it factors, it solves, or it says that it can't (`Declined`).
"""

from __future__ import annotations

import importlib.util
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from ..matrix import Pattern
from .triangles import Triangles

__all__ = ["Declined", "Engine", "Numeric", "OutOfMemory", "Symbolic", "is_installed"]


@lru_cache
def is_installed(module: str) -> bool:
    """Whether a module is there to be imported, looked for on disk once: while it is not settled who
    factors, engines are asked before every factorisation.
    """
    return importlib.util.find_spec(module) is not None


class Declined(Exception):
    """The engine could not factor these values; its own words are the message.

    `index` is the unknown at which it gave up, in the user's numbering, where it can tell.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class OutOfMemory(Declined):
    """There was no room for it; there may be once others have let go."""


@dataclass(frozen=True, eq=False)
class Symbolic:
    """What an engine learnt from a structure (and, for some, from the first values on it).

    Attributes
    ----------
    pattern : Pattern
    path : str
        The engine's algorithm, one of `Engine.paths`.
    handle : object
        The library's own object; None where it has none.
    take : int64 array or None
        Which of the pattern's nonzeros the library wants, in its order; None for all, as they are.
    nnz_factor, flops : predicted size and work of a factorisation, where known
    seconds : wall-clock time of the analysis
    provisional : whether it tells the work, but `Engine.improved` is to be asked before it factors
    process : the process that made it; handles may not survive a fork
    """

    pattern: Pattern
    path: str
    handle: Any
    take: np.ndarray | None
    nnz_factor: int | None
    flops: float | None
    seconds: float
    provisional: bool = False
    process: int = field(default_factory=os.getpid)


class Numeric(ABC):
    """One factorisation. Never changes while anybody holds it."""

    dtype: np.dtype
    seconds: float
    nnz_factor: int | None = None
    memory: int | None = None
    inertia: tuple[int, int, int] | None = None
    columns: str | None = None  # where blocks of right-hand sides are not solved as one, how
    recyclable: bool = False  # whether new values can be factored in this one's storage

    @abstractmethod
    def solve(self, b: np.ndarray, transposed: bool = False) -> np.ndarray:
        """Solve A x = b, or A^T x = b, for contiguous b of shape (n,) or (n, k), this dtype."""

    def slogdet(self) -> tuple[complex, float]:
        """(sign, log|det A|), the sign of absolute value one; `Declined` where not offered."""
        raise Declined(f"{type(self).__name__} gives no determinant")

    def selected_inverse(self) -> np.ndarray:
        """(A^-1)_ij at the pattern's nonzeros (i, j), shape (nnz,); `Declined` where not offered."""
        raise Declined(f"{type(self).__name__} gives no selected inverse")

    def half_solve(self, b: np.ndarray, adjoint: bool = False) -> np.ndarray:
        """W b, or W^H b if `adjoint`, where A^-1 = W^H W (W = L^-1 P for A = P^T L L^H P); b of shape
        (n,) or (n, k). `Declined` where not offered: only definite matrices have it.
        """
        raise Declined(f"{type(self).__name__} gives no half solves")

    def factors(self) -> Triangles:
        """L and U themselves, as `half_solve` uses them where that is offered; `Declined` where the
        library keeps them to itself.
        """
        raise Declined(f"{type(self).__name__} does not hand out its factors")


class Engine(ABC):
    """An adapter around one numeric library.

    Attributes
    ----------
    name : str
    paths : dict of str to str
        Its algorithms and what each is for.
    dtypes : tuple of str
        NumPy names of the element types it factors.
    devices : tuple of str
    kinds : tuple of str
        What it factors: "general", "symmetric", "hermitian", "spd". Real symmetric matrices count as
        hermitian. An engine for definite matrices names "hermitian" too, and declines the others.
    looks_at_values : bool
        Whether another analysis, on other values, may make a difference.
    opaque : set of str
        The paths whose factorisations can do nothing but solve.
    tensors : bool
        Whether it takes torch tensors of a device in `devices` that is not the CPU, where they lie:
        values (items, nnz), right-hand sides (items, n, k), several items factored side by side where
        it can. Its numerics then have a method `failed`, which waits for the device.
    chosen : bool
        Whether ``engine="auto"`` may choose it for tensors on the CPU.
    """

    name: ClassVar[str]
    paths: ClassVar[dict[str, str]]
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float64", "complex64", "complex128")
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    kinds: ClassVar[tuple[str, ...]] = ("general", "symmetric", "hermitian", "spd")
    looks_at_values: ClassVar[bool] = True
    opaque: ClassVar[frozenset[str]] = frozenset()
    tensors: ClassVar[bool] = False
    chosen: ClassVar[bool] = True

    def why_not(self) -> str | None:
        """None if the library can be used here, else the reason why not."""
        return None

    @abstractmethod
    def analyze(self, pattern: Pattern, path: str, values: Any, threads: int) -> Symbolic:
        """Order and plan. `values` (nnz,), an array (or see `tensors`), may be looked at by libraries
        that match by size. May be `provisional`: what else takes time is left until it is to factor.
        """

    def improved(self, symbolic: Symbolic, values: Any, threads: int) -> Symbolic:
        """The analysis to factor with, in place of a provisional one; `Declined` if there is none."""
        return symbolic

    @abstractmethod
    def factorize(
        self, symbolic: Symbolic, values: Any, threads: int, recycle: Numeric | None = None
    ) -> Numeric:
        """Factor `values` (nnz,).

        `recycle` is a factorisation on the same `symbolic` that nobody else holds: its storage may
        be overwritten. Raises `Declined` if the library gives up.
        """
