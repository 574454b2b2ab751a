"""Ways to solve many small systems with new values: `build(problem, items) -> step(values, b)`.

A step takes values (items, nnz) and b (items, n) and returns the gradient of sum |x|^2 in the values.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

import sparse_solver as ss

Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def batch(P: ss.Pattern) -> Step:
    """This library, one call."""

    def step(values: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        values = values.detach().requires_grad_()
        ss.solve(ss.SparseMatrix(P, values), b).square().sum().backward()
        return values.grad

    return step


def loop(P: ss.Pattern) -> Step:
    """This library, item by item, one leaf for each."""

    def step(values: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        leaves = [v.detach().requires_grad_() for v in values]
        for v, c in zip(leaves, b, strict=True):
            ss.solve(ss.SparseMatrix(P, v), c).square().sum().backward()
        return torch.stack([v.grad for v in leaves])

    return step


def _torch_sla(P: ss.Pattern, method: str) -> Step:
    from torch_sla import SparseTensor, spsolve_batch_same_layout

    rows, cols, shape = P.rows, P.cols, P.shape

    def step(values: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        values = values.detach().requires_grad_()
        if method == "cg":
            x = spsolve_batch_same_layout(values, rows, cols, shape, b, method="cg", atol=1e-12)
        else:
            x = SparseTensor(values, rows, cols, (len(values), *shape)).solve(
                b, backend="scipy", method="lu"
            )
        x.square().sum().backward()
        return values.grad

    return step


def torch_sla(P: ss.Pattern) -> Step:
    """torch-sla's batched SparseTensor with its direct CPU solver."""
    return _torch_sla(P, "lu")


def torch_sla_cg(P: ss.Pattern) -> Step:
    """torch-sla's truly batched conjugate gradients, for these well-conditioned matrices."""
    return _torch_sla(P, "cg")


def pool(P: ss.Pattern) -> Step:
    """The engine by hand: rslab's KLU, refactored in place, the adjoint written out, over threads.

    No autograd, no checks: what an expert would write for this loss alone.
    """
    rslab = importlib.import_module("rslab._rslab")
    rows, cols, take = P.rows.numpy(), P.cols.numpy(), P.transposed_order
    structure = P.shape[0], P.T.indptr, P.T.cols.numpy()
    symbolic = []

    def step(values: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        v, c, threads = values.numpy(), b.numpy(), torch.get_num_threads()
        out = np.empty_like(v)
        if not symbolic:
            symbolic.append(rslab.analyze_klu(*structure, v[0][take], parallel=False))

        def chunk(first: int) -> None:
            handle = symbolic[0].factor(v[first][take])
            for item in range(first, len(v), threads):
                handle.refactor(v[item][take])
                x = handle.solve(c[item])
                y = handle.solve_transpose(2 * x)
                out[item] = -y[rows] * x[cols]

        if threads == 1:
            chunk(0)
        else:
            with ThreadPoolExecutor(threads) as executor:
                list(executor.map(chunk, range(threads)))
        return torch.from_numpy(out)

    return step


PEERS: dict[str, Callable[[ss.Pattern], Step]] = {
    "batch": batch,
    "loop": loop,
    "pool": pool,
    "torch-sla": torch_sla,
    "torch-sla-cg": torch_sla_cg,
}
