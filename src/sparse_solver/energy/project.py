"""The nearest positive semidefinite matrix, element by element.

With H = U diag(l) U^T, the projection in the Frobenius norm is U diag(max(l, 0)) U^T (Higham 1988).
Most elements need none, which a Cholesky factorisation tells for a fraction of the price.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..matrix.rule import Rule

__all__ = ["indefinite", "project_psd"]

_SHIFT = 1e3  # eps of an element's largest diagonal entry: what counts as no negative eigenvalue


def project_psd(H: Tensor) -> Tensor:
    """Symmetric matrices H (q, q, m), the element's axis last, made positive semidefinite.

    Differentiable once: the projection is not smooth where an eigenvalue is zero.
    """
    return _Project.apply(H)


def indefinite(H: Tensor) -> Tensor:
    """Which of H (m, q, q) have a negative eigenvalue, up to rounding: (m,) bool."""
    scale = H.diagonal(dim1=-2, dim2=-1).abs().amax(-1)
    shift = (_SHIFT * torch.finfo(H.dtype).eps) * scale
    eye = torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)
    _, info = torch.linalg.cholesky_ex(H + (shift + torch.finfo(H.dtype).tiny)[:, None, None] * eye)
    return info != 0


class _Project(Rule):
    @staticmethod
    def forward(H: Tensor) -> Tensor:
        H = H.movedim(-1, 0)  # (m, q, q)
        bad = indefinite(H)
        out = H.clone()
        if bool(bad.any()):
            lam, U = torch.linalg.eigh(H[bad])
            out[bad] = (U * lam.clamp(min=0)[:, None, :]) @ U.mT
        return out.movedim(0, -1).contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        (H,) = ctx.saved_tensors
        return _Last.apply(H, g) if torch.is_grad_enabled() else _Last.forward(H, g)


class _Last(Rule):
    """The derivative of `_Project`, which has none itself."""

    tensors = 2

    @staticmethod
    def forward(H: Tensor, g: Tensor) -> Tensor:
        # Daleckii-Krein: with f(l) = max(l, 0), dP = U (Phi * (U^T dH U)) U^T where
        # Phi_ij = (f(l_i) - f(l_j)) / (l_i - l_j), or f'(l_i) where they are equal; self-adjoint.
        H, G = H.movedim(-1, 0), g.movedim(-1, 0)
        bad = indefinite(H)
        out = G.clone()
        if bool(bad.any()):
            lam, U = torch.linalg.eigh(H[bad])
            f, gap = lam.clamp(min=0), lam[:, :, None] - lam[:, None, :]
            step = (lam > 0).to(lam.dtype)[:, :, None].expand_as(gap)
            close = gap.abs() <= 1e-12 * lam.abs().amax(-1)[:, None, None]
            Phi = torch.where(close, step, (f[:, :, None] - f[:, None, :]) / gap.masked_fill(close, 1))
            G = G[bad]
            out[bad] = U @ (Phi * (U.mT @ ((G + G.mT) / 2) @ U)) @ U.mT
        return out.movedim(0, -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        raise RuntimeError(
            'hessian(project="psd") has first derivatives only; for more differentiate '
            'hessian(project="none")'
        )
