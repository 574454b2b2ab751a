"""`ElementSum`: an energy that is a sum over elements, its gradient and its sparse Hessian."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import grad, jacrev

from ..matrix import SparseMatrix
from .arguments import check_nodes_tensor, element_inputs, one_tensor, refuse_closures
from .connectivity import Connectivity, HessianPlaces, read_elements
from .per_element import LocalFunction, map_elements
from .project import project_psd

if TYPE_CHECKING:
    from .compiled import Fast

__all__ = ["PROJECTIONS", "ElementSum"]

PROJECTIONS = ("none", "psd")


class ElementSum:
    r"""The energy :math:`E(x) = \sum_e f(x_e, \dots)` of a function f of one element.

    Parameters
    ----------
    local_energy : callable
        ``local_energy(x_elem, *nodal_elem, *element_i)`` for one element, returning a scalar tensor:
        `x_elem` of shape (k, d), or (k,) if x is (n,); nodal quantities of shape (k, ...), constants
        of the element of shape (...). Written in torch operations that `torch.func.vmap` can map.
    elements : integer array, shape (m, k)
        The k nodes of each element.
    compile : bool
        Trace `local_energy` once, differentiate it as a program, and compile that to one loop over
        elements with numba, at the price of some seconds when first used and for each combination of
        shapes. For energies of elementary functions, sums and matrices up to 4 x 4; others raise
        NotImplementedError. What `local_energy` takes from elsewhere is read once. The loop gives
        the numbers; derivatives in parameters are those of the function itself.

    Notes
    -----
    The unknowns are numbered ``i * d + c`` for component c of node i. The pattern of the Hessian and
    the maps that gather and scatter are made once per shape of x.

    Derivatives in x, in the constants of elements and in nodal quantities exist to any order; the
    elements are worked off in chunks, without a graph over all of them, so that memory stays bounded.
    What `local_energy` takes from elsewhere (a closure, a global) counts as constant.

    References
    ----------
    P. Schmidt, J. Born, D. Bommes, M. Campen and L. Kobbelt, "TinyAD: Automatic Differentiation in
    Geometry Processing Made Simple", Computer Graphics Forum 41(5), 2022, 113-124.

    Examples
    --------
    A chain of springs of rest length r:

    >>> import torch, sparse_solver as ss
    >>> def spring(x, r):
    ...     return (torch.linalg.vector_norm(x[1] - x[0]) - r) ** 2 / 2
    >>> E = ss.ElementSum(spring, [[0, 1], [1, 2]])
    >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0]])
    >>> r = torch.tensor([1.0, 1.0])
    >>> E(x, r)
    tensor(0.5000)
    >>> E.gradient(x, r)
    tensor([[-1.,  0.],
            [ 1.,  0.],
            [ 0.,  0.]])
    >>> E.hessian(x, r).to_dense()[0]
    tensor([ 1.0000,  0.0000, -1.0000,  0.0000,  0.0000,  0.0000])
    """

    def __init__(
        self, local_energy: Callable[..., Tensor], elements: Any, *, compile: bool = False
    ) -> None:
        if not callable(local_energy):
            raise TypeError(
                f"local_energy is a {type(local_energy).__name__}; expected a function of one element: "
                "ElementSum(local_energy, elements)"
            )
        self.local_energy = local_energy
        self._where = Connectivity(read_elements(elements))
        self._f = one_tensor(local_energy, "local_energy", scalar=True)
        self._fast: Fast | None = None
        if compile:
            from .compiled import Fast

            plain = self._of(self._where.elements)
            plain._where = self._where
            self._fast = Fast(plain)
        self._seen = False  # whether local_energy was looked at for tensors that it closes over

    def _of(self, elements: Any) -> ElementSum:
        """The same energy of other elements, not compiled."""
        return ElementSum(self.local_energy, elements)

    @classmethod
    def least_squares(
        cls, local_residual: Callable[..., Tensor], elements: Any, *, compile: bool = False
    ) -> ElementSum:
        r"""The energy :math:`\sum_e \tfrac12 |r(x_e, \dots)|^2` of a residual of one element.

        ``hessian(project="psd")`` is then the Gauss-Newton matrix :math:`\sum_e J_e^T J_e`, which is
        positive semidefinite without any projection.

        Parameters
        ----------
        local_residual : callable
            As `local_energy`, but returning a tensor of any shape.
        elements : integer array, shape (m, k)
        compile : bool
            As in `ElementSum`.

        Examples
        --------
        >>> import torch, sparse_solver as ss
        >>> E = ss.ElementSum.least_squares(lambda x, r: (x[1] - x[0]) ** 2 - r, [[0, 1]])
        >>> E.hessian(torch.tensor([0.0, 1.0]), torch.tensor([4.0]), project="psd").to_dense()
        tensor([[ 4., -4.],
                [-4.,  4.]])
        >>> E.hessian(torch.tensor([0.0, 1.0]), torch.tensor([4.0])).to_dense()
        tensor([[-2.,  2.],
                [ 2., -2.]])
        """
        return _LeastSquares(local_residual, elements, compile=compile)

    @property
    def elements(self) -> Tensor:
        """The index tuples, int64 of shape (m, k)."""
        return self._where.elements

    def __call__(self, x: Tensor, *element: Any, nodal: tuple = ()) -> Tensor:
        """The energy.

        Parameters
        ----------
        x : Tensor, shape (n, d) or (n,)
        *element : Tensor, shape (m, ...), or number
            A constant for each element; a number (or tensor of shape ()) goes to all.
        nodal : tuple of Tensor, shape (n, ...)
            What is given by node besides x.

        Returns
        -------
        Tensor, shape ()
        """
        return self._energies(x, element, nodal).sum()

    def _energies(self, x: Tensor, element: tuple, nodal: tuple) -> Tensor:
        if self._fast is not None:
            return self._fast.energies(x, element, nodal)
        _, inputs = self._inputs(x, element, nodal)
        return self._map(self._energy, inputs)[0]

    def gradient(self, x: Tensor, *element: Any, nodal: tuple = ()) -> Tensor:
        """The derivative of the energy in x, of x's shape."""
        if self._fast is not None:
            return self._fast.forces(x, element, nodal)[0]
        _, inputs = self._inputs(x, element, nodal)
        return self._where.place(self._map(self._gradient, inputs)[0], x.shape[0])

    def hessian(
        self, x: Tensor, *element: Any, nodal: tuple = (), project: str = "none"
    ) -> SparseMatrix:
        """The second derivative in x, symmetric to the last bit.

        Parameters
        ----------
        x, element, nodal
            As in `__call__`.
        project : {"none", "psd"}
            "psd" replaces the Hessian of each element by the nearest positive semidefinite matrix, so
            that Newton's directions go downhill [1]_; differentiable once.

        Returns
        -------
        SparseMatrix, shape (n d, n d)

        References
        ----------
        .. [1] J. Teran, E. Sifakis, G. Irving and R. Fedkiw, "Robust Quasistatic Finite Elements and
           Flesh Simulation", Symposium on Computer Animation, 2005, 181-190.
        """
        check_project(project)
        if self._fast is not None:
            return self._fast.hessian(x, element, nodal, project)
        c, inputs = self._inputs(x, element, nodal)
        places = self._where.hessian_places(x.shape[0], c)
        if project == "psd":
            return places.assemble(self._projected(inputs, places))
        (upper,) = self._map(_Upper(self._f, places), inputs, (self._where.k * c) ** 2)
        return places.assemble_upper(upper)

    def _projected(self, inputs: tuple[Tensor, ...], places: HessianPlaces) -> Tensor:
        size = inputs[0].shape[:-1].numel()
        (H,) = self._map(self._full_hessian, inputs, size**2)
        H = H.reshape(size, size, -1)
        return project_psd((H + H.transpose(0, 1)) / 2)

    def _sizes(self, x: Tensor, *element: Any, nodal: tuple = ()) -> tuple[Tensor, Tensor]:
        """The energy, and the sum of the absolute values that may cancel in it."""
        e = self._energies(x, element, nodal)
        return e.sum(), e.abs().sum()

    def _forces(self, x: Tensor, *element: Any, nodal: tuple = ()) -> tuple[Tensor, Tensor]:
        """The gradient, and the sum of the absolute values that cancel in it."""
        if self._fast is not None:
            return self._fast.forces(x, element, nodal)
        _, inputs = self._inputs(x, element, nodal)
        (g,) = self._map(self._gradient, inputs)
        return self._where.place(g, x.shape[0]), self._where.place(g.abs(), x.shape[0])

    def _inputs(self, x: Tensor, element: tuple, nodal: tuple) -> tuple[int, tuple[Tensor, ...]]:
        _, c = check_nodes_tensor(x, self._where)
        inputs = element_inputs(x, element, nodal, self._where)
        if not self._seen and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            refuse_closures(self._f, "local_energy", inputs)
            self._seen = True
        return c, inputs

    def _map(
        self, h: LocalFunction, inputs: tuple[Tensor, ...], width: int | None = None
    ) -> tuple[Tensor, ...]:
        return map_elements(h, *inputs, width=width or inputs[0].shape[:-1].numel())

    # ---- functions of one element, for `map_elements` ----

    def _energy(self, *inputs: Tensor) -> tuple[Tensor]:
        return (self._f(*inputs),)

    def _gradient(self, *inputs: Tensor) -> tuple[Tensor]:
        return (grad(self._f)(*inputs),)

    def _full_hessian(self, *inputs: Tensor) -> tuple[Tensor]:
        return (jacrev(grad(self._f))(*inputs),)

    def __add__(self, other: Any) -> Any:
        from .energy_sum import EnergySum

        return EnergySum.of(self, other)

    def __repr__(self) -> str:
        name = getattr(self.local_energy, "__name__", type(self.local_energy).__name__)
        return f"ElementSum({name}, elements of shape {tuple(self.elements.shape)})"


