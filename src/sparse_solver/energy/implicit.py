r"""Derivatives of a solution of equations that an iteration found.

Let x solve r(x, p) = 0 at the free unknowns f and x_c = c at the prescribed ones; for a minimum r is
the gradient of the energy and J = dr/dx its Hessian, without any projection. Differentiating,

    forward   J_ff dx_f = -(r_p dp)_f - J_fc dc
    backward  J_ff^T lambda = g_f,   p_bar = -r_p^T lambda,   c_bar = g_c - J_fc^T lambda

One solve with the Jacobian at x, whatever way led there. The rule calls differentiable functions of
x, which is its own output, so that derivatives of all orders follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor
from torch.utils import _pytree as pytree

from ..linalg import solve
from ..matrix import SparseMatrix
from ..planning import Direct
from .per_element import vjp

__all__ = ["Equations", "stationary_point"]


class Equations:
    """r(x, p) = 0, with p the floating-point tensors among the given arguments.

    Parameters
    ----------
    residual, jacobian : callable
        ``residual(x, *params, **more)``, ``jacobian(x, *params, **more)``.
    params : tuple
        Any tree of tensors and other things.
    nodal : tuple
        Likewise; passed on as ``nodal=`` unless empty.
    fixed : (LongTensor, Tensor) or None
    """

    def __init__(
        self,
        residual: Callable[..., Tensor],
        jacobian: Callable[..., SparseMatrix],
        params: tuple,
        nodal: tuple,
        indices: Tensor | None,
        method: Direct,
    ) -> None:
        self._residual, self._jacobian, self.method = residual, jacobian, method
        self.indices = indices
        self._leaves, self._tree = pytree.tree_flatten((tuple(params), tuple(nodal)))
        self._at = [i for i, t in enumerate(self._leaves) if _differentiable(t)]
        self.parameters = [self._leaves[i] for i in self._at]

    def arguments(self, p: Sequence[Tensor]) -> tuple[tuple, dict[str, Any]]:
        """(params, keywords) with the tensors p in their places."""
        leaves = list(self._leaves)
        for i, t in zip(self._at, p, strict=True):
            leaves[i] = t
        params, nodal = pytree.tree_unflatten(leaves, self._tree)
        return params, ({"nodal": nodal} if nodal else {})

    def residual(self, x: Tensor, *p: Tensor) -> Tensor:
        """r(x, p), of x's shape."""
        params, more = self.arguments(p)
        return self._residual(x, *params, **more)

    def jacobian(self, x: Tensor, *p: Tensor) -> SparseMatrix:
        """dr/dx."""
        params, more = self.arguments(p)
        return self._jacobian(x, *params, **more)

    def solve(self, x: Tensor, p: Sequence[Tensor], b: Tensor, c: Tensor, transpose: bool) -> Tensor:
        """J^-1 b, or J^-T b, with the prescribed unknowns equal to c; b and the result of x's shape."""
        fixed = None if self.indices is None else (self.indices, c)
        J = self.jacobian(x, *p)
        flat = solve(J, b.reshape(-1), fixed=fixed, transpose=transpose, method=self.method)
        return flat.reshape(x.shape)

    def take(self, x: Tensor) -> Tensor:
        """The prescribed entries of x."""
        return x.reshape(-1)[self.indices] if self.indices is not None else x.new_zeros(0)


def _differentiable(t: Any) -> bool:
    return isinstance(t, Tensor) and t.is_floating_point()


Iteration = Callable[[Tensor, Tensor, Sequence[Tensor]], Tensor]


def stationary_point(equations: Equations, iterate: Iteration, x0: Tensor, c: Tensor) -> Tensor:
    """``iterate(x0, c, p)``, which solves the equations, with the derivatives of their solution."""
    return _Stationary.apply(equations, iterate, x0, c, *equations.parameters)


class _Stationary(torch.autograd.Function):
    @staticmethod
    def forward(eq: Equations, iterate: Iteration, x0: Tensor, c: Tensor, *p: Tensor) -> Tensor:
        return iterate(x0, c, p)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.equations, _, _, _, *p = inputs
        ctx.save_for_backward(output, *p)
        ctx.save_for_forward(output, *p)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        eq: Equations = ctx.equations
        x, *p = ctx.saved_tensors
        # J_ff^T lambda = g_f, lambda_c = 0
        lam = eq.solve(x, p, g, torch.zeros_like(eq.take(g)), transpose=True)
        wanted = [i for i, need in enumerate(ctx.needs_input_grad[4:]) if need]
        with_c = ctx.needs_input_grad[3] and eq.indices is not None
        # r^T lambda has the derivatives J^T lambda and r_p^T lambda
        _, pull = vjp(
            lambda y, *some: eq.residual(y, *_merged(p, wanted, some)), x, *(p[i] for i in wanted)
        )
        at_x, *at_p = pull(lam)
        c_bar = eq.take(g - at_x) if with_c else None
        p_bar: list[Tensor | None] = [None] * len(p)
        for i, t in zip(wanted, at_p, strict=True):
            p_bar[i] = -t
        return None, None, None, c_bar, *p_bar

    @staticmethod
    def jvp(ctx: Any, _0: Any, _1: Any, _2: Any, dc: Tensor | None, *dp: Tensor | None) -> Tensor:  # type: ignore[override]
        # Inside a jvp rule forward mode is off; without this a jvp of a jvp would be zero.
        with fwAD._set_fwd_grad_enabled(True):
            eq: Equations = ctx.equations
            x, *p = (fwAD.unpack_dual(t, level=0).primal for t in ctx.saved_tensors)
            moving = [i for i, t in enumerate(dp) if t is not None]
            rhs = torch.zeros_like(x)
            if moving:
                # r_p dp as the transpose of g -> r_p^T g
                r, pull = vjp(
                    lambda *some: eq.residual(x, *_merged(p, moving, some)), *(p[i] for i in moving)
                )
                _, push = vjp(pull, torch.zeros_like(r))
                rhs = -push(tuple(dp[i] for i in moving))[0]
            dc = torch.zeros_like(eq.take(x)) if dc is None else dc
            return eq.solve(x, p, rhs, dc, transpose=False)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, eq: Equations, iterate: Iteration, *tensors: Tensor) -> tuple:  # type: ignore[override]
        # Each item takes its own steps, so there is nothing to share between them.
        items = [
            _Stationary.apply(
                eq, iterate, *(t if d is None else t.select(d, i) for t, d in zip(tensors, in_dims[2:]))
            )
            for i in range(info.batch_size)
        ]
        return torch.stack(items), 0


def _merged(p: Sequence[Tensor], at: list[int], some: Sequence[Tensor]) -> list[Tensor]:
    whole = list(p)
    for i, t in zip(at, some, strict=True):
        whole[i] = t
    return whole
