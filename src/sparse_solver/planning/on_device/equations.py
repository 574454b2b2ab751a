"""A x = b as tensors where they lie, and how well an x satisfies it: `planning/equations.py` and
`symmetry.py` over again, for several matrices on one pattern, with nothing read back. What is found out
are tensors with a number per matrix; `read` brings those of a whole solve to the host at once.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...matrix import Pattern
from ...matrix.products import product
from ..conditioning import probe_limit, random_vector
from ..equations import COMPONENTWISE, NORMWISE
from ..symmetry import ROUNDINGS

__all__ = ["Structure", "TensorEquations", "read"]

_MARGIN = 1e4  # units of eps above which diagonal dominance is trusted over rounding


def read(*facts: Tensor) -> list[list[float]]:
    """Facts (items, m) each, side by side, on the host: the one place that waits for the device."""
    return torch.cat([f.to(torch.float64) for f in facts], 1).tolist()


class Structure:
    """What judging needs to know of a pattern, on a device: made once."""

    def __init__(self, pattern: Pattern, device: torch.device) -> None:
        self.pattern, self.device = pattern, device
        self.n = pattern.shape[0]
        self.rows, self.cols = pattern.indices(device)
        self._random: dict[torch.dtype, Tensor] = {}

    def _here(self, index: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(index)).to(self.device)

    @cached_property
    def diagonal(self) -> Tensor:
        """The nonzero at (i, i); one after the last where there is none."""
        at = self.pattern.diagonal
        return self._here(np.where(at < 0, self.pattern.nnz, at))

    @cached_property
    def triangles(self) -> tuple[Tensor, Tensor]:
        """Of a symmetric pattern, the upper nonzeros and their mirror images."""
        upper, mirror = self.pattern.triangles
        return self._here(upper), self._here(mirror)

    def random(self, dtype: torch.dtype) -> Tensor:
        """The probe's right-hand side, real."""
        found = self._random.get(dtype)
        if found is None:
            z = torch.from_numpy(random_vector(self.n))
            found = self._random[dtype] = z.to(self.device, dtype)
        return found


class TensorEquations:
    """Values (items, nnz) on a pattern, with the sums that judging needs.

    Parameters
    ----------
    structure : Structure
    values : Tensor, shape (items, nnz)
        Kept, not copied: the caller hands over its snapshot.
    """

    def __init__(self, structure: Structure, values: Tensor) -> None:
        self.structure, self.values = structure, values
        self.eps = torch.finfo(values.dtype).eps
        self.magnitudes = values.abs()
        self.row_sums = self._sums(self.magnitudes, structure.rows)
        self.norm = self.row_sums.amax(1)  # (items,); not finite if a value is not
        padded = torch.nn.functional.pad(self.magnitudes, (0, 1))
        self.diagonal = padded.index_select(1, structure.diagonal)

    def _sums(self, numbers: Tensor, index: Tensor) -> Tensor:
        return numbers.new_zeros((len(numbers), self.structure.n)).index_add(1, index, numbers)

    @cached_property
    def _column_norm(self) -> Tensor:
        return self._sums(self.magnitudes, self.structure.cols).amax(1)

    def is_finite(self) -> Tensor:
        """Which matrices (items,) are without NaN or infinity."""
        return self.norm.isfinite()

    def is_dominant(self) -> Tensor:
        """Which are certainly regular, by a diagonal that exceeds the rest of each row."""
        margin = (2 * self.diagonal - self.row_sums).amin(1)
        return margin > _MARGIN * self.eps * self.norm

    def is_mirrored(self, hermitian: bool) -> Tensor:
        """Which have A = A^T, or A = A^H, up to rounding as in `symmetry.py`; the pattern has both."""
        s = self.structure
        upper, mirror = s.triangles
        above, below = self.values.index_select(1, upper), self.values.index_select(1, mirror)
        below = below.conj() if hermitian else below
        root = self.diagonal.sqrt()
        scale = root.index_select(1, s.rows[upper]) * root.index_select(1, s.cols[upper])
        limit = ROUNDINGS * self.eps * torch.maximum(scale, above.abs())
        return ((above == below) | ((above - below).abs() <= limit)).all(1)

    def probe(self) -> Tensor:
        """Right-hand sides (items, n, 1) that a nearly singular matrix answers with huge numbers."""
        rhs = self.row_sums * self.structure.random(self.row_sums.dtype)
        return rhs.to(self.values.dtype).unsqueeze(-1)

    def is_quiet(self, answer: Tensor) -> Tensor:
        """Which answers (items, n, 1) to the probe raise no suspicion."""
        s = self.structure
        weights = self.magnitudes / self.row_sums.index_select(1, s.rows)
        size = (self._sums(weights, s.cols) * answer.squeeze(-1)).norm(dim=1)
        return size < probe_limit(self.eps, s.n)

    def residual(self, x: Tensor, b: Tensor, transposed: bool) -> Tensor:
        """b - A x, or b - A^T x, for x and b (items, n, k)."""
        return b - self._product(self.values, x, transposed)

    def _product(self, values: Tensor, x: Tensor, transposed: bool) -> Tensor:
        s = self.structure
        ends = (s.cols, s.rows) if transposed else (s.rows, s.cols)
        return product(values, x, *ends, s.n, vector=False)

    def judge(self, x: Tensor, b: Tensor, transposed: bool) -> tuple[Tensor, Tensor]:
        """(r, facts): the residual, and (items, 2): whether x is accurate in both senses, and its
        normwise backward error.
        """
        r = self.residual(x, b, transposed)
        wrong, size, whole = r.abs(), x.abs(), b.abs()
        norm = (self._column_norm if transposed else self.norm).double().unsqueeze(1)
        reach = norm * size.amax(1).double() + whole.amax(1).double()
        top = wrong.amax(1).double()
        # No denominator, no residual: 0 = 0. NaN stays NaN, and is not accurate.
        no_reach = reach == 0
        errors = top / torch.where(no_reach, torch.ones_like(reach), reach)
        errors = torch.where(no_reach & (top == 0), torch.zeros_like(top), errors)
        error = errors.amax(1)
        bound = self._product(self.magnitudes, size, transposed) + whole
        near = (wrong <= COMPONENTWISE * self.eps * bound) & bound.isfinite()
        good = (error <= NORMWISE * self.eps) & reach.isfinite().all(1) & near.all(2).all(1)
        return r, torch.stack([good.double(), error], 1)
