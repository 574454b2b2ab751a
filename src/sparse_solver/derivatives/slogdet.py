"""The logarithm of the determinant and its derivatives.

With D = log det A (for complex A: its imaginary part is the argument) and T_ij = (A^-1)_ji,

    forward   dD = tr(A^-1 dA) = sum_ij T_ij dA_ij over A's nonzeros
    backward  A_bar = g conj(T)

so the gradient is entries of the inverse, which `chain.py` differentiates further (Giles, "Collected
matrix derivative results", section 2.2.4).
"""

from __future__ import annotations

import cmath

import numpy as np
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

from ..matrix.plain import is_plain
from ..matrix.rule import Rule
from ..planning import BatchFactored, Factored, Singular, slogdets
from ..planning import slogdet as slogdet_numbers
from .chain import inverse_entries, known_entries
from .items import batched, define, library, over_batch, over_items

__all__ = ["log_determinant", "sign"]


def _sign(values: Tensor, token: Tensor, pattern: int, how: str) -> Tensor:
    def compute(item: Factored | Singular) -> np.ndarray:
        return np.asarray(slogdet_numbers(item)[0].real)

    def compute_all(batch: BatchFactored, index: np.ndarray | None) -> np.ndarray:
        sign = slogdets(batch)[0].real
        return sign.copy() if index is None else sign[index]

    found = over_batch(compute_all, values, token, pattern, how)
    return (over_items(compute, values, token, pattern, how) if found is None else found).to(
        values.dtype
    )


def _log(values: Tensor, token: Tensor, pattern: int, how: str) -> Tensor:
    def compute(item: Factored | Singular) -> np.ndarray:
        sign, logabs = slogdet_numbers(item)
        if not values.is_complex():
            return np.asarray(logabs)
        return np.asarray(complex(logabs, cmath.phase(sign)))

    def compute_all(batch: BatchFactored, index: np.ndarray | None) -> np.ndarray:
        sign, logabs = slogdets(batch)
        log = logabs.copy() if not values.is_complex() else _complex(logabs, np.angle(sign))
        return log if index is None else log[index]

    found = over_batch(compute_all, values, token, pattern, how)
    return (over_items(compute, values, token, pattern, how) if found is None else found).to(
        values.dtype
    )


def _complex(real: np.ndarray, imaginary: np.ndarray) -> np.ndarray:
    """Their sum, also where a part is infinite."""
    return np.stack([real, imaginary], -1).view(np.result_type(real, 1j))[..., 0]


def _fake(values: Tensor, token: Tensor, pattern: int, how: str) -> Tensor:
    return values.new_empty(values.shape[:-1])


_run_sign, _sign_op = define(
    "sign(Tensor values, Tensor token, SymInt pattern, str how) -> Tensor", _sign, _fake
)
_run_log, _log_op = define(
    "log_det(Tensor values, Tensor token, SymInt pattern, str how) -> Tensor", _log, _fake
)


def _sign_vmap(info, in_dims, values, token, pattern, how):  # type: ignore[no-untyped-def]
    return _sign_op(*batched(info, in_dims, values, token), pattern, how), 0


torch.library.register_vmap("sparse_solver::sign", _sign_vmap, lib=library)


def sign(values: Tensor, token: Tensor, pattern: int, how: str) -> Tensor:
    """The sign (*B) of det A for real A, 0 where A is singular; no derivative."""
    run = _run_sign if not torch.compiler.is_compiling() and is_plain(values) else _sign_op
    return run(values.detach(), token, pattern, how)


def log_determinant(values: Tensor, token: Tensor, pattern: int, how: str) -> Tensor:
    """(*B): log|det A| for real A, for complex A log|det A| + i arg det A, differentiable in values
    to any order.
    """
    if torch.compiler.is_compiling():
        _admit()
    return _LogDet.apply(values, token, pattern, how)


class _LogDet(Rule):
    tensors = 2

    @staticmethod
    def forward(values, token, pattern, how):  # type: ignore[no-untyped-def]
        return (_run_log if is_plain(values) else _log_op)(values, token, pattern, how)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        values, token, *ctx.how = inputs
        ctx.save_for_backward(values, token)
        ctx.save_for_forward(values, token)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        if g is None:
            return (None,) * 4
        values, token = ctx.saved_tensors
        T = known_entries(values, token, g)
        if T is None:
            T = inverse_entries(values, token, *ctx.how)
        return g.unsqueeze(-1) * T.conj(), None, None, None

    @staticmethod
    def jvp(ctx, dA, *_):  # type: ignore[no-untyped-def]
        with fwAD._set_fwd_grad_enabled(True):
            values, token = ctx.saved_tensors
            values = fwAD.unpack_dual(values, level=0).primal
            return (inverse_entries(values, token, *ctx.how) * dA).sum(-1)

    @staticmethod
    def vmap(info, in_dims, values, token, pattern, how):  # type: ignore[no-untyped-def]
        return _LogDet.apply(*batched(info, in_dims, values, token), pattern, how), 0


def _admit() -> None:
    torch.compiler.allow_in_graph(_LogDet)


_admit._dynamo_marked_constant = True  # type: ignore[attr-defined]