class _Upper:
    """The upper half of an element's Hessian, row by row."""

    def __init__(self, f: Callable[..., Tensor], places: HessianPlaces) -> None:
        self.f, self.p, self.q = f, places.p, places.q

    def __call__(self, x: Tensor, *rest: Tensor) -> tuple[Tensor]:
        H = jacrev(grad(self.f))(x, *rest).reshape(x.numel(), x.numel())
        return (H[self.p.to(x.device), self.q.to(x.device)],)


class _LeastSquares(ElementSum):
    def __init__(
        self, local_residual: Callable[..., Tensor], elements: Any, *, compile: bool = False
    ) -> None:
        super().__init__(local_residual, elements, compile=compile)
        residual = one_tensor(local_residual, "local_residual", scalar=False)
        self._residual = residual
        self._f = lambda *inputs: residual(*inputs).square().sum() / 2

    def _of(self, elements: Any) -> ElementSum:
        return _LeastSquares(self.local_energy, elements)

    def _projected(self, inputs: tuple[Tensor, ...], places: HessianPlaces) -> Tensor:
        size = inputs[0].shape[:-1].numel()
        return self._map(self._gauss_newton, inputs, size**2)[0].reshape(size, size, -1)

    def _gauss_newton(self, x: Tensor, *rest: Tensor) -> tuple[Tensor]:
        J = jacrev(self._residual)(x, *rest).reshape(-1, x.numel())  # (residuals, kd)
        return ((J[:, :, None] * J[:, None, :]).sum(0),)


def check_project(project: str) -> None:
    """Raise unless `project` is a known word."""
    if project not in PROJECTIONS:
        words = ", ".join(map(repr, PROJECTIONS))
        raise ValueError(f"project={project!r} is unknown; expected one of {words}")
