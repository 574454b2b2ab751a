"""Which engine and path factor a matrix: a pure function that gives its reasons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engines import REGISTRY, Engine
from ..matrix import Pattern

__all__ = ["Choice", "Future", "Work", "choices", "explicit_first", "is_for_definite", "is_for_klu"]
__all__ += ["is_small", "may_be_simplicial", "refusal", "simplicial_uses"]

_SMALL = 60  # unknowns up to which KLU's low overhead wins whatever the structure
_MODEST = 5000  # up to here KLU's analysis, the cheapest, is asked first
_SPARSE = 3.5  # nonzeros per row up to which (chains, circuits) it is asked first at any size
_PER_ENTRY = {True: 40.0, False: 60.0}  # KLU's flops per factor entry below which it wins,
_PER_UNKNOWN = {True: 1000.0, False: 1900.0}  # and supernodal flops per unknown; symmetric or not


@dataclass(frozen=True)
class Choice:
    """An engine, one of its paths, and why."""

    engine: str
    path: str
    reason: str


@dataclass(frozen=True)
class Work:
    """What the first analysis predicts."""

    path: str
    flops: float
    nnz_factor: int


# The own Cholesky: flops per unknown up to which a pattern must come back so many times before
# analysing it once more pays, and flops that must be at stake before its code is loaded or compiled.
_RETURNS = ((3e4, 3), (2e5, 2), (float("inf"), 1))
_AT_STAKE = {"loaded": 2e6, "cached": 1.5e9}
_COLD = 6e10  # of work already done: what the other engines take as long for as the compiler does
_WORTH_COMPILING = 20_000  # unknowns from which entries of the inverse by other means take seconds
_PROMISE = 20  # factorisations that an explicit plan stands for


# Small definite matrices, for which a step is one compiled call: unknowns and flops up to which its
# plain loops win; factorisations on a pattern before that is worth planning, loading, compiling.
_SIMPLICIAL, _SIMPLICIAL_FLOPS = 5000, 8e5
_SIMPLICIAL_USES = {"compiled": 50, "loaded": 200, "on disk": 1000, "cold": 20_000}


@dataclass(frozen=True)
class Future:
    """What is known of the factorisations on a pattern.

    Attributes
    ----------
    uses : int
        Factorisations so far.
    promised : bool
        Whether the user made a plan, and so will come back.
    compiled : {"loaded", "cached", "cold"}
        The own kernels, for this element type.
    simplicial : {"compiled", "loaded", "on disk", "cold"}
        The loops for small definite matrices, likewise.
    """

    uses: int = 0
    promised: bool = False
    compiled: str = "cold"
    simplicial: str = "cold"


def may_be_simplicial(n: int, dtype: str, work: Work | None = None) -> bool:
    """Whether the loops for small definite matrices could ever be the choice."""
    if n > _SIMPLICIAL or dtype not in REGISTRY["simplicial"].dtypes:
        return False
    return work is None or work.flops <= _SIMPLICIAL_FLOPS


def simplicial_uses(state: str) -> int:
    """Factorisations on one pattern from which on they are worth it, as far as they are compiled."""
    return _SIMPLICIAL_USES[state]


def is_for_definite(engine: str) -> bool:
    """Whether an engine factors definite matrices alone, and gives up on others."""
    return "general" not in REGISTRY[engine].kinds


def refusal(pattern: Pattern, kind: str, dtype: np.dtype, asked: str) -> Exception:
    """What to raise where no engine, or not the one `asked` for, factors such matrices."""
    if asked in REGISTRY and "cpu" not in REGISTRY[asked].devices:
        reason = REGISTRY[asked].why_not()
        here = "A is on the CPU: move A and b there" if reason is None else f"here: {reason}"
        where = f"engine={asked!r} works on tensors on {' or '.join(REGISTRY[asked].devices)}"
        return ValueError(f"{where}; {here}, or leave the choice to method=Direct()")
    if asked in REGISTRY and REGISTRY[asked].why_not() is None:
        what = f"this one (shape {pattern.shape}, {dtype})"
        if dtype.name not in REGISTRY[asked].dtypes:
            known = " and ".join(REGISTRY[asked].dtypes)
            text = f"engine={asked!r} factors {known}, not {what}"
            return ValueError(f"{text}. Leave the choice to method=Direct()")
        if is_for_definite(asked):
            text = f"engine={asked!r} factors matrices with A = A^H; {what} is {kind}"
            return ValueError(f"{text}. Leave the choice to method=Direct()")
    why = {name: e.why_not() for name, e in REGISTRY.items()}
    return RuntimeError(f"no engine can factor {dtype.name} here (engine={asked!r}): {why}")


def is_small(n: int) -> bool:
    """Whether overhead counts more than arithmetic, so that structure does not matter."""
    return n <= _SMALL


def is_for_klu(work: Work) -> bool:
    """Whether KLU is the choice whatever the values, symmetric or not."""
    return work.path == "klu" and work.flops < _PER_ENTRY[True] * work.nnz_factor


def is_opaque(choice: Choice) -> bool:
    """Whether its factorisations can do nothing but solve."""
    return choice.path in REGISTRY[choice.engine].opaque


def explicit_first(
    order: tuple[Choice, ...], n: int, kind: str, dtype: str, compiled: str
) -> tuple[Choice, ...]:
    """Candidates for more than solves: the own Cholesky where A may be definite, then those whose
    factors can be read, then the others.

    Where KLU comes after opaque ones much fill is expected, and it comes after those with dense
    kernels. The own Cholesky gives entries of the inverse a hundred times faster than loops over
    L and U, so reuse need not speak for it; only compiling it for small matrices does not pay.
    """
    late = [c for k, c in enumerate(order) if c.path == "klu" and any(map(is_opaque, order[:k]))]
    found = sorted(order, key=lambda c: (is_opaque(c), c in late))
    own = REGISTRY["multifrontal"]
    wanted = not is_small(n) and (compiled != "cold" or n >= _WORTH_COMPILING)
    if wanted and own.why_not() is None and _factors(own, kind, dtype):
        if found[0].engine != own.name:
            why = "determinants, entries of the inverse and draws: own Cholesky"
            found = [c for c in found if c.engine != own.name]
            found.insert(0, Choice(own.name, "cholesky", why))
    return tuple(found)


def _factors(engine: Engine, kind: str, dtype: str) -> bool:
    """Whether the engine factors such matrices. Symmetric real ones are Hermitian."""
    symmetry = "hermitian" if kind == "symmetric" and not dtype.startswith("complex") else kind
    return dtype in engine.dtypes and (kind in engine.kinds or symmetry in engine.kinds)


def _serves_host(engine: Engine, asked: str) -> bool:
    """Whether it is to be asked about numbers on the CPU."""
    return "cpu" in engine.devices and (engine.chosen if asked == "auto" else engine.name == asked)


def choices(
    n: int,
    nnz: int,
    kind: str,
    dtype: str,
    engine: str = "auto",
    work: Work | None = None,
    future: Future | None = None,
) -> tuple[Choice, ...]:
    """Candidates in the order to try them; all but the first are for when it fails.

    Parameters
    ----------
    n, nnz : int
        Unknowns and nonzeros.
    kind : {"general", "symmetric", "hermitian", "spd"}
    dtype : str
        NumPy name of the element type.
    engine : str
        "auto", or the one engine allowed.
    work : Work, optional
        What the analysis of the first candidate predicted, once it is known.
    future : Future, optional
        How often the pattern came and will come; by default a single call.

    Notes
    -----
    Thresholds from timings of about 60 matrices (grids, circuits, chains, dense), new values on one
    pattern: KLU refactors in place on kept pivots, which supernodal codes cannot, but has no
    dense kernels.
    """
    found: list[Choice] = []
    why: str | None
    future = future or Future()
    usable = [
        name
        for name, e in REGISTRY.items()
        if _serves_host(e, engine) and e.why_not() is None and _factors(e, kind, dtype)
    ]
    if engine == "simplicial" in usable:
        found.append(Choice("simplicial", "ldlt", "engine='simplicial' was asked for"))
    elif "simplicial" in usable and _simplicial(n, dtype, work, future):
        why = f"factorisation {future.uses + 1} on this small pattern: a step is one compiled call"
        found.append(Choice("simplicial", "ldlt", why))
    if "multifrontal" in usable:
        why = _cholesky(n, work, future) if engine == "auto" else "engine='multifrontal' was asked for"
        if why:
            found.append(Choice("multifrontal", "cholesky", why))
    if "rslab" in usable:
        found += _rslab(n, nnz, kind, dtype.startswith("complex"), work)
    if "superlu" in usable:
        why = "engine='superlu' was asked for" if engine == "superlu" else "the engine always there"
        if kind == "spd":
            found.append(Choice("superlu", "diagonal", f"{why}; definite, so diagonal pivots"))
        found.append(Choice("superlu", "lu", why))
    if "cholespy" in usable:
        found.append(Choice("cholespy", "cholesky", "engine='cholespy' was asked for"))
    return tuple(found)


def _cholesky(n: int, work: Work | None, future: Future) -> str | None:
    """Why the own Cholesky should factor from now on, or None."""
    if work is None or is_for_klu(work):
        return None
    each = f"{work.flops:.1e} flops each"
    if future.compiled == "cold":
        if future.uses * work.flops < _COLD:
            return None
        return (
            f"{future.uses} factorisations of {each} so far, as long as compiling takes: own Cholesky"
        )
    wanted = next(times for flops, times in _RETURNS if work.flops <= flops * n)
    expected = max(future.uses + 1, _PROMISE if future.promised else 0)
    if expected < wanted or expected * work.flops < _AT_STAKE[future.compiled]:
        return None
    if future.promised:
        return f"a plan promises reuse, {each}: own Cholesky"
    return f"factorisation {future.uses + 1} on this pattern, {each}: own Cholesky"


def _simplicial(n: int, dtype: str, work: Work | None, future: Future) -> bool:
    if work is None or future.promised or not may_be_simplicial(n, dtype, work):
        return False
    return future.uses >= _SIMPLICIAL_USES[future.simplicial]


def _rslab(n: int, nnz: int, kind: str, complex_: bool, work: Work | None) -> list[Choice]:
    # LDL^T means A = A^T: for Hermitian complex matrices it would be wrong, not just slow.
    symmetric = kind == "symmetric" or (kind == "spd" and not complex_)
    lu = Choice("rslab", "lu", f"{kind} matrix with sizeable fronts: supernodal LU")
    ldlt = Choice("rslab", "ldlt", f"{kind} matrix with sizeable fronts: supernodal LDL^T")
    if kind == "spd" and not complex_:
        # Only LDL^T tells the signs of the eigenvalues, which "spd" promises to verify.
        return [Choice("rslab", "ldlt", "definite by assumption: LDL^T verifies it by inertia"), lu]
    supernodal = [ldlt, lu] if symmetric else [lu]
    why = None
    if is_small(n):
        why = f"{n} unknowns: KLU has the least overhead"
    elif work is None:
        if n <= _MODEST or nnz <= _SPARSE * n:
            why = "little fill expected: KLU"
    elif work.path == "klu":
        if work.flops < _PER_ENTRY[symmetric] * work.nnz_factor:
            why = f"{work.flops / work.nnz_factor:.0f} flops per factor entry: KLU refactors in place"
    elif work.flops < _PER_UNKNOWN[symmetric] * n:
        why = f"{work.flops / n:.0f} flops per unknown: KLU refactors in place"
    klu = Choice("rslab", "klu", why or "the most careful pivoting")
    return [klu, *supernodal] if why else [*supernodal, klu]
