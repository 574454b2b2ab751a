"""The laws of the engine contract for the multifrontal engine, on structures of every sort and size.

The small table of `cases` is run by test_laws.py; here are long chains, hubs, arrows, forests, dense
matrices and three-dimensional grids, with fronts of all the sizes that are treated apart.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from definite import (
    EPS,
    METHOD,
    STRUCTURES,
    backward_error,
    each_dtype,
    factored,
    matrix,
    needs_engine,
    rescaled,
)
from scipy.sparse.linalg import splu

import sparse_solver as ss

pytestmark = needs_engine
each_structure = pytest.mark.parametrize("name", STRUCTURES)


def rhs(A: ss.SparseMatrix, *shape: int) -> torch.Tensor:
    return torch.randn(A.shape[0], *shape, dtype=A.dtype)


@each_structure
@each_dtype
def test_1_the_answer_is_accurate(name, dtype):
    A = matrix(name, dtype)
    words = ("auto", "spd", "hermitian" if dtype.is_complex else "symmetric")
    for word, k in zip(words, ((), (3,), (1,)), strict=True):
        F = ss.factorize(A, assume=word, method=METHOD)
        assert F.info.engine == "multifrontal"
        assert F.info.inertia == (A.shape[0], 0, 0)
        b = rhs(A, *k)
        for mode, M in (({}, A), ({"transpose": True}, A.mT), ({"adjoint": True}, A.mH)):
            x = F.solve(b, **mode)
            assert (x.dtype, x.shape) == (dtype, b.shape)
            assert backward_error(M, x, b) <= 1e3 * EPS[dtype]
            assert F.info.iterations == 0  # by itself, not by refinement


@each_structure
@each_dtype
def test_2_the_adjoint_is_the_adjoint(name, dtype):
    A = matrix(name, dtype)
    F = ss.factorize(A, method=METHOD)
    b, c = rhs(A), rhs(A)
    x, y = F.solve(b), F.solve(c, adjoint=True)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    left, right = torch.vdot(c.to(wide), x.to(wide)), torch.vdot(y.to(wide), b.to(wide))
    norm = np.abs(A.to_scipy()).sum(axis=1).max()
    size = x.norm() * c.norm() + norm * x.norm() * y.norm()
    assert (left - right).abs() <= 100 * EPS[dtype] * size


@each_structure
@each_dtype
def test_3_and_4_new_values_as_from_fresh_and_old_factors_as_before(name, dtype):
    A = matrix(name, dtype)
    b = rhs(A, 2)
    plan = ss.analyze(A, method=METHOD)
    first = plan.factorize(A)
    before = first.solve(b)
    for seed in (1, 2):
        new = rescaled(A, seed)
        kept = plan.factorize(new).solve(b)
        assert torch.equal(kept, ss.factorize(new, method=METHOD).solve(b))
        assert backward_error(new, kept, b) <= 1e3 * EPS[dtype]
    assert torch.equal(first.solve(b), before)


@each_structure
@each_dtype
def test_9_the_same_bits_twice_and_nothing_changed(name, dtype):
    A = matrix(name, dtype)
    b = rhs(A, 2)
    kept = A.values.clone(), b.clone()
    method = ss.Direct(engine="multifrontal", reuse=False)
    x = ss.solve(A, b, method=method)
    assert torch.equal(x, ss.solve(A, b, method=method))
    assert torch.equal(A.values, kept[0])
    assert torch.equal(b, kept[1])


@pytest.mark.parametrize("name", [n for n in STRUCTURES if n != "grid_22_3d"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["float64", "complex128"])
def test_as_superlu_has_it(name, dtype):
    """Another code altogether, also where no dense reference can be made."""
    A = matrix(name, dtype)
    lu = splu(A.to_scipy().tocsc())
    numeric = factored(A, 2)
    sign, logabs = numeric.slogdet()
    true = np.log(np.abs(lu.U.diagonal())).sum()
    assert sign == 1
    assert abs(logabs - true) <= 1e-10 * max(1.0, abs(true))
    Z = numeric.selected_inverse()
    rows, cols = A.pattern.rows.numpy(), A.pattern.cols.numpy()
    for j in np.random.default_rng(0).integers(0, A.shape[0], 8):
        column = lu.solve(np.eye(A.shape[0], 1, -j, dtype=A.values.numpy().dtype)[:, 0])
        at = np.flatnonzero(cols == j)
        assert np.abs(Z[at] - column[rows[at]]).max() <= 1e-9 * np.abs(column).max()
