"""cuDSS: factorisation and substitution on the GPU, on tensors where they lie.

Notes
-----
Four paths, by what the matrix is. Transposed solves reuse the factor: by cuDSS's own solve mode for
general matrices; as A^T = A for symmetric ones; and as A^T = conj(A) for Hermitian ones. A batch on one
pattern is one call ("uniform batch"); there cuDSS does no matching, so answers need judging all the
more, and whoever calls does so.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...matrix import Pattern
from ..base import Declined, Engine, Numeric, Symbolic
from . import binding
from .handle import Handle
from .session import Layout, Session, Shelf

__all__ = ["Cudss", "CudssNumeric"]

_LIMIT = 2**31


class CudssNumeric(Numeric):
    """Factors of values (items, nnz), in a session that is theirs alone while anybody holds them."""

    recyclable = True

    def __init__(self, symbolic: Symbolic, session: Session, seconds: float) -> None:
        self.pattern, self.seconds = symbolic.pattern, seconds
        self._symbolic = weakref.ref(symbolic)  # whose end is not this one's to delay
        self._session: Session | None = session
        self._mirror: CudssNumeric | None = None  # of A^T, where the library has no transposed solve
        self._facts: tuple[int | None, int | None] | None = None

    @property
    def session(self) -> Session:
        """The library's objects; `Declined` once they went to another factorisation."""
        if self._session is None:
            raise Declined("cudss: this factorisation's storage was given away")
        return self._session

    def give_up(self) -> Session:
        """The session, for other values; nothing can be solved with this object any more."""
        session = self.session
        self._session = self._mirror = None
        return session

    def solve(self, b: Any, transposed: bool = False) -> Any:
        """Solve A x = b, or A^T x = b, for b (items, n, k)."""
        session = self.session
        kind, complex_ = session.layout.kind, b.is_complex()
        mode, conjugate = binding.NORMAL, False
        if transposed and kind == binding.GENERAL:
            if not session.handle.version.transposes:
                return self._transposed(session).solve(b)
            # A^T x = b  <=>  A^H conj(x) = conj(b)
            mode, conjugate = (binding.ADJOINT, True) if complex_ else (binding.TRANSPOSED, False)
        elif transposed and kind in (binding.HERMITIAN, binding.HPD):
            conjugate = complex_  # A^T x = b  <=>  A conj(x) = conj(b)
        rows = (b.conj() if conjugate else b).resolve_conj().transpose(-1, -2).contiguous()
        if session.layout.items > 1 and not session.handle.version.block_columns_in_batches:
            columns = [session.solve(c.contiguous(), mode) for c in rows.split(1, dim=-2)]
            x = torch.cat(columns, -2)
        else:
            x = session.solve(rows, mode)
        x = x.transpose(-1, -2)
        return x.conj().resolve_conj() if conjugate else x

    def _transposed(self, session: Session) -> CudssNumeric:
        """Factors of A^T, made when first asked for and kept."""
        if self._mirror is None:
            order = torch.from_numpy(self.pattern.transposed_order).to(session.values.device)
            layout = _layout(session.handle, self.pattern.T, session.layout.kind, session.values)
            flipped = session.values.index_select(-1, order)
            made = Session(layout, flipped)
            made.factor(flipped)
            shelf = Symbolic(self.pattern.T, "lu", Shelf(layout), None, None, None, 0.0)
            self._mirror = CudssNumeric(shelf, made, 0.0)
        return self._mirror

    def failed(self) -> bool:
        """Whether the factorisation says that it broke down. Waits for it."""
        return self.session.info() != 0

    @property
    def nnz_factor(self) -> int | None:  # type: ignore[override]
        return self._known()[0]

    @property
    def memory(self) -> int | None:  # type: ignore[override]
        return self._known()[1]

    def _known(self) -> tuple[int | None, int | None]:
        if self._facts is None:
            self._facts = self.session.facts()
        return self._facts

    def is_of(self, symbolic: Symbolic) -> bool:
        """Whether it was made from this analysis."""
        return self._symbolic() is symbolic

    def __del__(self) -> None:
        session, symbolic = getattr(self, "_session", None), getattr(self, "_symbolic", None)
        found = None if session is None or symbolic is None else symbolic()
        if found is not None:
            found.handle.put(session)


