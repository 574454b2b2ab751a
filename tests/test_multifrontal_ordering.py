"""Orderings: permutations of every graph, no fill where none is needed, better than the textbook's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.spatial
from hypothesis import given, settings
from hypothesis import strategies as st

import sparse_solver.gallery as gallery
from sparse_solver import Pattern

pytest.importorskip("numba", reason="numba is not installed")

from sparse_solver.engines.multifrontal import ordering
from sparse_solver.engines.multifrontal.dissection import Dissection
from sparse_solver.engines.multifrontal.elimination import eliminate
from sparse_solver.engines.multifrontal.minimum_fill import minimum_fill
from sparse_solver.engines.multifrontal.twins import compressed


def symmetric(A):
    """The structure of A + A^T + I, for any SciPy matrix or array."""
    A = sp.csr_array(A).astype(bool)
    A = sp.csr_array(A + A.T + sp.eye_array(A.shape[0], dtype=bool))
    A.sort_indices()
    A.indptr, A.indices = A.indptr.astype(np.int64), A.indices.astype(np.int64)
    return A


def graph_of(A):
    """CSR without the diagonal."""
    apart = A.indices != np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))
    starts = np.concatenate([[0], np.cumsum(apart)])[A.indptr]
    return starts.astype(np.int64), A.indices[apart]


def forest_of(A):
    """The elimination of a structure by minimum fill, and the structure itself."""
    A = symmetric(A)
    return eliminate(A.indptr, A.indices, minimum_fill(*graph_of(A))[0]), A


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
    flops = minimum_fill(*graph_of(A))[1]
    if flops is None:
        assert n > 16  # an unknown with many neighbours
    else:
        assert forest.flops <= flops <= 1.5 * forest.flops


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


def planes(shape):
    """The order of a grid by planes across its longest side, as in the textbook."""

    def order(box):
        if box.size <= 30:
            return [box.ravel()]
        axis = int(np.argmax(box.shape))
        k = box.shape[axis] // 2
        low, middle, high = np.split(box, [k, k + 1], axis)
        return [*order(low), *order(high), middle.ravel()]

    return np.concatenate(order(np.arange(np.prod(shape)).reshape(shape)))


@pytest.mark.parametrize("shape", [(150, 150), (250, 250), (20, 20, 20), (10, 30, 30)])
def test_better_than_planes_and_than_minimum_fill_alone(shape):
    pattern = gallery.grid_laplacian(shape).pattern
    chosen = ordering.fill_reducing(pattern)
    indptr, indices = pattern.indptr, pattern.cols.numpy()
    alone = eliminate(indptr, indices, minimum_fill(*ordering._graph(pattern))[0])
    assert chosen.flops <= 0.75 * eliminate(indptr, indices, planes(shape)).flops
    expected = {(150, 150): 1.0, (250, 250): 0.8, (20, 20, 20): 0.55, (10, 30, 30): 0.7}
    assert chosen.flops <= expected[shape] * alone.flops


def points_in_space(n):
    """Delaunay's tetrahedra of random points, as a graph."""
    cells = scipy.spatial.Delaunay(np.random.default_rng(0).random((n, 3))).simplices
    i, j = cells[:, np.repeat(range(4), 4)], cells[:, np.tile(range(4), 4)]
    return sp.csr_array((np.ones(i.size), (i.ravel(), j.ravel())), shape=(n, n))


def test_meshes_without_order():
    forest, A = forest_of(points_in_space(6000))
    starts, neighbours = graph_of(A)
    other = eliminate(A.indptr, A.indices, ordering.nested_dissection(starts, neighbours, 300, 1))
    assert other.flops < 0.7 * forest.flops


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 60),
    st.floats(0, 0.3),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 3]),
    st.integers(1, 12),
)
def test_dissection_of_any_graph(n, density, seed, copies, leaf):
    """Separators separate, whatever is in between: nodes alike, several components, hubs, nothing."""
    random = np.random.default_rng(seed)
    dense = np.kron(random.random((n, n)) < density, np.ones((copies, copies), bool))
    if seed % 3 == 0 and n:
        dense[n // 2] = True
    if seed % 5 == 0:
        dense[: n // 2, n // 2 :] = dense[n // 2 :, : n // 2] = False
    A = symmetric(dense)
    n = A.shape[0]
    starts, neighbours = graph_of(A)
    for begun in (False, True):
        dissection = Dissection(starts, neighbours)
        if begun:
            dissection.begin()
        stage, group = dissection.finish(leaf, 1)
        early = stage == 0
        i, j = np.repeat(np.arange(n), np.diff(starts)), neighbours
        joined = early[i] & early[j]
        assert (group[i[joined]] == group[j[joined]]).all()
    order = ordering.nested_dissection(starts, neighbours, leaf, 2)
    assert sorted(order) == list(range(n))
    assert eliminate(A.indptr, A.indices, order).counts.sum() == fill_by_elimination(A, order)


@pytest.mark.parametrize("leaf", [1, 40])
@pytest.mark.parametrize("graph", [chain, star, tree])
def test_dissection_of_trees(graph, leaf):
    forest, A = forest_of(graph(700))
    order = ordering.nested_dissection(*graph_of(A), leaf, 1)
    assert eliminate(A.indptr, A.indices, order).counts.sum() <= 3 * forest.counts.sum()


def test_nodes_alike_are_one_in_dissections():
    mesh = sp.kron(chain(12), sp.eye_array(144)) + sp.kron(sp.eye_array(12), grid(12))
    A = symmetric(sp.kron(mesh + sp.eye_array(1728), np.ones((3, 3))))
    _, onto = compressed(*graph_of(A))
    assert (onto == np.repeat(np.arange(1728), 3)).all()


def grid(n):
    return sp.kron(chain(n), sp.eye_array(n)) + sp.kron(sp.eye_array(n), chain(n))


@pytest.mark.parametrize("shape", [(160, 160), (28, 28, 28)])
def test_threads_do_not_matter(shape, monkeypatch):
    """Also where dissection begins before it is known to pay."""
    monkeypatch.setattr(ordering, "_AHEAD", 1000)
    monkeypatch.setattr(ordering, "_LIGHT", 100.0)
    pattern = gallery.grid_laplacian(shape).pattern
    one, three = ordering.fill_reducing(pattern, 1), ordering.fill_reducing(pattern, 3)
    assert (one.order == three.order).all()
    flops = minimum_fill(*ordering._graph(pattern))[1]
    counted = eliminate(
        pattern.indptr, pattern.cols.numpy(), minimum_fill(*ordering._graph(pattern))[0]
    )
    assert counted.flops <= flops <= 1.01 * counted.flops


def test_graphs_without_separators_keep_minimum_fill():
    """Random graphs: dissection is tried, as there is much work, and does worse."""
    random = np.random.default_rng(3)
    i, j = random.integers(0, 2500, (2, 5000))
    keep = i != j
    A = sp.coo_array((np.ones(keep.sum()), (i[keep], j[keep])), shape=(2500, 2500))
    forest, A = forest_of(A)
    rows = np.repeat(np.arange(2500), np.diff(A.indptr))
    chosen = ordering.fill_reducing(Pattern(rows, A.indices, A.shape))
    assert forest.flops > ordering._LIGHT * 2500
    assert chosen.flops == forest.flops
