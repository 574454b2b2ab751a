"""Facts about a factorisation, for people to read and for programs to choose by."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Info"]


@dataclass(frozen=True)
class Info:
    """What was done, by whom, why, and at what price.

    Attributes
    ----------
    engine, path : str
        The library that factors and its algorithm, e.g. ``"rslab"`` and ``"ldlt"``.
    reason : str
        Why this engine and path were chosen.
    kind : str
        What A was taken to be: "general", "symmetric", "hermitian" or "spd".
    n, nnz : int
        Unknowns, and nonzeros of A.
    nnz_factor : int or None
        Nonzeros of the factors (predicted before a factorisation, counted after one).
    flops : float or None
        Predicted floating-point operations of one factorisation.
    memory : int or None
        Bytes that the factor holds.
    threads : int or None
        Threads the engine was given.
    analyze_seconds, factor_seconds : float or None
        Wall-clock seconds of the two phases.
    inertia : tuple of int or None
        Numbers of positive, negative and zero eigenvalues, where the engine tells.
    iterations : int
        Refinement steps (direct) or iterations (iterative) of the latest solve.
    residual : float or None
        Normwise backward error of the latest solve.
    columns : str or None
        Set where an engine can't solve for a block of right-hand sides at once: what is done instead.
    transfer : str or None
        Set where tensors had to be copied to another device to be served.
    """

    engine: str
    path: str
    reason: str
    kind: str
    n: int
    nnz: int
    nnz_factor: int | None = None
    flops: float | None = None
    memory: int | None = None
    threads: int | None = None
    analyze_seconds: float | None = None
    factor_seconds: float | None = None
    inertia: tuple[int, int, int] | None = None
    iterations: int = 0
    residual: float | None = None
    columns: str | None = None
    transfer: str | None = None

    @property
    def fill(self) -> float | None:
        """Nonzeros of the factors over nonzeros of A."""
        return None if self.nnz_factor is None or not self.nnz else self.nnz_factor / self.nnz

    def __str__(self) -> str:
        rows = [(f.name, getattr(self, f.name)) for f in fields(self)]
        return "\n".join(f"{name:>16}  {value}" for name, value in rows if value is not None)
