"""One analysed structure inside the library, which can be factored and solved with again and again."""

from __future__ import annotations

from collections import deque
from ctypes import c_int64
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..base import Declined, OutOfMemory
from . import binding
from .handle import Handle, Remains

__all__ = ["Layout", "Session", "Shelf"]


@dataclass(eq=False)
class Layout:
    """A structure as the library reads it.

    Attributes
    ----------
    n, items : int
        Unknowns, and how many matrices are factored side by side.
    crow, cols : int32 tensors, where the matrices are
    take : LongTensor or None
        Which nonzeros the library wants: of symmetric matrices those of the upper triangle.
    kind : int
        cudssMatrixType_t.
    """

    handle: Handle
    n: int
    items: int
    dtype: torch.dtype
    crow: Tensor
    cols: Tensor
    take: Tensor | None
    kind: int

    def values(self, values: Tensor) -> Tensor:
        """Numbers (items, nnz) as the library reads them: a copy of its own, one item after another."""
        if self.take is None:
            return values.clone(memory_format=torch.contiguous_format)
        return values.index_select(-1, self.take)


class Shelf:
    """A layout, and at most one session that a factorisation left behind, to be used by the next. Holds
    sessions, is held by none: all is gone with the analysis that it belongs to.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._idle: deque[Session] = deque(maxlen=1)

    def put(self, session: Session) -> None:
        """Leave it to others, unless it is of no more use."""
        if session.usable:
            self._idle.append(session)

    def take(self) -> Session | None:
        """The one left here, if any."""
        try:
            session = self._idle.pop()
        except IndexError:
            return None
        return session if session.usable else None


class Session:
    """Configuration, data and matrix of one `Layout`, analysed for `values` (items, nnz)."""

    def __init__(self, layout: Layout, values: Tensor) -> None:
        self.layout, self.handle = layout, layout.handle
        self._matrices: tuple[int, ...] = ()
        self._data = self._config = 0
        self._dense: dict[int, tuple[int, int]] = {}  # descriptors of b and x, by columns
        self._factored = self._failed = False
        self.stream = self.handle.current_stream()
        self.values = layout.values(values)
        # Phases that read no right-hand side want to see one all the same.
        self._blank = self.values.new_zeros((layout.items, 1, layout.n))
        try:
            with self.handle.running(self._arrive) as library:
                self._create(library)
                self._execute(
                    library, binding.ANALYSIS, *self._sides(library, self._blank, self._blank)
                )
        except binding.CudssError as error:
            raise _declined(error) from error

    def _create(self, library: Any) -> None:
        handle, layout = self.handle, self.layout
        self._config = binding.created(library, "cudssConfigCreate")
        self._data = binding.created(library, "cudssDataCreate", handle.pointer)
        if layout.items > 1:
            binding.set_config(library, self._config, binding.UBATCH_SIZE, layout.items)
            if handle.version[0] >= 1:  # which batches exclude, and 1.0 may otherwise choose
                binding.set_config(library, self._config, binding.MATCHING_ALG, binding.NO_MATCHING)
        kind, number = layout.kind, binding.TYPES[layout.dtype]
        view = binding.FULL if layout.take is None else binding.UPPER
        structure = (
            *(layout.n, layout.n, layout.cols.numel()),
            *(layout.crow.data_ptr(), None, layout.cols.data_ptr(), self.values.data_ptr()),
            *(binding.INT32, binding.INT32, number, kind, view, binding.BASE_ZERO),
        )
        self._matrices = (binding.created(library, "cudssMatrixCreateCsr", after=structure),)

    def _sides(self, library: Any, b: Tensor, x: Tensor) -> tuple[int, int]:
        """Descriptors of x and b, both (items, k, n) contiguous: those of one system."""
        k = b.shape[-2]
        found = self._dense.get(k)
        if found is None:
            n, number = self.layout.n, binding.TYPES[self.layout.dtype]
            for old in self._dense.values():
                for matrix in old:
                    binding.check(library, "cudssMatrixDestroy", matrix)
            self._dense.clear()
            self._matrices = self._matrices[:1]
            made = []
            for side in (x, b):
                form = n, k, n, side.data_ptr(), number, binding.COL_MAJOR
                made.append(binding.created(library, "cudssMatrixCreateDn", after=form))
                self._matrices = (*self._matrices, made[-1])
            found = self._dense[k] = made[0], made[1]
        for matrix, side in zip(found, (x, b), strict=True):
            binding.check(library, "cudssMatrixSetValues", matrix, side.data_ptr())
        return found

    def _execute(self, library: Any, phase: int, x: int, b: int) -> None:
        system = self.handle.pointer, phase, self._config, self._data, self._matrices[0], x, b
        try:
            binding.check(library, "cudssExecute", *system)
        except binding.CudssError as error:
            if error.status != binding.NO_MEMORY:
                raise
            # cuDSS allocates beside torch, whose cache may hold what it needs.
            self.handle.make_room(self.stream)
            binding.check(library, "cudssExecute", *system)

    def _arrive(self) -> Any:
        """torch's stream, made to wait for what this session still does on another. Only for whoever
        holds the handle: the next one must find all that this one queues.
        """
        stream = self.handle.current_stream()
        if stream is not None and stream != self.stream:
            stream.wait_stream(self.stream)
            for tensor in (self.values, self._blank, self.layout.crow, self.layout.cols):
                tensor.record_stream(stream)
        self.stream = stream
        return stream

    # ---- numbers ----

    def factor(self, values: Tensor, afresh: bool = False) -> None:
        """Factor values (items, nnz); on the pivots of the last time if there was one that worked,
        unless `afresh`.
        """
        self.values = self.layout.values(values)
        try:
            with self.handle.running(self._arrive) as library:
                binding.check(
                    library, "cudssMatrixSetValues", self._matrices[0], self.values.data_ptr()
                )
                if self._failed and self.handle.version.resets_info:
                    binding.clear_info(library, self.handle.pointer, self._data)
                again = self._factored and not self._failed and not afresh
                phase = binding.REFACTORIZATION if again else binding.FACTORIZATION
                self._factored = self._failed = False
                self._execute(library, phase, *self._sides(library, self._blank, self._blank))
                self._factored = True
        except binding.CudssError as error:
            self._failed = True
            raise _declined(error) from error

    def solve(self, b: Tensor, mode: int) -> Tensor:
        """x (items, k, n) for contiguous b of that shape; nothing waits for it."""
        x = torch.empty_like(b)
        try:
            with self.handle.running(self._arrive) as library:
                if mode:
                    binding.set_config(library, self._config, binding.SOLVE_MODE, mode)
                try:
                    self._execute(library, binding.SOLVE, *self._sides(library, b, x))
                finally:
                    if mode:
                        binding.set_config(library, self._config, binding.SOLVE_MODE, binding.NORMAL)
        except binding.CudssError as error:
            raise _declined(error) from error
        return x

    def info(self) -> int:
        """The error indicator, zero for none. Waits for the factorisation."""
        with self.handle.running(self._arrive) as library:
            found = binding.get_data(library, self.handle.pointer, self._data, binding.INFO).value
        self._failed = found != 0
        return found

    def facts(self) -> tuple[int | None, int | None]:
        """(nonzeros of the factors, bytes that they take); None where the library does not say."""
        with self.handle.running(self._arrive) as library:
            return (
                _read(library, self.handle.pointer, self._data, binding.LU_NNZ, c_int64),
                _read(library, self.handle.pointer, self._data, binding.MEMORY_ESTIMATES, c_int64 * 16),
            )

    @property
    def usable(self) -> bool:
        """Whether other values can be factored in it. A collector may have ended it before its last
        holder; and old versions never forget a failure.
        """
        return self._config != 0 and (not self._failed or self.handle.version.resets_info)

    def __del__(self) -> None:
        config, self._config = getattr(self, "_config", 0), 0
        if config:
            self.handle.bury(Remains(self.stream, self._matrices, self._data, config))


def _declined(error: binding.CudssError) -> Declined:
    kind = OutOfMemory if error.status == binding.NO_MEMORY else Declined
    return kind(f"cudss: {error}")


def _read(library: Any, handle: Any, data: int, parameter: int, kind: Any) -> int | None:
    try:
        found = binding.get_data(library, handle, data, parameter, kind)
    except binding.CudssError:
        return None
    # Memory estimates: first the bytes that stay on the device, then those at the peak.
    return int(found.value if kind is c_int64 else found[0])
