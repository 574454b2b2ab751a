"""Which engine and path factor a matrix: a pure function that gives its reasons."""

from __future__ import annotations

from dataclasses import dataclass

from ..engines import REGISTRY

__all__ = ["Choice", "choices", "is_small"]

_SMALL = 600  # unknowns up to which KLU's low overhead wins whatever the structure
_FILL_WORK = 30.0  # predicted flops per factor entry below which fronts are too small for BLAS


@dataclass(frozen=True)
class Choice:
    """An engine, one of its paths, and why."""

    engine: str
    path: str
    reason: str


def is_small(n: int) -> bool:
    """Whether overhead counts more than arithmetic, so that structure does not matter."""
    return n <= _SMALL


def choices(
    n: int, kind: str, dtype: str, engine: str = "auto", work: float | None = None
) -> tuple[Choice, ...]:
    """Candidates in the order to try them; all but the first are for when it fails.

    Parameters
    ----------
    n : int
        Unknowns.
    kind : {"general", "symmetric", "hermitian", "spd"}
    dtype : str
        NumPy name of the element type.
    engine : str
        "auto", or the one engine allowed.
    work : float, optional
        Flops per factor entry that the supernodal analysis predicts, once it is known.
    """
    complex_ = dtype.startswith("complex")
    found: list[Choice] = []
    usable = [
        name
        for name, e in REGISTRY.items()
        if engine in ("auto", name) and e.why_not() is None and dtype in e.dtypes
    ]
    if "rslab" in usable:
        found += _rslab(n, kind, complex_, work)
    if "superlu" in usable:
        why = "engine='superlu' was asked for" if engine == "superlu" else "the engine always there"
        if kind == "spd":
            found.append(Choice("superlu", "diagonal", f"{why}; definite, so diagonal pivots"))
        found.append(Choice("superlu", "lu", why))
    return tuple(found)


def _rslab(n: int, kind: str, complex_: bool, work: float | None) -> list[Choice]:
    # LDL^T means A = A^T: for Hermitian complex matrices it would be wrong, not just slow.
    symmetric = kind == "symmetric" or (kind == "spd" and not complex_)
    klu = Choice("rslab", "klu", "little fill: KLU refactors in place on kept pivots")
    lu = Choice("rslab", "lu", f"{kind} matrix with sizeable fronts: supernodal LU")
    ldlt = Choice("rslab", "ldlt", f"{kind} matrix: supernodal LDL^T does half the work of LU")
    if kind == "spd" and not complex_:
        # Only LDL^T tells the signs of the eigenvalues, which "spd" promises to verify.
        return [Choice("rslab", "ldlt", "definite by assumption: LDL^T verifies it by inertia"), lu]
    supernodal = [ldlt, lu] if symmetric else [lu]
    if is_small(n):
        small = Choice("rslab", "klu", f"{n} unknowns: KLU has the least overhead")
        return [small, *supernodal]
    if work is not None and work < _FILL_WORK:
        return [klu, *supernodal]
    return [*supernodal, klu]
