"""SparseMatrix: conversions, products, views and sums against dense."""

from __future__ import annotations

import copy
import pickle

import pytest
import scipy.sparse as sp
import torch
from conformance import each_dtype
from reference import LAYOUTS, assert_same_pattern, assert_says, to_layout

import sparse_solver as ss


def random_dense(n: int, m: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(n, m, dtype=dtype) * (torch.rand(n, m) < 0.5)


def matrix(n: int, m: int, dtype=torch.float64, grad: bool = False):
    D = random_dense(n, m, dtype)
    A = ss.SparseMatrix.from_torch(D.to_sparse_coo())
    v = A.values.detach().clone().requires_grad_(grad)
    return ss.SparseMatrix(A.pattern, v), D


@each_dtype
@pytest.mark.parametrize("layout", ["dense", *LAYOUTS])
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=["int32", "int64"])
def test_from_torch(layout, index_dtype, dtype):
    D = random_dense(6, 6, dtype)
    A = to_layout(D, layout, index_dtype).detach().requires_grad_()
    S = ss.SparseMatrix.from_torch(A)
    assert S.shape == (6, 6)
    assert S.dtype == dtype
    assert torch.allclose(S.to_dense(), D)
    W = torch.randn(6, 6, dtype=dtype)
    # (torch's .backward() cannot accumulate into CSC, BSR and BSC leaves: use autograd.grad)
    (G,) = torch.autograd.grad((S.to_dense() * W).sum().real, A)
    if layout != "dense":
        assert_same_pattern(G, A)
    there = D != 0
    assert torch.allclose(G.to_dense()[there], W.conj()[there])


@pytest.mark.parametrize("layout", LAYOUTS[2:])
def test_from_torch_rectangular(layout):
    D = random_dense(4, 6)
    S = ss.SparseMatrix.from_torch(
        {"bsr": lambda: D.to_sparse_bsr((2, 3)), "bsc": lambda: D.to_sparse_bsc((2, 3))}.get(
            layout, lambda: to_layout(D, layout)
        )()
    )
    assert torch.equal(S.to_dense(), D)


@each_dtype
@pytest.mark.parametrize(
    "layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.strided]
)
def test_to_torch(layout, dtype):
    # torch itself refuses a graph through the constructors of complex compressed tensors
    grad = layout in (torch.strided, torch.sparse_coo) or not dtype.is_complex
    A, D = matrix(5, 4, dtype, grad=grad)
    T = A.to_torch(layout)
    assert T.layout == layout
    assert T.dtype == dtype
    assert torch.equal(T.to_dense(), D)
    if layout == torch.strided:
        T.abs().sum().backward()
        assert torch.allclose(A.values.grad, A.values.detach().sgn())


def test_to_torch_of_an_unknown_layout():
    A, _ = matrix(3, 3)
    with pytest.raises(ValueError) as info:
        A.to_torch("csr")
    assert_says(info.value, "layout", "sparse_csr")


@each_dtype
def test_scipy_round_trip(dtype):
    A, D = matrix(5, 4, dtype)
    S = A.to_scipy()
    assert sp.issparse(S)
    assert torch.equal(torch.from_numpy(S.toarray()), D)
    for form in ("csr", "csc", "coo", "bsr", "lil", "dia"):
        for wrap in (sp.csr_array, sp.csr_matrix):
            B = ss.SparseMatrix.from_scipy(wrap(S).asformat(form))
            assert B.dtype == dtype
            assert torch.equal(B.to_dense(), D)
    S.data[:] = 0
    assert torch.equal(A.to_dense(), D)  # a copy