class Cudss(Engine):
    """Adapter of NVIDIA cuDSS (proprietary, from its own wheels)."""

    name = "cudss"
    paths = {
        "lu": "LU on the GPU",
        "ldlt": "LDL^T on the GPU, for A = A^T",
        "ldlh": "LDL^H on the GPU, for A = A^H",
        "cholesky": "Cholesky on the GPU",
    }
    devices = ("cuda",)
    opaque = frozenset(paths)
    tensors = True

    def __init__(self, load: Callable[[], Any] | None = None) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._library: Any = None
        self._version: binding.Version | None = None
        self._why_not: str | None = None
        self._looked = False
        self._handles: dict[torch.device, Handle] = {}

    def why_not(self) -> str | None:
        """None if it can be used, else what is missing; found out once."""
        if not self._looked:
            with self._lock:
                if not self._looked:
                    self._why_not = self._open()
                    self._looked = True
        return self._why_not

    def _open(self) -> str | None:
        wheel = f"pip install nvidia-cudss-cu{(torch.version.cuda or '12').split('.')[0]}"
        if self._load is None:
            if torch.version.cuda is None:
                return "this torch was built without CUDA"
            if not torch.cuda.is_available():
                return "no CUDA device"
            found = binding.find_library()
            if found is None:
                return wheel
        try:
            library = self._load() if self._load is not None else binding.load(found)  # type: ignore[arg-type]
            version = binding.version_of(library)
        except (OSError, AttributeError, binding.CudssError) as error:
            return f"{wheel} ({error})"
        self._library, self._version = library, version
        return version.why_not

    @property
    def version(self) -> tuple[int, int, int] | None:
        """Of the library, where it can be used."""
        return self._version if self.why_not() is None else None

    def handle(self, device: torch.device) -> Handle:
        """The handle of a device, made when first asked for; `Declined` where there can't be one."""
        reason = self.why_not()
        if reason is not None:
            raise Declined(f"cudss: {reason}")
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        with self._lock:
            found = self._handles.get(device)
            if found is None:
                assert self._version is not None
                try:
                    found = Handle(self._library, self._version, device)
                except binding.CudssError as error:
                    missing = "no CUDA device" if error.status in (1, 5) else str(error)
                    raise Declined(f"cudss: {missing}") from error
                self._handles[device] = found
        return found

    def close(self) -> None:
        """Destroy the handles; for tests."""
        with self._lock:
            handles, self._handles = list(self._handles.values()), {}
        for handle in handles:
            handle.close()

    def analyze(self, pattern: Pattern, path: str, values: Any, threads: int) -> Symbolic:
        """See `Engine.analyze`, for values (items, nnz), a tensor."""
        if max(pattern.shape[0], pattern.nnz) >= _LIMIT:
            raise Declined(f"cudss: {pattern} does not fit into 32-bit indices")
        start = time.perf_counter()
        kinds = {"lu": binding.GENERAL, "ldlt": binding.SYMMETRIC, "ldlh": binding.HERMITIAN}
        kind = kinds.get(path, binding.HPD if values.is_complex() else binding.SPD)
        layout = _layout(self.handle(values.device), pattern, kind, values)
        shelf = Shelf(layout)
        shelf.put(Session(layout, values))
        return Symbolic(pattern, path, shelf, None, None, None, time.perf_counter() - start)

    def factorize(
        self, symbolic: Symbolic, values: Any, threads: int, recycle: Numeric | None = None
    ) -> CudssNumeric:
        """See `Engine.factorize`. Nothing waits for the GPU: whether it worked, `failed` tells."""
        start = time.perf_counter()
        shelf: Shelf = symbolic.handle
        session: Session | None = None
        if isinstance(recycle, CudssNumeric) and recycle.is_of(symbolic):
            session = recycle.give_up()
        if session is None or not session.usable:
            session = shelf.take() or Session(shelf.layout, values)
        session.factor(values)
        return CudssNumeric(symbolic, session, time.perf_counter() - start)


def _layout(handle: Handle, pattern: Pattern, kind: int, values: Tensor) -> Layout:
    device = values.device
    take, indptr, cols = None, pattern.indptr, pattern.cols
    if kind != binding.GENERAL:
        take = torch.from_numpy(pattern.triangles[0])
        rows, cols = pattern.rows[take], cols[take]
        counts = torch.bincount(rows, minlength=pattern.shape[0])
        indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).numpy()
        take = take.to(device)
    crow = torch.from_numpy(indptr).to(device, torch.int32)
    cols = cols.to(device, torch.int32)
    return Layout(handle, pattern.shape[0], len(values), values.dtype, crow, cols, take, kind)
