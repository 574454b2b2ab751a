"""cuDSS on one device: its handle, the one lock around it, and what is left to destroy.

A handle serves one thread at a time, and torch runs backward passes on threads of its own: every call
holds the lock, with torch's device and stream set. Finalisers may run anywhere, also in the middle of a
call of the same thread, so they take no lock that anybody may hold: they leave a note, which the next
call finds.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch

from ..base import Declined
from . import binding

__all__ = ["Handle", "Remains"]

_FORKED = "cudss: made before this process was forked, and CUDA does not survive that"


class Remains(NamedTuple):
    """What a session leaves behind: its objects, and the stream that may still be reading them."""

    stream: Any
    matrices: tuple[int, ...]
    data: int
    config: int


class Handle:
    """See the top of this file.

    Parameters
    ----------
    library : the library's functions
    version : binding.Version
    device : torch.device
        With its index. A library that is no CUDA library may serve the CPU: tests do so.

    Raises
    ------
    CudssError
        With status 1 or 5 if there is no such device.
    """

    def __init__(self, library: Any, version: binding.Version, device: torch.device) -> None:
        self.library, self.version, self.device = library, version, device
        self.process = os.getpid()
        self._lock = threading.Lock()  # not re-entrant: see `bury`
        self._graves: deque[Remains] = deque()
        with self._guard():
            self.pointer: int | None = binding.created(library, "cudssCreate")

    def _guard(self) -> AbstractContextManager[Any]:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def current_stream(self) -> Any:
        """torch's stream on this device; None on the CPU."""
        return torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None

    @contextmanager
    def running(self, arrive: Callable[[], Any]) -> Iterator[Any]:
        """The library for this thread alone, on the stream that `arrive` gives when it is its turn."""
        if self.process != os.getpid() or self.pointer is None:
            raise Declined(_FORKED)
        with self._lock, self._guard():
            self._bury_all()
            self._set_stream(arrive())
            yield self.library

    def _set_stream(self, stream: Any) -> None:
        number = None if stream is None else stream.cuda_stream
        binding.check(self.library, "cudssSetStream", self.pointer, number)

    def make_room(self, stream: Any) -> None:
        """Give back all memory that nobody uses; for whoever holds the lock, at work on `stream`."""
        self._bury_all()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._set_stream(stream)

    # ---- the end of things ----

    def bury(self, remains: Remains) -> None:
        """Destroy these objects now if nobody is at work, else as part of the next call. For
        finalisers: does not wait, and raises nothing.
        """
        if self.process != os.getpid():
            return  # a child has no business with its parent's device
        self._graves.append(remains)
        if self._lock.acquire(blocking=False):
            try:
                with self._guard():
                    self._bury_all()
            finally:
                self._lock.release()

    def _bury_all(self) -> None:
        while self._graves:
            remains = self._graves.popleft()
            if self.pointer is None:
                continue
            # On the stream that used them last, so that memory is given back after that work.
            self._set_stream(remains.stream)
            for matrix in remains.matrices:
                self.library.cudssMatrixDestroy(matrix)
            if remains.data:  # not there where creating it failed
                self.library.cudssDataDestroy(self.pointer, remains.data)
            self.library.cudssConfigDestroy(remains.config)

    def close(self) -> None:
        """Destroy everything that is no longer in use, and the handle; nothing works afterwards."""
        with self._lock, self._guard():
            self._bury_all()
            pointer, self.pointer = self.pointer, None
            if pointer is not None and self.process == os.getpid():
                self.library.cudssDestroy(pointer)
