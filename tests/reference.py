"""What the answers should be, from dense torch only: nothing here shares code with the library."""

from __future__ import annotations

import re

import torch

LAYOUTS = ("coo", "uncoalesced", "csr", "csc", "bsr", "bsc")


def dense(rows, cols, values, n: int) -> torch.Tensor:
    """Triplets to a dense matrix by ``index_put``, which has derivatives of every order."""
    zero = torch.zeros(n, n, dtype=values.dtype)
    return zero.index_put((rows, cols), values, accumulate=True)


def op(D: torch.Tensor, adjoint: bool = False, transpose: bool = False) -> torch.Tensor:
    return D.mH if adjoint else D.mT if transpose else D


def inv_solve(D, b, adjoint: bool = False, transpose: bool = False) -> torch.Tensor:
    """A^-1 b. By ``inv``: nested forward mode through ``torch.linalg.solve`` drops A's part."""
    dtype = torch.promote_types(D.dtype, b.dtype)
    return torch.linalg.inv(op(D, adjoint, transpose)).to(dtype) @ b.to(dtype)


def wide(t: torch.Tensor) -> torch.Tensor:
    return t.detach().to(torch.complex128 if t.is_complex() else torch.float64)


def product(D: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """D @ x; small ones without BLAS, whose threads make thousands of tiny products slow."""
    if D.numel() * x.shape[1] < 1 << 15:
        return (D[:, :, None] * x).sum(1)
    return D @ x


def backward_errors(D, x, b) -> tuple[float, float]:
    """Normwise and componentwise backward error of D x = b, in double precision."""
    D, x, b = wide(D), wide(x), wide(b)
    dtype = torch.promote_types(D.dtype, torch.promote_types(x.dtype, b.dtype))
    D, x, b = D.to(dtype), x.to(dtype), b.to(dtype)
    if x.numel() == 0:
        return 0.0, 0.0
    if x.ndim == 1:
        x, b = x[:, None], b[:, None]
    r = (b - product(D, x)).abs()
    norm = r.amax(0) / (D.abs().sum(1).amax() * x.abs().amax(0) + b.abs().amax(0))
    comp = r / (product(D.abs(), x.abs()) + b.abs())
    return norm.nan_to_num(0.0).amax().item(), comp.nan_to_num(0.0).amax().item()


def assert_solves(D, x, b, adjoint: bool = False, transpose: bool = False) -> None:
    """Law 1: normwise backward error at most 1e3 eps, componentwise at most 1e7 eps."""
    assert x.shape == b.shape
    assert torch.isfinite(x.detach().abs()).all()
    eps = torch.finfo(x.dtype).eps
    norm, comp = backward_errors(op(D, adjoint, transpose), x, b)
    assert norm <= 1e3 * eps, f"normwise backward error {norm:.1e} = {norm / eps:.1e} eps"
    assert comp <= 1e7 * eps, f"componentwise backward error {comp:.1e} = {comp / eps:.1e} eps"


def surely_regular(D: torch.Tensor) -> bool:
    """Whether some scaling of rows and columns makes D well conditioned beyond all doubt."""
    A = wide(D).abs()
    best = 0.0
    for order in ((0, 1), (1, 0), (0,), (1,), ()):
        r, c = torch.ones_like(A[:, :1]), torch.ones_like(A[:1])
        for side in order:
            top = (r * A * c).amax(1 - side, keepdim=True)
            r, c = (r / top, c) if side == 0 else (r, c / top)
        best = max(best, 1 / torch.linalg.cond(r * wide(D) * c).item())
    return best > 1e3 * torch.finfo(D.dtype).eps


def to_layout(D: torch.Tensor, layout: str, index_dtype=torch.int64) -> torch.Tensor:
    """The same matrix in a torch layout; "uncoalesced" has each entry in two unequal parts."""
    if layout == "dense":
        return D.clone()
    if layout in ("coo", "uncoalesced"):
        i = D.nonzero().T
        v = D[i[0], i[1]]
        if layout == "coo":
            return torch.sparse_coo_tensor(i, v, D.shape).coalesce()
        i2 = torch.cat([i.flip(1), i], 1)
        return torch.sparse_coo_tensor(i2, torch.cat([3 * v.flip(0), -2 * v]), D.shape)
    if layout in ("bsr", "bsc"):
        block = (2, 2) if D.shape[0] % 2 == 0 and D.shape[0] else (1, 1)
        A = D.to_sparse_bsr(block) if layout == "bsr" else D.to_sparse_bsc(block)
    else:
        A = D.to_sparse_csr() if layout == "csr" else D.to_sparse_csc()
    if index_dtype == torch.int64:
        return A
    outer, inner = plain_indices(A)
    return torch.sparse_compressed_tensor(
        outer.to(index_dtype), inner.to(index_dtype), A.values(), A.shape, layout=A.layout
    )


def plain_indices(A: torch.Tensor) -> tuple[torch.Tensor, ...]:
    if A.layout == torch.sparse_coo:
        return (A._indices(),)
    if A.layout in (torch.sparse_csr, torch.sparse_bsr):
        return A.crow_indices(), A.col_indices()
    return A.ccol_indices(), A.row_indices()


def stored(A: torch.Tensor) -> torch.Tensor:
    """Where A stores an entry, as a dense mask."""
    A = A.detach()
    if A.layout == torch.sparse_coo:
        A = A.coalesce()
        ones = torch.ones_like(A.values(), dtype=torch.float64)
        return torch.sparse_coo_tensor(A.indices(), ones, A.shape).to_dense() != 0
    ones = torch.ones_like(A.values(), dtype=torch.float64)
    mask = torch.sparse_compressed_tensor(*plain_indices(A), ones, A.shape, layout=A.layout)
    return mask.to_dense() != 0


def assert_same_pattern(G: torch.Tensor, A: torch.Tensor) -> None:
    """A gradient lives in A's layout, on A's own nonzeros, in A's index dtype."""
    assert G.layout == A.layout
    assert G.dtype == A.dtype
    if A.layout == torch.sparse_coo:
        A, G = A.detach().coalesce(), G.coalesce()
    for g, a in zip(plain_indices(G), plain_indices(A), strict=True):
        assert g.dtype == a.dtype
        assert torch.equal(g, a)
    assert G.values().shape == A.values().shape


def assert_says(error: BaseException | str, *words: object) -> None:
    """The text has every word; a tuple is a shape, in any brackets."""
    text = str(error).lower()
    for word in words:
        if isinstance(word, tuple):
            numbers = r",\s*".join(map(str, word))
            assert re.search(rf"[\[(]{numbers},?[\])]", text), f"no shape {word} in: {text}"
        else:
            assert str(word).lower() in text, f"no {word!r} in: {text}"
