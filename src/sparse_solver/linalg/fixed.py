"""Prescribed unknowns: A x = b with x given at some indices.

With c the prescribed and f the free unknowns, A_ff x_f = b_f - A_fc x_c. Everything here is
picking and placing of entries, so derivatives in A, b and the prescribed values follow by themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..matrix import Pattern, SparseMatrix
from ..matrix.gather import Slots, gather
from ..matrix.plain import outside_transforms
from ..matrix.products import multiply

__all__ = ["Reduction", "check_indices", "read_fixed"]

_KEPT = 64  # reductions of one pattern
_names = itertools.count()


class Reduction:
    """How one pattern splits when the unknowns `fixed` are prescribed.

    Attributes
    ----------
    pattern : Pattern
        Of A_ff, shape (n - m, n - m).
    free, fixed : LongTensor
        Unknowns of each sort.
    """

    def __init__(self, whole: Pattern, fixed: Tensor) -> None:
        n = whole.shape[0]
        is_fixed = np.zeros(n, dtype=bool)
        is_fixed[fixed.numpy()] = True
        self.content = fixed.numpy().tobytes()
        self.fixed, self.free = fixed, torch.from_numpy(np.flatnonzero(~is_fixed))
        self._order = torch.empty(n, dtype=torch.int64, device="cpu")
        self._order[torch.cat([self.free, self.fixed])] = torch.arange(n, device="cpu")
        place = np.empty(n, dtype=np.int64)
        place[self.free.numpy()] = np.arange(len(self.free))
        place[fixed.numpy()] = np.arange(len(fixed))
        rows, cols = whole.rows.numpy(), whole.cols.numpy()
        inner = np.flatnonzero(~is_fixed[rows] & ~is_fixed[cols])
        # Transposed systems couple through A_cf^T, so both couplings are kept.
        self._inner = Slots(torch.from_numpy(inner), whole.nnz)
        self.pattern = Pattern(place[rows[inner]], place[cols[inner]], (len(self.free),) * 2)
        self._couplings = tuple(
            self._coupling(whole, place, np.flatnonzero(mask), transposed)
            for transposed, mask in (
                (False, ~is_fixed[rows] & is_fixed[cols]),
                (True, is_fixed[rows] & ~is_fixed[cols]),
            )
        )

    def _coupling(
        self, whole: Pattern, place: np.ndarray, at: np.ndarray, transposed: bool
    ) -> tuple[Pattern, Slots]:
        r, c = place[whole.rows.numpy()[at]], place[whole.cols.numpy()[at]]
        r, c = (c, r) if transposed else (r, c)
        order = np.lexsort((c, r))
        slots = Slots(torch.from_numpy(at[order]), whole.nnz)
        return Pattern(r[order], c[order], (len(self.free), len(self.fixed))), slots

    @contextmanager
    def own_numbering(self) -> Iterator[None]:
        """Turn the index of an error about A_ff into the whole system's."""
        try:
            yield
        except torch.linalg.LinAlgError as error:
            if getattr(error, "index", None) is not None and not hasattr(error, "_whole"):
                index = int(self.free[error.index])
                error.index, error._whole = index, True
                error.message += f" (of the free unknowns; {index} of all)"
            raise

    def matrix(self, A: SparseMatrix) -> SparseMatrix:
        """A_ff."""
        return SparseMatrix(self.pattern, gather(A.values, self._inner))

    def right_hand_side(
        self, A: SparseMatrix, b: Tensor, x_c: Tensor, trans: bool, conj: bool
    ) -> Tensor:
        """b_f - A_fc x_c, columns throughout: b (*B, n, k), x_c (*B, m, k)."""
        pattern, slots = self._couplings[trans]
        values = gather(A.values, slots)
        if conj:
            values = values.conj()
        return b.index_select(-2, self.free.to(b.device)) - multiply(pattern, values, x_c)

    def place(self, x_f: Tensor, x_c: Tensor) -> Tensor:
        """The whole x (*B, n, k) from its free and prescribed parts."""
        return torch.cat([x_f, x_c], -2).index_select(-2, self._order.to(x_f.device))


def read_fixed(pattern: Pattern, fixed: Any) -> tuple[Reduction, Tensor]:
    """(how the pattern splits, prescribed values) from ``fixed=(indices, values)``.

    Raises
    ------
    ValueError
        If `fixed` is not such a pair, or indices repeat or lie out of range.
    """
    _check_pair(fixed)
    reduction = reduce_pattern(pattern, fixed[0])
    return reduction, _check_values(fixed[1], len(reduction.fixed))


def check_indices(n: int, fixed: Any) -> tuple[Tensor, Tensor]:
    """(indices, values) from ``fixed=(indices, values)`` for n unknowns; raises as `read_fixed`."""
    _check_pair(fixed)
    index = _integers(fixed[0])
    _check_range(index, n)
    return index, _check_values(fixed[1], len(index))


def _check_pair(fixed: Any) -> None:
    if not isinstance(fixed, (tuple, list)) or len(fixed) != 2:
        raise ValueError(f"fixed must be a pair (indices, values), got {type(fixed).__name__}")


def _check_values(values: Any, m: int) -> Tensor:
    if not isinstance(values, Tensor):
        raise TypeError(f"the values of fixed are a {type(values).__name__}; expected a torch.Tensor")
    if values.ndim not in (1, 2) or values.shape[0] != m:
        raise ValueError(
            f"fixed prescribes {m} unknowns with values of shape {tuple(values.shape)}; expected "
            f"({m},) or ({m}, k)"
        )
    return values


def reduce_pattern(pattern: Pattern, indices: Any) -> Reduction:
    """How `pattern` splits at `indices`; kept on the pattern, so that its plan is found again."""
    if torch.compiler.is_compiling():
        return pattern.derived[_name(pattern, indices)]
    return _find(pattern, indices)[1]


def _name(pattern: Pattern, indices: Any) -> int:
    """The key of a reduction in `pattern.derived`."""
    return _find(pattern, indices)[0]


def _find(pattern: Pattern, indices: Any) -> tuple[int, Reduction]:
    with outside_transforms():
        index = _integers(indices)
        content = index.numpy().tobytes()
        for name, known in tuple(pattern.derived.items()):
            if isinstance(known, Reduction) and known.content == content:
                return name, known
        _check_range(index, pattern.shape[0])
        reduction = Reduction(pattern, index.clone())
        name = next(_names)
        pattern.derived[name] = reduction
        mine = [k for k, v in tuple(pattern.derived.items()) if isinstance(v, Reduction)]
        for oldest in mine[:-_KEPT]:
            pattern.derived.pop(oldest, None)
        return name, reduction


# A compiler takes the name as a constant of the traced function, as the indices are.
_name._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _integers(indices: Any) -> Tensor:
    if not isinstance(indices, Tensor):
        indices = torch.as_tensor(indices, device="cpu")
    index = indices.detach().cpu()
    if index.numel() == 0:
        index = index.to(torch.int64)
    if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(
            f"the indices of fixed have shape {tuple(index.shape)} and dtype {index.dtype}; expected "
            "one-dimensional integers (for a mask: mask.nonzero().squeeze(1))"
        )
    return index.to(torch.int64)


def _check_range(index: Tensor, n: int) -> None:
    outside = index[(index < 0) | (index >= n)]
    if len(outside):
        raise ValueError(f"fixed has index {int(outside[0])}, out of range for {n} unknowns")
    counts = torch.bincount(index, minlength=n)
    if len(index) and int(counts.max()) > 1:
        raise ValueError(f"fixed repeats index {int(counts.argmax())}; give each unknown once")
