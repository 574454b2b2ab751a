"""Memory: the old factorisation is gone before the next one is made."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from cases import grid

import sparse_solver as ss
from sparse_solver.engines import REGISTRY


@pytest.mark.parametrize("assume", ["spd", "general"])
def test_two_factors_of_one_pattern_never_exist_at_once(monkeypatch, assume):
    engine = type(REGISTRY["rslab"])
    if REGISTRY["rslab"].why_not():
        pytest.skip("rslab is not installed")
    factorize, made, alive = engine.factorize, [], []

    def counting(self, symbolic, values, threads, recycle=None):
        alive.append(sum(ref() is not None for ref in made))
        numeric = factorize(self, symbolic, values, threads, recycle)
        made.append(weakref.ref(numeric))
        return numeric

    monkeypatch.setattr(engine, "factorize", counting)
    A = ss.SparseMatrix.from_scipy(grid(80))  # large enough for the supernodal paths
    b, method = torch.randn(A.shape[0], dtype=torch.float64), ss.Direct(engine="rslab")
    gc.disable()
    try:
        for step in range(4):
            v = (A.values * (1 + step)).requires_grad_()
            x = ss.solve(ss.SparseMatrix(A.pattern, v), b, assume=assume, method=method)
            x.sum().backward()
    finally:
        gc.enable()
    path = ss.factorize(A, assume=assume, method=method).info.path
    assert alive[:4] == ([0, 1, 1, 1] if path == "klu" else [0, 0, 0, 0])
