"""Batches by engines: right answers, shapes and outcomes, item by item."""

from __future__ import annotations

import pytest
import torch

import sparse_solver as ss

f64, c128 = torch.float64, torch.complex128


def full(n: int) -> ss.Pattern:
    return ss.Pattern(*torch.ones(n, n).nonzero().T, (n, n))


@pytest.mark.parametrize("complex_b", [False, True])
@pytest.mark.parametrize(
    ("batch", "n", "shape"),
    [
        ((2,), 2, (2,)),  # shapes in which a vector and a matrix can be mistaken for each other
        ((4,), 4, (4, 2)),
        ((3,), 5, (3, 5)),
        ((3,), 5, (5, 2)),
        ((2, 3), 4, (3, 4, 1)),
        ((), 3, (10, 3, 2)),
        ((), 3, (4, 5, 3, 2)),
    ],
)
@pytest.mark.parametrize("mode", [{}, {"transpose": True}, {"adjoint": True}], ids=str)
def test_shapes_are_those_of_torch_linalg_solve(batch, n, shape, complex_b, mode):
    A = ss.SparseMatrix(full(n), torch.randn(*batch, n * n, dtype=f64))
    b = torch.randn(*shape, dtype=c128 if complex_b else f64)
    D = A.to_dense().to(b.dtype)
    expected = torch.linalg.solve(D.mT if mode else D, b)
    for right in (b, b.conj()):
        x = ss.solve(A, right, **mode)
        true = expected if right is b else expected.conj()
        assert x.shape == true.shape
        assert torch.allclose(x, true)


def test_one_matrix_is_factored_once_for_a_batch_of_right_hand_sides(counts):
    A = ss.SparseMatrix(full(3), torch.randn(9, dtype=f64))
    b = torch.randn(10, 3, 2, dtype=f64)
    assert torch.allclose(ss.solve(A, b), torch.linalg.solve(A.to_dense(), b))
    ss.solve(A, b)
    assert counts.factorisations == 1


def test_gradients_of_a_batch():
    v = torch.randn(2, 9, dtype=f64, requires_grad=True)
    b = torch.randn(3, dtype=f64, requires_grad=True)
    P = full(3)
    assert torch.autograd.gradcheck(lambda v, b: ss.solve(ss.SparseMatrix(P, v), b), (v, b))
    u = torch.randn(9, dtype=f64, requires_grad=True)
    c = torch.randn(2, 3, 2, dtype=f64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u, c: ss.solve(ss.SparseMatrix(P, u), c), (u, c))


def test_empty_batches_and_empty_systems():
    P = full(3)
    none = ss.SparseMatrix(ss.Pattern([], [], (0, 0)), torch.zeros(3, 0))
    assert ss.solve(none, torch.zeros(3, 0)).shape == (3, 0)
    assert ss.factorize(torch.zeros(0, 0)).solve(torch.zeros(0)).shape == (0,)
    A = ss.SparseMatrix(P, torch.randn(2, 9, dtype=f64))
    c = torch.randn(3, dtype=f64)
    x = ss.solve(A, torch.randn(2, 3, dtype=f64), fixed=(torch.arange(3), c))
    assert torch.equal(x, c.expand(2, 3))
    x, info = ss.solve_ex(ss.SparseMatrix(P, torch.zeros(0, 9)), torch.zeros(0, 3))
    assert x.shape == (0, 3)
    assert info.shape == (0,)


def test_outcomes_by_item():
    values = torch.stack([torch.eye(3, dtype=f64), torch.ones(3, 3, dtype=f64)]).reshape(2, 9)
    A, b = ss.SparseMatrix(full(3), values), torch.ones(3, dtype=f64)
    x, info = ss.solve_ex(A, b)
    assert info[0] == 0 < info[1]
    assert torch.equal(x[0], b)
    assert x[1].isnan().all()
    F, info = ss.factorize_ex(A)
    assert info[0] == 0 < info[1]
    assert torch.equal(F.solve(b)[0], b)
    assert F.solve(b)[1].isnan().all()
    with pytest.raises(ss.SingularMatrixError, match="item 1") as error:
        ss.solve(A, b)
    assert error.value.item == 1


def test_batches_that_do_not_fit():
    A = ss.SparseMatrix(full(3), torch.randn(2, 9, dtype=f64))
    with pytest.raises(ValueError, match=r"\(2, 3, 3\).*\(4, 3, 1\)"):
        ss.solve(A, torch.randn(4, 3, 1, dtype=f64))


def test_items_are_indexed_never_nonzeros():
    A = ss.SparseMatrix(full(3), torch.randn(9, 9, dtype=f64))
    assert torch.equal(A[3].to_dense(), A.to_dense()[3])
    assert torch.equal(A[..., 0].to_dense(), A.to_dense()[0])
    assert torch.equal(A[2:4].to_dense(), A.to_dense()[2:4])


# ---- outcomes inside transforms ----

TRIDIAGONAL = ss.Pattern([0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 0], (3, 3))


