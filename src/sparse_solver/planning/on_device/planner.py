"""Who factors tensors where they are, with which analysis; and the CPU's planner, for advice."""

from __future__ import annotations

import dataclasses
import logging
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...engines import REGISTRY, Engine, Numeric, OutOfMemory, Symbolic
from ...info import Info
from ..cache import planners
from ..method import Direct, decode
from ..planner import Planner
from ..structural import check_structure
from ..symmetry import classify
from .equations import Structure, TensorEquations, read

__all__ = [
    "Attempt",
    "DevicePlanner",
    "Place",
    "engine_for",
    "host_how",
    "is_elsewhere",
    "numpy_dtype",
]

log = logging.getLogger("sparse_solver")

_ANALYSES = 6  # kept of a pattern on a device: of paths and sizes of batches, the latest
_PATHS = {
    "general": ("lu",),
    "symmetric": ("ldlt", "lu"),
    "hermitian": ("ldlh", "lu"),
    "spd": ("cholesky",),
}


def numpy_dtype(dtype: torch.dtype) -> np.dtype:
    """The same element type in NumPy."""
    return torch.empty(0, dtype=dtype, device="cpu").numpy().dtype


def engine_for(device: torch.device, dtype: torch.dtype, assume: str, asked: str) -> Engine | None:
    """The engine that takes tensors of this device where they lie; None if copies go to the CPU.

    Raises
    ------
    ValueError
        If the one asked for works on no CPU, and can't be used here.
    """
    name = numpy_dtype(dtype).name
    for engine in REGISTRY.values():
        if (
            not engine.tensors
            or device.type not in engine.devices
            or asked not in ("auto", engine.name)
        ):
            continue
        if asked == "auto" and "general" not in engine.kinds and assume != "spd":
            continue
        if name in engine.dtypes and engine.why_not() is None:
            return engine
    if is_elsewhere(Direct(asked)):
        reason = REGISTRY[asked].why_not() or f"it factors {', '.join(REGISTRY[asked].dtypes)}"
        raise ValueError(
            f"engine={asked!r} can't serve {name} on {device}: {reason}. Leave the choice to "
            "method=Direct()"
        )
    return None


def is_elsewhere(method: Direct) -> bool:
    """Whether an engine was asked for that does not work on the CPU."""
    return method.engine != "auto" and "cpu" not in REGISTRY[method.engine].devices


@lru_cache(maxsize=64)
def host_how(how: str) -> str:
    """The same words for the CPU, where an engine that takes tensors leaves the choice open."""
    assume, method = decode(how)
    if method.engine == "auto" or not REGISTRY[method.engine].tensors:
        return how
    return assume + dataclasses.replace(method, engine="auto").key


class Attempt:
    """A factorisation of values (items, nnz) on the device, and how it came about."""

    __slots__ = ("fresh", "numeric", "path", "symbolic")

    def __init__(self, path: str, symbolic: Symbolic, numeric: Any, fresh: bool) -> None:
        self.path, self.symbolic, self.numeric = path, symbolic, numeric
        self.fresh = fresh  # analysed for these very values


class Place:
    """A device on which a pattern's matrices are factored: who plans there, and the latest factor of a
    single matrix with the tensor that it is of.
    """

    __slots__ = ("kept", "planner")

    def __init__(self, planner: DevicePlanner) -> None:
        self.planner = planner
        self.kept: Any = None  # not on the planner: factors hold that, and would hold themselves