def test_scipy_duplicates_add_up():
    S = sp.coo_matrix(([1.0, 2.0, 3.0], ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    assert ss.SparseMatrix.from_scipy(S).to_dense().tolist() == [[0, 3], [3, 0]]


@pytest.mark.parametrize("upper", [False, True])
@each_dtype
def test_from_triangle(dtype, upper):
    D = random_dense(5, 5, dtype)
    half = D.triu() if upper else D.tril()
    off = half - torch.diag(half.diagonal())
    given = half.to_sparse_coo().requires_grad_()
    for hermitian in (False, True):
        A = ss.SparseMatrix.from_triangle(given, hermitian=hermitian)
        assert torch.allclose(A.to_dense(), half + (off.mH if hermitian else off.mT))
    (g,) = torch.autograd.grad(A.to_dense().abs().square().sum(), given)
    weight = torch.where(off != 0, 4.0, 2.0)
    assert torch.allclose(g.to_dense(), (weight * half).to(dtype))
    if dtype.is_complex:
        with pytest.raises(ValueError, match="hermitian"):
            ss.SparseMatrix.from_triangle(given)
    else:
        assert torch.equal(ss.SparseMatrix.from_triangle(given).to_dense(), half + off.mT)


def test_from_triangle_of_a_whole_matrix():
    A, _ = matrix(5, 5)
    with pytest.raises(ValueError, match="triangle"):
        ss.SparseMatrix.from_triangle(A)


@each_dtype
@pytest.mark.parametrize("shape", [(5, 5), (3, 6), (6, 3)])
def test_products(shape, dtype):
    A, D = matrix(*shape, dtype)
    x, X = torch.randn(shape[1], dtype=dtype), torch.randn(shape[1], 4, dtype=dtype)
    tol = {"rtol": 100 * torch.finfo(dtype).eps, "atol": 100 * torch.finfo(dtype).eps}
    assert torch.allclose(A @ x, D @ x, **tol)
    assert torch.allclose(A @ X, D @ X, **tol)
    assert (A @ X[:, :1]).shape == (shape[0], 1)
    assert (A @ X[:, :0]).shape == (shape[0], 0)
    y = torch.randn(shape[0], dtype=dtype)
    for M, T in ((A.T, D.T), (A.mT, D.mT), (A.H, D.mH), (A.mH, D.mH)):
        assert M.shape == T.shape
        assert torch.allclose(M @ y, T @ y, **tol)
        assert torch.equal(M.to_dense(), T.resolve_conj())


def test_a_product_of_the_wrong_size():
    A, _ = matrix(3, 6)
    for bad in ((3,), (5, 2)):
        with pytest.raises(ValueError) as info:
            A @ torch.ones(bad, dtype=torch.float64)
        assert_says(info.value, (3, 6), bad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_derivatives_of_everything(dtype):
    P = ss.Pattern([0, 0, 1, 2, 2], [0, 2, 1, 0, 2], (3, 3))
    Q = ss.Pattern([0, 1, 2], [1, 1, 2], (3, 3))
    v, w, d = (torch.randn(k, dtype=dtype, requires_grad=True) for k in (5, 3, 3))
    x = torch.randn(3, 2, dtype=dtype, requires_grad=True)

    def f(v, w, d, x):
        A, B = ss.SparseMatrix(P, v), ss.SparseMatrix(Q, w)
        C = (2.0 * A + B).add_diagonal(d)
        return C @ x, C.H @ x[:, 0], C.diagonal(), C.T.values

    inputs = (v, w, d, x)
    assert torch.autograd.gradcheck(f, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, inputs)


@each_dtype
def test_views_of_views(dtype):
    A, D = matrix(4, 5, dtype)
    assert torch.equal(A.T.T.to_dense(), D)
    assert torch.equal(A.H.H.to_dense(), D)
    assert torch.equal(A.T.H.to_dense(), D.conj().resolve_conj())
    assert torch.equal(A.H.T.to_dense(), D.conj().resolve_conj())
    assert torch.equal((2 * A.T).to_dense(), 2 * D.T)
    assert torch.equal((A.H + A.H).to_dense(), 2 * D.mH)
    assert A.H.dtype == dtype


@each_dtype
def test_sums_and_scalings(dtype):
    A, D = matrix(5, 5, dtype)
    B, E = matrix(5, 5, dtype)
    assert torch.allclose((A + B).to_dense(), D + E)
    assert torch.allclose((A + A).to_dense(), D + D)
    assert (A + A).pattern == A.pattern
    s = torch.tensor(1.5, dtype=dtype, requires_grad=True)
    for factor in (1.5, s):
        assert torch.allclose((factor * A).to_dense(), 1.5 * D)
        assert torch.allclose((A * factor).to_dense(), 1.5 * D)
    (g,) = torch.autograd.grad((s * A).values.abs().square().sum(), s)
    assert torch.allclose(g, (3 * D.abs().square().sum()).to(dtype), rtol=1e-4)
    with pytest.raises(ValueError) as info:
        A + matrix(4, 5, dtype)[0]
    assert_says(info.value, (5, 5), (4, 5))


def test_diagonals():
    A, D = matrix(5, 5)
    d = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.equal(A.diagonal(), D.diagonal())
    assert torch.allclose(A.add_diagonal(d).to_dense(), D + torch.diag(d))
    assert torch.allclose(A.add_diagonal(2.0).to_dense(), D + 2 * torch.eye(5))
    assert matrix(3, 5)[0].diagonal().shape == (3,)
    (g,) = torch.autograd.grad(A.add_diagonal(d).diagonal().square().sum(), d)
    assert torch.allclose(g, 2 * (D.diagonal() + d.detach()))


def test_tensor_manners():
    A, D = matrix(4, 4, grad=True)
    assert A.requires_grad
    assert not A.detach().requires_grad
    B = A.detach().requires_grad_()
    assert B.requires_grad
    assert B.values.is_leaf
    C = A.to(torch.complex64)
    assert C.dtype == torch.complex64
    assert C.requires_grad
    assert A.to(torch.float64).dtype == torch.float64
    assert A.to("cpu").device == A.device == torch.device("cpu")
    assert torch.equal(A.detach().to_dense(), D)
    assert "4, 4" in repr(A)


def test_pickling_and_copies():
    A, D = matrix(4, 4)
    for B in (pickle.loads(pickle.dumps(A)), copy.deepcopy(A), copy.copy(A)):
        assert B.pattern == A.pattern
        assert torch.equal(B.to_dense(), D)
    assert torch.equal(pickle.loads(pickle.dumps(A.T)).to_dense(), D.T)


def test_it_is_a_pytree_of_its_values():
    from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

    A, D = matrix(4, 4)
    leaves, spec = tree_flatten({"A": A, "b": 1})
    assert len(leaves) == 2
    assert leaves[0] is A.values
    again = tree_unflatten(leaves, spec)["A"]
    assert torch.equal(again.to_dense(), D)
    doubled = tree_map(lambda t: 2 * t, A)
    assert torch.equal(doubled.to_dense(), 2 * D)
    assert spec == tree_flatten({"A": A.detach(), "b": 1})[1]
    assert len(tree_flatten(A.T)[0]) == 1
    H = tree_map(lambda t: t, ss.SparseMatrix(A.pattern, A.values.to(torch.complex128) * 1j).H)
    assert torch.equal(H.to_dense(), (1j * D).mH.resolve_conj())


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (torch.sparse_coo_tensor([[0], [0]], torch.ones(1, 2), (3, 3, 2)), ValueError),
        (torch.ones(3), ValueError),
    ],
    ids=["hybrid", "vector"],
)
def test_what_is_no_matrix(bad, error):
    with pytest.raises(error) as info:
        ss.SparseMatrix.from_torch(bad)
    assert_says(info.value, tuple(bad.shape))
