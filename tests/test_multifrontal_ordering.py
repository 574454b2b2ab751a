"""Minimum fill: a permutation for every graph, no fill where none is needed, as good as dissection."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import sparse_solver.gallery as gallery

pytest.importorskip("numba", reason="numba is not installed")

from sparse_solver.engines.multifrontal import ordering
from sparse_solver.engines.multifrontal.elimination import eliminate
from sparse_solver.engines.multifrontal.minimum_fill import minimum_fill


def forest_of(A, order=None):
    """The elimination of a symmetric structure (any SciPy matrix) and the structure itself, full."""
    A = sp.csr_array(A).astype(bool)
    A = sp.csr_array(A + A.T + sp.eye_array(A.shape[0], dtype=bool))
    A.sort_indices()
    B = A.copy().tolil()
    B.setdiag(False)
    B = sp.csr_array(B)
    if order is None:
        order = minimum_fill(B.indptr.astype(np.int64), B.indices.astype(np.int64))
    return eliminate(A.indptr.astype(np.int64), A.indices.astype(np.int64), order), A


def fill_by_elimination(A, order):
    """Nonzeros of L, by eliminating node after node in sets."""
    neighbours = [set(A.indices[A.indptr[i] : A.indptr[i + 1]]) - {i} for i in range(A.shape[0])]
    count = 0
    for i in order:
        count += 1 + len(neighbours[i])
        for j in neighbours[i]:
            neighbours[j] |= neighbours[i]
            neighbours[j] -= {i, j}
    return count


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.floats(0, 0.6), st.integers(0, 2**32 - 1), st.booleans())
def test_any_graph(n, density, seed, hub):
    random = np.random.default_rng(seed)
    dense = random.random((n, n)) < density
    if hub and n:
        dense[n // 2] = True
    forest, A = forest_of(sp.csr_array(dense))
    assert sorted(forest.order) == list(range(n))
    assert forest.counts.sum() == fill_by_elimination(A, forest.order)


def chain(n):
    return sp.diags_array(np.ones(n - 1), offsets=1, shape=(n, n))


def star(n):
    A = sp.lil_array((n, n))
    A[0, :] = 1
    return A


def tree(n):
    parents = [(i - 1) // 3 for i in range(1, n)]
    return sp.coo_array((np.ones(n - 1), (np.arange(1, n), parents)), shape=(n, n))


@pytest.mark.parametrize("graph", [chain, star, tree])
def test_trees_do_not_fill(graph):
    n = 2000
    forest, _ = forest_of(graph(n))
    assert forest.counts.sum() == 2 * n - 1


def test_equal_neighbours_are_one_unknown():
    """Three unknowns at each node of a mesh fill in as one at each node does."""
    mesh = sp.kron(chain(30), sp.eye_array(30)) + sp.kron(sp.eye_array(30), chain(30))
    single, _ = forest_of(mesh)
    triple, _ = forest_of(sp.kron(mesh + sp.eye_array(900), np.ones((3, 3))))
    assert triple.counts.sum() < 11 * single.counts.sum()


@pytest.mark.parametrize(
    ("shape", "tried"), [((150, 150), False), ((40, 200), False), ((20, 20, 20), True)]
)
def test_as_good_as_dissection(shape, tried, monkeypatch):
    """In the plane at a tenth of its cost; in space dissection is asked, and taken if it is better."""
    pytest.importorskip("pymetis", reason="pymetis is not installed")
    pattern = gallery.grid_laplacian(shape).pattern
    asked = []
    dissection = ordering._dissection

    def counted(*graph):
        asked.append(graph)
        return dissection(*graph)

    monkeypatch.setattr(ordering, "_dissection", counted)
    chosen = ordering.fill_reducing(pattern)
    assert len(asked) == tried
    other = eliminate(pattern.indptr, pattern.cols.numpy(), dissection(*ordering._graph(pattern)))
    assert chosen.flops <= (1.0 if tried else 1.3) * other.flops


def test_without_metis(monkeypatch):
    """What METIS cannot do, minimum fill does."""
    pattern = gallery.grid_laplacian((15, 15, 15)).pattern
    monkeypatch.setitem(sys.modules, "pymetis", None)
    assert ordering._dissection(*ordering._graph(pattern)) is None
    assert sorted(ordering.fill_reducing(pattern).order) == list(range(15**3))
