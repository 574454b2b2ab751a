"""The solvers compared, each as `build(problem) -> solve(values)` with x = A(values)^-1 b.

`build` does once what the library's user would do once; `solve` is what a user writes in the loop.
Each is imported only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from problems import GridProblem

Solve = Callable[[torch.Tensor], torch.Tensor]


def ours(problem: GridProblem) -> Solve:
    """This library: the pattern built once, values assembled in the loop."""
    import sparse_solver as ss

    P = ss.Pattern(problem.rows, problem.cols, (problem.n, problem.n))
    return lambda values: ss.solve(P.assemble(values), problem.b)


def original(problem: GridProblem) -> Solve:
    """The original library over cholespy, used as its README says."""
    from original import original_solve

    shape = (problem.n, problem.n)

    def solve(values: torch.Tensor) -> torch.Tensor:
        A = torch.sparse_coo_tensor(problem.indices, values, size=shape).coalesce()
        return original_solve(A, problem.b)

    return solve


def torch_sla(problem: GridProblem) -> Solve:
    """torch-sla's direct solver on the CPU: SciPy's SuperLU, its own choice there.

    It takes the triplets as they are and sums duplicates inside, so nothing is coalesced here.
    """
    return _torch_sla(problem, backend="scipy", method="lu")


def torch_sla_cg(problem: GridProblem) -> Solve:
    """torch-sla's Jacobi-preconditioned conjugate gradients, for this well-conditioned matrix."""
    return _torch_sla(problem, backend="pytorch", method="cg")


def _torch_sla(problem: GridProblem, **choice: Any) -> Solve:
    from torch_sla import spsolve

    shape = (problem.n, problem.n)
    return lambda values: spsolve(values, problem.rows, problem.cols, shape, problem.b, **choice)


def splu(problem: GridProblem) -> Solve:
    """SciPy's SuperLU by hand: one factorisation, used again in backward."""
    import numpy as np
    import scipy.sparse as sp
    from scipy.sparse.linalg import splu

    rows, cols = problem.rows.numpy(), problem.cols.numpy()

    class Solve(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            A = sp.coo_array((values.numpy(), (rows, cols)), shape=(problem.n, problem.n))
            ctx.lu = splu(A.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
            ctx.x = ctx.lu.solve(b.numpy())
            return torch.from_numpy(ctx.x)

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
            y = ctx.lu.solve(np.ascontiguousarray(g.numpy()), trans="T")
            return torch.from_numpy(-y[rows] * ctx.x[cols]), None

    return lambda values: Solve.apply(values, problem.b)


PEERS: dict[str, Callable[[GridProblem], Solve]] = {
    "ours": ours,
    "original": original,
    "torch-sla": torch_sla,
    "torch-sla-cg": torch_sla_cg,
    "splu": splu,
}


def dense_gradient(problem: GridProblem, w: torch.Tensor) -> torch.Tensor:
    """Gradient of |x|^2 by torch.linalg.solve on a dense matrix, the independent reference."""
    w = w.detach().clone().requires_grad_()
    A = torch.zeros(problem.n, problem.n, dtype=torch.float64)
    A = A.index_put((problem.rows, problem.cols), problem.values(w), accumulate=True)
    torch.linalg.solve(A, problem.b).square().sum().backward()
    return w.grad
