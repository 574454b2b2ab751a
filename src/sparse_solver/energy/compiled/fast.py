"""What `ElementSum(..., compile=True)` runs instead of the eager maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...matrix import SparseMatrix
from ...matrix.plain import numbers, outside_transforms
from ..arguments import check_nodes_tensor, nodal_and_constants
from .kernel import compile_loop, in_parts, number_of_parts
from .lower import lower
from .replaced import replaced

if TYPE_CHECKING:
    from ..element_sum import ElementSum

__all__ = ["Fast"]

_LOOKED_AT = 8  # elements on which a new loop is compared with torch's own result


class Fast:
    """Compiled loops of one energy, made when first needed, for each combination of shapes.

    Parameters
    ----------
    plain : ElementSum
        The same energy without compilation: it gives the derivatives, and judges the loops.
    """

    def __init__(self, plain: ElementSum) -> None:
        try:
            import numba  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "ElementSum(..., compile=True) needs numba, which is not installed: pip install numba"
            ) from error
        self.plain, self.where = plain, plain._where
        self._residual = getattr(plain, "_residual", None)
        by_node = self.where.elements.sort(1).values
        if bool((by_node[:, 1:] == by_node[:, :-1]).any()):
            raise NotImplementedError(
                "compile=True needs elements whose nodes all differ, and one names a node twice; leave "
                "compile out"
            )
        self._elements = np.ascontiguousarray(self.where.elements.numpy())
        self._loops: dict[Any, Callable[..., None]] = {}
        self._tapes: dict[Any, tuple] = {}
        self._maps: dict[Any, tuple[np.ndarray, np.ndarray]] = {}

    # ---- what ElementSum offers ----

    def energies(self, x: Tensor, element: tuple, nodal: tuple) -> Tensor:
        """(m,)."""

        def run(*tensors: Tensor) -> Tensor:
            out = np.empty(self.where.m, _dtype(x))
            self._run("energy", tensors, len(nodal), (out,))
            return torch.from_numpy(out)

        def exact(x: Tensor, *rest: Tensor) -> Tensor:
            return self.plain._energies(x, rest[len(nodal) :], rest[: len(nodal)])

        return replaced(run, exact, *self._tensors(x, element, nodal))

    def forces(self, x: Tensor, element: tuple, nodal: tuple) -> tuple[Tensor, Tensor]:
        """The gradient, and the sum of the absolute values that cancel in it (without graph)."""
        sizes = []

        def run(*tensors: Tensor) -> Tensor:
            n = x.numel()
            parts = number_of_parts(self.where.m)
            out, size = np.zeros((2, parts, n), _dtype(x))
            unknowns = self._unknowns(x)[0]
            self._run("gradient", tensors, len(nodal), (unknowns,), (out, size))
            sizes.append(torch.from_numpy(_total(size)).reshape(x.shape))
            return torch.from_numpy(_total(out)).reshape(x.shape)

        def exact(x: Tensor, *rest: Tensor) -> Tensor:
            return self.plain.gradient(x, *rest[len(nodal) :], nodal=rest[: len(nodal)])

        g = replaced(run, exact, *self._tensors(x, element, nodal))
        return g, sizes[0] if sizes else g.abs()

    def hessian(self, x: Tensor, element: tuple, nodal: tuple, project: str) -> SparseMatrix:
        """The second derivative."""
        n, c = check_nodes_tensor(x, self.where)
        places = self.where.hessian_places(n, c)

        def run(*tensors: Tensor) -> Tensor:
            upper = np.zeros((number_of_parts(self.where.m), places.slots.size), _dtype(x))
            more = (self._unknowns(x)[1],)
            ending = (self.where.k * c, project == "psd" and self._residual is None)
            kind = "hessian" if project == "none" or self._residual is None else "gauss"
            self._run(kind, tensors, len(nodal), more, (upper,), ending)
            return torch.from_numpy(_total(upper).take(places.mirror.index.numpy()))

        def exact(x: Tensor, *rest: Tensor) -> Tensor:
            given: dict[str, Any] = {"nodal": rest[: len(nodal)], "project": project}
            return self.plain.hessian(x, *rest[len(nodal) :], **given).values

        return SparseMatrix(places.pattern, replaced(run, exact, *self._tensors(x, element, nodal)))

    # ---- how ----

    def _tensors(self, x: Tensor, element: tuple, nodal: tuple) -> tuple[Tensor, ...]:
        check_nodes_tensor(x, self.where)
        return (x, *nodal_and_constants(x, element, nodal, self.where))

    def _unknowns(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """(unknowns (m, kd), places in the upper half (m, kd (kd + 1) / 2)) of each element."""
        n, c = x.shape[0], x.shape[1:].numel()
        known = self._maps.get((n, c))
        if known is None:
            with outside_transforms():
                places = self.where.hessian_places(n, c)
                unknowns = self.where.unknowns(c).mT.contiguous().numpy()
                slots = places.slots.index.reshape(-1, self.where.m).mT.contiguous().numpy()
            known = self._maps[n, c] = unknowns, slots.astype(np.int32)
        return known

    def _run(
        self,
        kind: str,
        tensors: Sequence[Tensor],
        nodal: int,
        shared: tuple,
        split: tuple = (),
        ending: tuple = (),
    ) -> None:
        arrays = [np.ascontiguousarray(numbers(t)).reshape(-1) for t in tensors]
        loop = self._loop(kind, tensors, nodal)
        x, *rest = arrays

        def run(part: int, first: int, last: int) -> None:
            own = [a[part] for a in split]
            loop(first, last, x, self._elements, *rest, *shared, *own, *ending)

        in_parts(run, self.where.m)

    def _loop(self, kind: str, tensors: Sequence[Tensor], nodal: int) -> Callable[..., None]:
        shapes = tuple((tuple(t.shape[1:]), t.dtype.is_floating_point) for t in tensors), nodal
        loop = self._loops.get((kind, shapes))
        if loop is None:
            loop = self._compile(kind, tensors, nodal, shapes)
            self._loops[kind, shapes] = loop
            self._judge(kind, loop, tensors, nodal)
        return loop

    def _compile(
        self, kind: str, tensors: Sequence[Tensor], nodal: int, shapes: Any
    ) -> Callable[..., None]:
        names = ["x", *(f"n{i}" for i in range(nodal))]
        names += [f"p{i}" for i in range(len(tensors) - len(names))]
        if shapes not in self._tapes:
            at = self.where.elements[0]
            samples = [t.detach()[at] for t in tensors[: nodal + 1]]
            samples += [t.detach()[0] for t in tensors[nodal + 1 :]]
            samples = [s.double() if s.is_floating_point() else s for s in samples]
            with torch.no_grad(), outside_transforms():
                tape, found, args = lower(
                    self._residual or self.plain._f, [f"{n}_{{}}" for n in names], samples
                )
            self._tapes[shapes] = tape, found, args
        tape, found, args = self._tapes[shapes]
        y = found[0] if self._residual is None else tape.half_square(found)
        outputs = [y]
        if kind == "gradient":
            outputs = tape.gradient(y, args[0])
        elif kind == "hessian":
            outputs = tape.hessian(y, args[0])
        elif kind == "gauss":
            outputs = tape.gauss_newton(found, args[0])
        loads = []
        for number, (name, t) in enumerate(zip(names, tensors, strict=True)):
            size = t.shape[1:].numel()
            if number <= nodal:
                loads += [
                    f"{name}_{a * size + j} = {name}[elements[e, {a}] * {size} + {j}]"
                    for a in range(self.where.k)
                    for j in range(size)
                ]
            else:
                loads += [f"{name}_{j} = {name}[e * {size} + {j}]" for j in range(size)]
        ending = "hessian" if kind == "gauss" else kind
        return compile_loop(tape, outputs, loads, names[1:], ending)

    def _judge(
        self, kind: str, loop: Callable[..., None], tensors: Sequence[Tensor], nodal: int
    ) -> None:
        """Compare with torch on a few elements; raise rather than go on with another function."""
        m = min(self.where.m, _LOOKED_AT)
        few = self.plain._of(self.where.elements[:m])
        x, *rest = tensors
        given = [t.detach() for t in rest[:nodal]] + [t.detach()[:m] for t in rest[nodal:]]
        options: dict[str, Any] = {"nodal": tuple(given[:nodal])}
        arrays = [np.ascontiguousarray(numbers(t)).reshape(-1) for t in tensors]
        call = (0, m, arrays[0], self._elements, *arrays[1:])
        with torch.no_grad():
            if kind == "energy":
                got = np.empty(m, _dtype(x))
                loop(*call, got)
                true = few._energies(x.detach(), tuple(given[nodal:]), options["nodal"]).numpy()
            elif kind == "gradient":
                got, size = np.zeros((2, x.numel()), _dtype(x))
                loop(*call, self._unknowns(x)[0], got, size)
                true = few.gradient(x.detach(), *given[nodal:], **options).reshape(-1).numpy()
            else:
                c = x.shape[1:].numel()
                places = self.where.hessian_places(x.shape[0], c)
                got = np.zeros(places.slots.size, _dtype(x))
                loop(*call, self._unknowns(x)[1], got, self.where.k * c, False)
                got = got[places.mirror.index.numpy()]
                zero = SparseMatrix(places.pattern, torch.zeros(places.pattern.nnz, dtype=x.dtype))
                options["project"] = "psd" if kind == "gauss" else "none"
                H = zero + few.hessian(x.detach(), *given[nodal:], **options)
                true = H.values.numpy()
        eps = np.finfo(got.dtype).eps
        scale = np.abs(true).max(initial=0.0)
        finite = np.isfinite(true)
        wrong = np.abs(got - true)[finite] > 1e6 * eps * scale
        if wrong.any() or not np.isfinite(got[finite]).all():
            raise RuntimeError(
                f"compile=True gave another {kind} than local_energy itself on the first elements "
                f"(largest difference {np.abs(got - true)[finite].max():.1e} of {scale:.1e}); leave it "
                "out, and please report this local_energy"
            )


def _dtype(x: Tensor) -> Any:
    return np.float32 if x.dtype == torch.float32 else np.float64


def _total(parts: np.ndarray) -> np.ndarray:
    out = parts[0]
    for part in parts[1:]:
        out += part
    return out
