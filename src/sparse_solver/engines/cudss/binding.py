"""The few functions of cuDSS that the engine calls, by ctypes: numbers, signatures, versions.

From the headers of cuDSS 0.8 and 1.0. The library is NVIDIA's, proprietary and optional: it is looked
for where its wheels put it, and beside the system's libraries.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from ctypes import POINTER, byref, c_int, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import torch

__all__ = ["CudssError", "Version", "find_library", "load", "version_of"]

# cudssPhase_t
ANALYSIS, FACTORIZATION, REFACTORIZATION, SOLVE = 3, 4, 8, 1008
# cudssConfigParam_t
MATCHING_ALG, SOLVE_MODE, UBATCH_SIZE = 3, 4, 18
NO_MATCHING = 0
# cudssSolveMode_t
NORMAL, TRANSPOSED, ADJOINT = 0, 1, 2
# cudssDataParam_t
INFO, LU_NNZ, MEMORY_ESTIMATES = 0, 1, 13
# cudssMatrixType_t, cudssMatrixViewType_t, cudssIndexBase_t, cudssLayout_t
GENERAL, SYMMETRIC, HERMITIAN, SPD, HPD = range(5)
FULL, UPPER = 0, 2
BASE_ZERO, COL_MAJOR = 0, 0
# cudaDataType_t
INT32 = 10
TYPES = {torch.float32: 0, torch.float64: 1, torch.complex64: 4, torch.complex128: 5}

NO_MEMORY = 2
STATUS = {
    1: "not initialised",
    2: "out of memory",
    3: "invalid value",
    4: "not supported",
    5: "execution failed",
    6: "internal error",
    7: "refinement failed",
}

_HANDLE = c_void_p
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudssGetProperty": (c_int, POINTER(c_int)),
    "cudssCreate": (POINTER(_HANDLE),),
    "cudssDestroy": (_HANDLE,),
    "cudssSetStream": (_HANDLE, c_void_p),
    "cudssConfigCreate": (POINTER(_HANDLE),),
    "cudssConfigDestroy": (_HANDLE,),
    "cudssConfigSet": (_HANDLE, c_int, c_void_p, c_size_t),
    "cudssDataCreate": (_HANDLE, POINTER(_HANDLE)),
    "cudssDataDestroy": (_HANDLE, _HANDLE),
    "cudssDataGet": (_HANDLE, _HANDLE, c_int, c_void_p, c_size_t, POINTER(c_size_t)),
    "cudssDataSet": (_HANDLE, _HANDLE, c_int, c_void_p, c_size_t),
    "cudssExecute": (_HANDLE, c_int, _HANDLE, _HANDLE, _HANDLE, _HANDLE, _HANDLE),
    "cudssMatrixCreateDn": (POINTER(_HANDLE), *(c_int64,) * 3, c_void_p, c_int, c_int),
    "cudssMatrixCreateCsr": (POINTER(_HANDLE), *(c_int64,) * 3, *(c_void_p,) * 4, *(c_int,) * 6),
    "cudssMatrixSetValues": (_HANDLE, c_void_p),
    "cudssMatrixDestroy": (_HANDLE,),
}


class CudssError(RuntimeError):
    """A call that failed; `status` is cuDSS's number."""

    def __init__(self, call: str, status: int) -> None:
        super().__init__(f"{call}: {STATUS.get(status, 'unknown')} (status {status})")
        self.status = status


class Version(tuple[int, int, int]):
    """(major, minor, patch), and what that means here."""

    def __new__(cls, *numbers: int) -> Version:
        """From three numbers."""
        return super().__new__(cls, numbers)

    @property
    def why_not(self) -> str | None:
        """None if this engine knows this version."""
        if self[0] == 1 or self[:2] == (0, 8):
            return None
        return f"cuDSS {self} is not one that this library knows: pip install 'nvidia-cudss-cu12>=1,<2'"

    @property
    def transposes(self) -> bool:
        """Whether SOLVE_MODE does anything; 0.8 accepts it and answers A x = b all the same."""
        return self[0] >= 1

    @property
    def block_columns_in_batches(self) -> bool:
        """Whether batches solve for several right-hand sides; 0.8 is wrong after the fourth."""
        return self[0] >= 1

    @property
    def resets_info(self) -> bool:
        """Whether the error indicator of a failed factorisation can be cleared."""
        return self[0] >= 1

    def __str__(self) -> str:
        return ".".join(map(str, self))


def _folders() -> list[Path]:
    """Where the wheels put it, those for torch's version of CUDA first."""
    spec = importlib.util.find_spec("nvidia")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    major = (torch.version.cuda or "").split(".")[0]
    names = sorted(("cu13", "cu12"), key=lambda name: name != f"cu{major}")
    inside = [Path(place) / name / "lib" for name in names for place in places]
    # Without CUDA in torch there is nothing to fit; with it, the other version's would bring a second
    # runtime into the process.
    return [f for f in inside if not major or f.parent.name == f"cu{major}"]


def find_library() -> Path | str | None:
    """The library's file, or the name of one that the system knows; None where there is none."""
    names = ("libcudss.so.1", "libcudss.so.0")
    if sys.platform == "win32":
        names = ("cudss64_1.dll", "cudss64_0.dll")
    given = os.environ.get("SPARSE_SOLVER_CUDSS")
    if given:
        return Path(given)
    for folder in _folders():
        for name in names:
            if (folder / name).exists():
                return folder / name
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    return None


def load(path: Path | str) -> Any:
    """The library with its signatures declared. OSError where something that it needs is missing."""
    library = ctypes.CDLL(str(path))
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, c_int
    return library


def version_of(library: Any) -> Version:
    """What cudssGetProperty says."""
    numbers = []
    for which in range(3):
        number = c_int()
        check(library, "cudssGetProperty", which, byref(number))
        numbers.append(number.value)
    return Version(*numbers)


def check(library: Any, call: str, *arguments: Any) -> None:
    """Make a call; `CudssError` unless it succeeds."""
    status = getattr(library, call)(*arguments)
    if status:
        raise CudssError(call, status)


def created(library: Any, call: str, *before: Any, after: tuple = ()) -> int:
    """The opaque object that a Create function writes, as an integer."""
    made = _HANDLE()
    check(library, call, *before, byref(made), *after)
    assert made.value is not None
    return made.value


def set_config(library: Any, config: int, parameter: int, number: int) -> None:
    """Set one parameter of a configuration; those used here are all 32-bit integers."""
    value = c_int32(number)
    check(library, "cudssConfigSet", config, parameter, byref(value), ctypes.sizeof(value))


def get_data(library: Any, handle: int | None, data: int, parameter: int, kind: Any = c_int32) -> Any:
    """Read one fact of a factorisation. Waits for all that was queued on its stream."""
    value, written = kind(), c_size_t()
    size = ctypes.sizeof(value)
    check(library, "cudssDataGet", handle, data, parameter, byref(value), size, byref(written))
    return value


def clear_info(library: Any, handle: int | None, data: int) -> None:
    """Forget that a factorisation failed."""
    value = c_int32(0)
    check(library, "cudssDataSet", handle, data, INFO, byref(value), ctypes.sizeof(value))