def with_bad_items() -> tuple[torch.Tensor, torch.Tensor]:
    v = torch.randn(5, 6, dtype=f64)
    v[:, ::2] += 4
    v[2], v[3, 0] = 0, float("nan")
    return v, torch.randn(5, 3, dtype=f64)


def outcome(v, b, **options):
    return tuple(ss.solve_ex(TRIDIAGONAL.assemble(v), b, **options))


def masked(v, b):
    x, info = outcome(v, b)
    return torch.where(info == 0, x.square().sum(-1), 0.0).sum()


@pytest.mark.parametrize("options", [{}, {"adjoint": True}, {"fixed": ([1], torch.ones(1, dtype=f64))}])
def test_vmap_of_solve_ex_reports_by_item(options):
    v, b = with_bad_items()
    x, info = outcome(v, b, **options)
    assert info.tolist() == [0, 0, 1, 4, 0]
    y, same = torch.vmap(lambda v, b: outcome(v, b, **options))(v, b)
    assert torch.equal(info, same)
    assert torch.allclose(x, y, equal_nan=True)
    _, each = torch.vmap(torch.vmap(outcome, in_dims=(None, 0)), in_dims=(0, None))(v, b)
    assert torch.equal(each, info[:, None].expand(5, 5))
    _, none = torch.vmap(outcome, in_dims=(None, 0))(v[0], b)
    assert none.eq(0).all()


def test_gradients_of_solve_ex_inside_transforms():
    v, b = with_bad_items()
    w = v.clone().requires_grad_()
    x, info = outcome(w, b)
    (true,) = torch.autograd.grad(x[info == 0].square().sum(), w)
    assert true[2:4].eq(0).all()
    assert torch.allclose(torch.func.grad(masked)(v, b), true)
    assert torch.allclose(torch.vmap(torch.func.grad(masked))(v, b), true)
    compiled = torch.compile(masked, backend="aot_eager", fullgraph=True)
    assert torch.allclose(torch.autograd.grad(compiled(w, b), w)[0], true)


def test_a_bad_right_hand_side_inside_vmap_raises():
    v, b = with_bad_items()
    b[1] = float("nan")
    with pytest.raises(ss.errors.NonFiniteError, match="item 1"):
        torch.vmap(outcome)(v[:2], b[:2])


def test_several_failed_items_are_named_whatever_failed():
    v, b = with_bad_items()
    A = TRIDIAGONAL.assemble(v)
    with pytest.raises(ss.SingularMatrixError, match=r"item 2: .*1 more failed: item 3"):
        ss.solve(A, b)
    with pytest.raises(ValueError, match=r"item 0: A has 1 entries that are NaN"):
        ss.solve(A[3:], b[3:])


def test_a_right_hand_side_is_converted_before_it_is_repeated(monkeypatch):
    """One real b for many complex matrices, or one complex b for many real ones, stays one."""
    from sparse_solver.planning import BatchFactored

    seen = []
    inner = BatchFactored.solve
    monkeypatch.setattr(
        BatchFactored, "solve", lambda self, b, *a: seen.append(b.strides[0]) or inner(self, b, *a)
    )
    v = with_bad_items()[0][:2]
    b = torch.randn(3, dtype=f64)
    for A, right in ((v.to(c128) * 1j, b), (v, b * 1j), (v.to(c128), b * 1j)):
        M = TRIDIAGONAL.assemble(A)
        for mode in ({}, {"adjoint": True}):
            D = M.to_dense().mH if mode else M.to_dense()
            assert torch.allclose(
                ss.solve(M, right, **mode), torch.linalg.solve(D.to(c128), right.to(c128))
            )
    assert seen == [0] * 6


def test_lists_are_for_solving():
    As = [torch.eye(2), torch.eye(3)]
    for verb in (ss.factorize_ex, ss.logdet, ss.slogdet, ss.analyze):
        with pytest.raises(TypeError, match=r"list of 2.*for M in A"):
            verb(As)


def test_constraints_and_null_spaces_of_a_batch():
    A = ss.SparseMatrix(full(3), torch.randn(4, 9, dtype=f64))
    C, d, b = torch.randn(1, 3, dtype=f64), torch.randn(1, dtype=f64), torch.randn(4, 3, dtype=f64)
    for x in (ss.solve(A, b, constraints=(C, d)), ss.factorize(A, constraints=(C, d)).solve(b)):
        assert torch.allclose(x @ C.T, d.expand(4, 1))
    w = torch.rand(4, 1, dtype=f64) + 0.5
    L = torch.tensor([1.0, -1, 0, -1, 2, -1, 0, -1, 1], dtype=f64)
    N = ss.SparseMatrix(full(3), w * L)
    b = b - b.mean(-1, keepdim=True)
    x, info = ss.solve_ex(N, b, nullspace="constant")
    assert info.eq(0).all()
    assert torch.allclose(N @ x, b)
    assert x.sum(-1).abs().max() < 1e-12
