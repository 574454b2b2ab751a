"""Pattern: structure only, immutable, compared by content; and assembly on it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import assert_says

import sparse_solver as ss


@st.composite
def triplets(draw):
    n, m = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    positions = st.tuples(st.integers(0, n - 1), st.integers(0, m - 1))
    ij = draw(st.lists(positions, max_size=20))
    rows = torch.tensor([i for i, _ in ij], dtype=torch.int64)
    cols = torch.tensor([j for _, j in ij], dtype=torch.int64)
    return rows, cols, (n, m)


def dense(rows, cols, values, shape):
    zero = torch.zeros(*values.shape[:-1], *shape, dtype=values.dtype)
    return zero.index_put((rows, cols), values, accumulate=True)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(triplets())
def test_assembly_equals_dense_accumulation(given_triplets):
    rows, cols, shape = given_triplets
    P = ss.Pattern(rows, cols, shape)
    v = torch.randn(len(rows), dtype=torch.float64, requires_grad=True)
    A = P.assemble(v)
    assert P.nnz == len(set(zip(rows.tolist(), cols.tolist(), strict=True)))
    assert A.values.shape == (P.nnz,)
    assert torch.allclose(A.to_dense(), dense(rows, cols, v, shape))
    w = torch.randn(shape, dtype=torch.float64)
    (g,) = torch.autograd.grad((A.to_dense() * w).sum(), v)
    assert torch.equal(g, w[rows, cols])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(triplets(), st.randoms(use_true_random=False))
def test_equality_and_hash_do_not_see_the_order(given_triplets, random):
    rows, cols, shape = given_triplets
    P = ss.Pattern(rows, cols, shape)
    order = list(range(len(rows)))
    random.shuffle(order)
    order += order[: len(order) // 2]  # and some of them twice
    Q = ss.Pattern(rows[order], cols[order], shape)
    assert P == Q
    assert hash(P) == hash(Q)
    assert P.nnz == Q.nnz
    assert torch.equal(P.rows, Q.rows)
    assert torch.equal(P.cols, Q.cols)


def test_canonical_means_row_major_and_unique():
    P = ss.Pattern([2, 0, 0, 2, 0], [1, 3, 1, 1, 3], (3, 4))
    assert P.rows.tolist() == [0, 0, 2]
    assert P.cols.tolist() == [1, 3, 1]
    A = P.assemble(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert A.values.tolist() == [3.0, 7.0, 5.0]


def test_different_structures_differ():
    P = ss.Pattern([0, 1], [0, 1], (2, 2))
    for other in (
        ss.Pattern([0, 1], [1, 0], (2, 2)),
        ss.Pattern([0, 1], [0, 1], (2, 3)),
        ss.Pattern([0], [0], (2, 2)),
        "P",
    ):
        assert P != other
    assert len({P, ss.Pattern([1, 0], [1, 0], (2, 2))}) == 1


def test_the_callers_arrays_stay_his():
    rows, cols = torch.tensor([0, 1, 2]), np.array([0, 1, 2])
    P = ss.Pattern(rows, cols, (3, 3))
    before = hash(P)
    rows[0] = 2
    cols[0] = 1
    assert P == ss.Pattern([0, 1, 2], [0, 1, 2], (3, 3))
    assert hash(P) == before


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8, torch.int32, list])
def test_integers_of_any_kind(kind):
    i = [1, 0, 1]
    if kind is list:
        rows = i
    elif isinstance(kind, torch.dtype):
        rows = torch.tensor(i, dtype=kind)
    else:
        rows = np.array(i, dtype=kind)
    assert ss.Pattern(rows, rows, (2, 2)) == ss.Pattern([0, 1], [0, 1], (2, 2))


@pytest.mark.parametrize(
    ("rows", "cols", "shape", "error", "words"),
    [
        ([0, 3], [0, 0], (3, 3), ValueError, ["rows[1] = 3", "out of range", (3, 3)]),
        ([0, 1], [0, -1], (3, 3), ValueError, ["cols[1] = -1", "out of range"]),
        ([0, 1], [0, 5], (9, 5), ValueError, ["cols[1] = 5", (9, 5)]),
        ([0, 1], [0], (3, 3), ValueError, ["2", "1"]),
        ([[0]], [[0]], (3, 3), ValueError, ["one-dimensional", (1, 1)]),
        ([0.5], [0], (3, 3), TypeError, ["integers", "float64"]),
        ([True], [0], (3, 3), TypeError, ["integers", "bool"]),
        ([0], [0], (3,), ValueError, ["shape"]),
        ([0], [0], 3, ValueError, ["shape"]),
        ([], [], (-1, 2), ValueError, ["negative"]),
    ],
)
def test_wrong_arguments(rows, cols, shape, error, words):
    with pytest.raises(error) as info:
        ss.Pattern(rows, cols, shape)
    assert_says(info.value, *words)


def test_wrong_number_of_values():
    P = ss.Pattern([0, 0, 1], [0, 0, 1], (2, 2))
    with pytest.raises(ValueError) as info:
        P.assemble(torch.ones(2))
    assert_says(info.value, (2,), "3")
    with pytest.raises(ValueError) as info:
        ss.SparseMatrix(P, torch.ones(3))
    assert_says(info.value, (3,), "2", "assemble")


def test_empty_and_rectangular():
    none = torch.zeros(0, dtype=torch.int64)
    for shape in ((0, 0), (3, 0), (0, 2), (4, 2)):
        A = ss.Pattern(none, none, shape).assemble(torch.zeros(0))
        assert torch.equal(A.to_dense(), torch.zeros(shape))
    P = ss.Pattern([1, 0], [0, 2], (2, 3))
    assert P.assemble(torch.tensor([1.0, 2.0])).to_dense().tolist() == [[0, 0, 2], [1, 0, 0]]


def test_pickling_keeps_the_map_from_triplets():
    rows, cols = torch.tensor([2, 0, 2, 1]), torch.tensor([0, 1, 0, 1])
    P = ss.Pattern(rows, cols, (3, 3))
    Q = pickle.loads(pickle.dumps(P))
    assert P == Q
    assert hash(P) == hash(Q)
    v = torch.randn(4, dtype=torch.float64)
    assert torch.equal(P.assemble(v).to_dense(), Q.assemble(v).to_dense())


def test_a_batch_of_values_assembles():
    rows, cols = torch.tensor([1, 0, 1]), torch.tensor([0, 1, 0])
    P = ss.Pattern(rows, cols, (2, 2))
    v = torch.randn(4, 3, dtype=torch.float64)
    each = torch.stack([P.assemble(u).values for u in v])
    assert torch.equal(P.assemble(v).values, each)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_assembly_has_derivatives_of_every_order(dtype):
    rows, cols = torch.tensor([1, 0, 1, 2, 2]), torch.tensor([0, 1, 0, 2, 2])
    P = ss.Pattern(rows, cols, (3, 3))
    v = torch.randn(5, dtype=dtype, requires_grad=True)

    def f(v):
        return P.assemble(v).values ** 3

    assert torch.autograd.gradcheck(f, v, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, v, check_fwd_over_rev=True, check_rev_over_rev=True)
    if not dtype.is_complex:
        J = torch.tensor([[0, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 0, 0, 1, 1]], dtype=dtype)
        for transform in (torch.func.jacrev, torch.func.jacfwd):
            assert torch.equal(transform(lambda v: P.assemble(v).values)(v), J)
    values = torch.randn(4, 5, dtype=dtype)
    assert torch.allclose(torch.func.vmap(f)(values), torch.stack([f(u) for u in values]))


def test_from_torch_sees_stored_zeros():
    i = torch.tensor([[0, 1], [1, 1]])
    A = torch.sparse_coo_tensor(i, torch.tensor([0.0, 2.0]), (2, 2))
    assert ss.Pattern.from_torch(A) == ss.Pattern([0, 1], [1, 1], (2, 2))
    assert ss.Pattern.from_torch(A.to_dense()) == ss.Pattern([1], [1], (2, 2))
