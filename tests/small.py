"""Small systems with free parameters, for derivatives: A(w), sparse and dense side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from reference import dense, inv_solve

import sparse_solver as ss

KINDS = ("general", "symmetric", "hermitian", "spd")
EXACT = (torch.float64, torch.complex128)


@dataclass(frozen=True)
class Small:
    """``values(w)`` are triplet values that keep the kind's symmetry for every w."""

    kind: str
    rows: torch.Tensor
    cols: torch.Tensor
    n: int
    w: torch.Tensor
    values: Callable[[torch.Tensor], torch.Tensor]

    pattern: ss.Pattern = field(init=False)

    def __post_init__(self) -> None:
        pattern = ss.Pattern(self.rows, self.cols, (self.n, self.n))
        object.__setattr__(self, "pattern", pattern)

    def matrix(self, w) -> ss.SparseMatrix:
        return self.pattern.assemble(self.values(w))

    def dense(self, w) -> torch.Tensor:
        return dense(self.rows, self.cols, self.values(w), self.n)

    def solve(self, w, b, **options) -> torch.Tensor:
        options.setdefault("assume", self.kind)
        return ss.solve(self.matrix(w), b, **options)

    def truth(self, w, b, **mode) -> torch.Tensor:
        return inv_solve(self.dense(w), b, **mode)

    def rhs(self, *shape: int, dtype=None, grad: bool = True) -> torch.Tensor:
        dtype = self.w.dtype if dtype is None else dtype
        return torch.randn(self.n, *shape, dtype=dtype).requires_grad_(grad)

    def param(self) -> torch.Tensor:
        return self.w.clone().requires_grad_()


def small(kind: str, dtype=torch.float64, n: int = 4, seed: int = 0) -> Small:
    g = torch.Generator().manual_seed(seed)
    d, i = torch.arange(n), torch.arange(n - 1)
    low_i = torch.cat([i + 1, torch.tensor([n - 1])])  # a chain and one long edge
    low_j = torch.cat([i, torch.tensor([0])])
    m = len(low_i)
    off = torch.randn(m, generator=g, dtype=dtype)
    if kind == "general":
        # a duplicate of entry (1, 0), and (0, n-1) without a mirror image
        rows = torch.cat([low_i[:-1], d, low_j, torch.tensor([1])])
        cols = torch.cat([low_j[:-1], d, low_i, torch.tensor([0])])
        w = torch.randn(len(rows), generator=g, dtype=dtype)
        w[m - 1 : m - 1 + n] += torch.tensor([4.0, -4.0] * n)[:n]
        return Small(kind, rows, cols, n, w, lambda w: w)
    rows, cols = torch.cat([d, low_i, low_j]), torch.cat([d, low_j, low_i])
    sign = 1.0 if kind == "spd" else torch.tensor([1.0, -1.0] * n)[:n]
    diagonal = sign * (5.0 + torch.rand(n, generator=g, dtype=torch.float64))
    if kind == "symmetric":
        diagonal = diagonal * (1 + 0.3j) if dtype.is_complex else diagonal
        w = torch.cat([diagonal.to(dtype), off])
        return Small(kind, rows, cols, n, w, lambda w: torch.cat([w, w[n:]]))

    def hermitian(w):
        real = w[:n].real if w.is_complex() else w[:n]
        return torch.cat([real.to(w.dtype), w[n:], w[n:].conj_physical()])

    return Small(kind, rows, cols, n, torch.cat([diagonal.to(dtype), off]), hermitian)
