"""What the verbs accept: checked once, at the door, in words the caller can act on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..matrix import SparseMatrix
from ..planning import ASSUMPTIONS, Direct

__all__ = ["REAL", "check_method", "check_system", "common_batch", "is_vector", "read_matrix"]

REAL = {  # the precision of each dtype that can be factored
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}


def read_matrix(A: Any) -> SparseMatrix:
    """A as a SparseMatrix: square, of a dtype that can be factored."""
    if not isinstance(A, SparseMatrix):
        if isinstance(A, (list, tuple)) and all(isinstance(M, (Tensor, SparseMatrix)) for M in A):
            raise TypeError(
                f"A is a list of {len(A)}; lists go into solve and solve_ex alone. Of other "
                "verbs ask for each: [verb(M) for M in A]"
            )
        if not isinstance(A, Tensor):
            raise TypeError(
                f"A is a {type(A).__name__}; expected a torch.Tensor (any layout) or a "
                "sparse_solver.SparseMatrix. From SciPy: SparseMatrix.from_scipy(A)"
            )
        _check_dtype("A", A.dtype)
        if A.ndim >= 2 and A.shape[-2] != A.shape[-1]:
            if A.layout == torch.strided or A.dense_dim() == 0:  # hybrids are refused in other words
                raise ValueError(_not_square(A.shape))
        A = SparseMatrix.from_torch(A)
    else:
        _check_dtype("A", A.dtype)
    n, m = A.pattern.shape if A._base is None else A.shape[-2:]
    if n != m:
        raise ValueError(_not_square(A.shape))
    return A


def _check_dtype(name: str, dtype: torch.dtype) -> None:
    if dtype not in REAL:
        raise TypeError(
            f"{name} has dtype {dtype}; expected float32, float64, complex64 or complex128: "
            f"write {name}.to(torch.float64)"
        )


def _not_square(shape: Any) -> str:
    return f"A has shape {tuple(shape)}; expected a square matrix (for others see lstsq)"


def is_vector(A_shape: Any, b_shape: Any) -> bool:
    """Whether b is a vector, or a batch of vectors, by the rule of torch.linalg.solve."""
    return len(b_shape) == 1 or tuple(b_shape) == tuple(A_shape[:-1])


def common_batch(one: Any, other: Any) -> Any:
    """What two batches broadcast to; torch takes 0.1 ms to say so even of equal ones."""
    return one if one == other else torch.broadcast_shapes(one, other)


def check_system(A: SparseMatrix, b: Any) -> None:
    """Raise unless A x = b makes sense for these shapes, dtypes and devices."""
    if not isinstance(b, Tensor):
        raise TypeError(f"b is a {type(b).__name__}; expected a torch.Tensor: torch.as_tensor(b)")
    if A._base is None:  # the usual case in as few looks as can be
        v = A.values
        if (
            v.ndim == 1
            and b.ndim in (1, 2)
            and b.shape[0] == A.pattern.shape[0]
            and b.dtype == v.dtype
            and (b.is_cpu and v.is_cpu or b.device == v.device)
            and b.layout == torch.strided
        ):
            return
    shape, n = A.shape, A.shape[-1]
    if b.layout != torch.strided:
        raise TypeError(f"b has layout {b.layout}; expected a dense tensor: b.to_dense()")
    vector = is_vector(shape, b.shape)
    if b.ndim == 0 or (b.shape[-1] if vector else b.shape[-2]) != n:
        hint = "solve(A, b.mT)" if b.ndim > 1 and b.shape[-1] == n else f"solve(A, b) with {n} rows"
        raise ValueError(
            f"A has shape {tuple(shape)} and b has shape {tuple(b.shape)}; expected b of shape ({n},) "
            f"or (..., {n}, k): {hint}"
        )
    try:
        common_batch(shape[:-2], b.shape[: -1 if vector else -2])
    except RuntimeError:
        raise ValueError(
            f"A has shape {tuple(shape)} and b has shape {tuple(b.shape)}; their batch dimensions "
            f"{tuple(shape[:-2])} and {tuple(b.shape[: -1 if vector else -2])} do not broadcast"
        ) from None
    if b.dtype != A.dtype:
        _check_dtype("b", b.dtype)
        if REAL[b.dtype] != REAL[A.dtype]:
            raise TypeError(
                f"A has dtype {A.dtype} and b {b.dtype}; write b.to({A.dtype}) or A.to({b.dtype})"
            )
    if b.device != A.device:
        raise ValueError(f"A is on {A.device} and b on {b.device}; write b.to({str(A.device)!r})")


def check_method(assume: str, method: Any) -> str:
    """The word that carries both through the layers below."""
    if assume not in ASSUMPTIONS:
        words = ", ".join(map(repr, ASSUMPTIONS))
        raise ValueError(f"assume={assume!r} is unknown; expected one of {words}")
    if not isinstance(method, Direct):
        raise TypeError(f"method is {method!r}; expected a method such as sparse_solver.Direct()")
    return assume + method.key