class DevicePlanner:
    """Analyses of one pattern on one device, and what the values that came so far were like.

    Parameters
    ----------
    planner : Planner
        The pattern's own, with what is assumed and asked for.
    engine : Engine
    device : torch.device
    """

    def __init__(self, planner: Planner, engine: Engine, device: torch.device) -> None:
        self.pattern, self.assume, self.method = planner.pattern, planner.assume, planner.method
        self.engine, self.device = engine, device
        self.structure = Structure(planner.pattern, device)
        self.dominant = False  # whether the latest matrices were diagonally dominant
        self.threads = planner.threads
        self._symbolics: dict[tuple[str, int], Symbolic] = {}
        self._kind: str | None = None
        self._sound = False
        self._host: Planner | None = None

    @property
    def host(self) -> Planner:
        """A planner for the CPU, free in its choice; but of an engine for definite matrices alone that
        was asked for, its own, whose words are meant.
        """
        if self._host is None:
            picky = "general" not in self.engine.kinds
            method = Direct(self.method.engine if picky else "auto", threads=self.method.threads)
            self._host = Planner(self.pattern, self.assume, method)
        return self._host

    # ---- what kind of matrix ----

    def kind(self, eq: TensorEquations) -> str:
        """What all these matrices are taken to be: as those before them were, which `fits` then checks
        without waiting for an answer.
        """
        P, complex_ = self.pattern, eq.values.is_complex()
        if not self._sound:
            check_structure(P)
            self._sound = True
        if self.assume != "auto":
            if self.assume != "general" and not P.is_symmetric:
                classify(P, np.empty(0), self.assume)  # raises, and says where
            # To the library, real matrices are symmetric.
            return "symmetric" if self.assume == "hermitian" and not complex_ else self.assume
        if not P.is_symmetric or not self.method.check:
            return "general"  # without looking at numbers nothing else is sure
        if self._kind is None:
            words = ("hermitian", "symmetric") if complex_ else ("symmetric",)
            facts = [eq.is_mirrored(word == "hermitian").all().reshape(1, 1) for word in words]
            (found,) = read(*facts)
            self._kind = next((w for w, true in zip(words, found, strict=True) if true), "general")
        return self._kind

    def forget_kind(self) -> None:
        """The matrices are no longer what they were."""
        self._kind = None

    def fits(self, eq: TensorEquations, kind: str) -> Tensor | None:
        """Which matrices are of that kind; None for all, surely."""
        if kind == "general":
            return None
        return eq.is_mirrored(eq.values.is_complex() and kind != "symmetric")

    def paths(self, kind: str) -> tuple[str, ...]:
        """The engine's paths for such matrices, best first."""
        known = self.engine.paths
        if "general" not in self.engine.kinds and kind == "symmetric":
            return tuple(known)  # definite ones alone: it says so if they are not
        return tuple(p for p in _PATHS[kind] if p in known)

    # ---- factorisations ----

    def analyze(self, values: Tensor) -> None:
        """Analyse ahead, as for values (1, nnz)."""
        kind = self.kind(TensorEquations(self.structure, values))
        for path in self.paths(kind)[:1]:
            self._symbolics[path, 1] = self.engine.analyze(self.pattern, path, values, self.threads)

    def attempt(
        self, path: str, values: Tensor, spare: Attempt | None = None, fresh: bool = False
    ) -> Attempt:
        """One factorisation, or `Declined`. The storage of `spare`, which nobody else holds, is used
        again where it fits.
        """
        try:
            return self._attempt(path, values, spare, fresh)
        except OutOfMemory as reason:
            log.info("%s; letting go of other factors", reason)
        self._let_go()
        return self._attempt(path, values, None, fresh)

    def _let_go(self) -> None:
        """Forget the factors that caches keep on this device, and what analyses have ready."""
        for planner in planners():
            for place in planner.elsewhere.values():
                if place.planner.device == self.device:
                    place.kept = None
                    place.planner._symbolics.clear()

    def _attempt(self, path: str, values: Tensor, spare: Attempt | None, fresh: bool) -> Attempt:
        key = path, len(values)
        symbolic = self._symbolics.get(key)
        if symbolic is None or fresh:
            symbolic = self.engine.analyze(self.pattern, path, values, self.threads)
            self._symbolics.pop(key, None)
            self._symbolics[key], fresh = symbolic, True
            if len(self._symbolics) > _ANALYSES:
                del self._symbolics[next(iter(self._symbolics))]
            log.debug("%s on %s: %s, %s", self.pattern, self.device, self.engine.name, path)
        recycle: Numeric | None = None
        if spare is not None and spare.symbolic is symbolic and spare.numeric.recyclable:
            recycle = spare.numeric
        numeric = self.engine.factorize(symbolic, values, self.threads, recycle)
        return Attempt(path, symbolic, numeric, fresh or not self.engine.looks_at_values)

    def info(self, kind: str | None = None, attempt: Attempt | None = None, **facts: Any) -> Info:
        """Facts on what was planned and, given an attempt, done."""
        if attempt is None:
            symbolic = next(reversed(self._symbolics.values()), None)
            path, numeric = symbolic.path if symbolic else "none", None
        else:
            path, symbolic, numeric = attempt.path, attempt.symbolic, attempt.numeric
        return Info(
            engine=self.engine.name,
            path=path,
            reason=f"tensors on {self.device}, factored where they are",
            kind=kind or self._kind or "unknown",
            n=self.pattern.shape[0],
            nnz=self.pattern.nnz,
            nnz_factor=getattr(numeric, "nnz_factor", None),
            memory=getattr(numeric, "memory", None),
            threads=self.threads,
            analyze_seconds=getattr(symbolic, "seconds", None),
            factor_seconds=getattr(numeric, "seconds", None),
            **facts,
        )
