"""Gaussian densities with a sparse precision, and torch's distribution of that kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import BY_NAME
from conformance import system
from reference import assert_says
from small import EXACT, small
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import MultivariateNormal, kl_divergence

import sparse_solver as ss

f64 = torch.float64
each_exact = pytest.mark.parametrize("dtype", EXACT, ids=["float64", "complex128"])


@each_exact
@pytest.mark.parametrize(
    ("batch", "shape", "mean"),
    [
        ((), (), None),
        ((), (5,), ()),
        ((), (2, 3), (3,)),
        ((3,), (3,), ()),
        ((3,), (2, 1), (3,)),
        ((2, 3), (), None),
    ],
)
def test_log_prob(batch, shape, mean, dtype):
    S = small("spd", dtype)
    W = S.w + 0.1 * torch.randn(*batch, len(S.w), dtype=dtype)
    values = torch.stack([S.values(w) for w in W.reshape(-1, len(S.w))]).reshape(*batch, -1)
    A = S.pattern.assemble(values)
    x = torch.randn(*shape, 4, dtype=dtype)
    m = None if mean is None else torch.randn(*mean, 4, dtype=dtype)
    got = ss.gaussian_log_prob(A, x, m)
    r = x if m is None else x - m
    D = A.to_dense()
    square = torch.einsum("...i,...ij,...j->...", r.conj(), D, r).real
    log = torch.linalg.slogdet(D)[1]
    if dtype.is_complex:
        true = log - 4 * np.log(np.pi) - square
    else:
        true = (log - 4 * np.log(2 * np.pi) - square) / 2
    assert got.dtype == f64
    assert got.shape == true.shape
    assert torch.allclose(got, true)


@each_exact
def test_log_prob_gradcheck(dtype, counts):
    S = small("spd", dtype, n=3)
    x, m = (torch.randn(2, 3, dtype=dtype, requires_grad=True) for _ in range(2))

    def f(w, x, m):
        return ss.gaussian_log_prob(S.matrix(w), x, m)

    f(S.param(), x, m).sum().backward()
    assert counts.factorisations == 1
    assert gradcheck(f, (S.param(), x, m), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(f, (S.param(), x, m))


def test_log_prob_refuses():
    A = torch.eye(3, dtype=f64)
    with pytest.raises(ValueError) as info:
        ss.gaussian_log_prob(A, torch.zeros(4, dtype=f64))
    assert_says(info.value, (3, 3), (4,))
    with pytest.raises(TypeError):
        ss.gaussian_log_prob(A, torch.zeros(3))
    with pytest.raises(ss.NotPositiveDefiniteError):
        ss.gaussian_log_prob(-A, torch.zeros(3, dtype=f64))


def test_the_distribution(counts):
    A, D, _ = system(BY_NAME["spd_grid"], f64)
    A = A.requires_grad_()
    mean = torch.randn(49, dtype=f64, requires_grad=True)
    field = ss.GaussianMarkovRandomField(A, mean)
    true = MultivariateNormal(mean, precision_matrix=A.to_dense())
    x = torch.randn(5, 49, dtype=f64)
    for got, expected in (
        (field.log_prob(x), true.log_prob(x)),
        (field.entropy(), true.entropy()),
        (field.variance, true.variance),
        (field.stddev, true.stddev),
        (field.mean, true.mean),
    ):
        assert torch.allclose(got, expected)
    assert field.rsample((2, 3)).shape == (2, 3, 49)
    assert field.batch_shape == ()
    assert field.event_shape == (49,)
    (field.rsample((4,)).square().mean() + field.log_prob(x).sum() + field.entropy()).backward()
    assert A.values.grad is not None
    assert mean.grad is not None
    assert not field.sample().requires_grad
    assert counts.factorisations <= 2
    assert "GaussianMarkovRandomField" in repr(field)
    with pytest.raises(ValueError):
        field.log_prob(torch.zeros(3, dtype=f64))
    with pytest.raises(ValueError):
        ss.GaussianMarkovRandomField(A, torch.zeros(3, dtype=f64))
    with pytest.raises(ss.NotPositiveDefiniteError):
        ss.GaussianMarkovRandomField(A.detach() * -1)
    with pytest.raises(NotImplementedError):
        kl_divergence(field, field)


def test_a_distribution_with_batches():
    S = small("spd")
    values = torch.stack([S.values(S.w), 2 * S.values(S.w)])
    field = ss.GaussianMarkovRandomField(S.pattern.assemble(values), torch.zeros(5, 2, 4, dtype=f64))
    assert field.batch_shape == (5, 2)
    assert field.rsample((3,)).shape == (3, 5, 2, 4)
    assert field.log_prob(torch.zeros(4, dtype=f64)).shape == (5, 2)
    assert field.entropy().shape == (5, 2)
    assert field.variance.shape == (5, 2, 4)
    assert field.mean.shape == (5, 2, 4)
    with pytest.raises(NotImplementedError):
        one = ss.GaussianMarkovRandomField(
            ss.SparseMatrix(S.pattern, S.pattern.assemble(values).values[:1]),
            torch.zeros(2, 4, dtype=f64),
        )
        one.rsample()


def test_a_distribution_owns_its_values():
    S = small("spd")
    A = S.matrix(S.w)
    field = ss.GaussianMarkovRandomField(A)
    before = field.log_prob(torch.ones(4, dtype=f64))
    A.values.mul_(2)
    assert torch.equal(before, field.log_prob(torch.ones(4, dtype=f64)))
