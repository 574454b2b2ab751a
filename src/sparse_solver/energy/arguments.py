"""What sums over elements accept: checked once, at the door."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .connectivity import Connectivity
from .small_matrices import SmallMatrices

__all__ = [
    "check_nodes_tensor",
    "element_inputs",
    "nodal_and_constants",
    "one_tensor",
    "refuse_closures",
]


def check_nodes_tensor(x: Any, where: Connectivity) -> tuple[int, int]:
    """(n, numbers per node) of x, of shape (n,) or (n, d)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x is a {type(x).__name__}; expected a torch.Tensor of shape (n,) or (n, d)")
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; expected float32 or float64: x.double()")
    if x.ndim not in (1, 2):
        raise ValueError(
            f"x has shape {tuple(x.shape)}; expected (n,) or (n, d). For many x at once: "
            "torch.func.vmap"
        )
    where.check_nodes(x.shape[0], f"x of shape {tuple(x.shape)}")
    return x.shape[0], 1 if x.ndim == 1 else x.shape[1]


def nodal_and_constants(
    x: Tensor, element: Sequence[Any], nodal: Any, where: Connectivity
) -> tuple[Tensor, ...]:
    """(*nodal, *element) checked: leading sizes n, and m; numbers for all are expanded."""
    n = x.shape[0]
    if isinstance(nodal, Tensor) or not isinstance(nodal, Sequence):
        raise TypeError(f"nodal is a {type(nodal).__name__}; expected a tuple of tensors: nodal=(t,)")
    out = []
    for i, t in enumerate(nodal):
        t = _tensor(t, f"nodal[{i}]", x)
        if t.ndim == 0 or t.shape[0] != n:
            raise ValueError(
                f"nodal[{i}] has shape {tuple(t.shape)}; x has {n} nodes, so expected ({n}, ...). "
                "What varies by element goes after x: E(x, t)"
            )
        out.append(t)
    for i, t in enumerate(element):
        t = _tensor(t, f"element constant {i}", x)
        if t.ndim == 0:
            t = t.expand(where.m)  # a number for all
        elif t.shape[0] != where.m:
            hint = f" What varies by node goes into nodal=(t,), of leading size {n}."
            raise ValueError(
                f"element constant {i} has shape {tuple(t.shape)}; there are {where.m} elements, so "
                f"expected ({where.m}, ...).{hint}"
            )
        out.append(t)
    return tuple(out)


def element_inputs(
    x: Tensor, element: Sequence[Any], nodal: Any, where: Connectivity
) -> tuple[Tensor, ...]:
    """(x, *nodal, *element) gathered by element, the element's axis last."""
    rest = nodal_and_constants(x, element, nodal, where)
    by_node, by_element = rest[: len(nodal)], rest[len(nodal) :]
    picked = tuple(where.pick(t) for t in (x, *by_node))
    return picked + tuple(t.movedim(0, -1) for t in by_element)


def _tensor(t: Any, name: str, x: Tensor) -> Tensor:
    if isinstance(t, (int, float)) and not isinstance(t, bool):
        return torch.tensor(t, dtype=x.dtype, device=x.device)
    if not isinstance(t, Tensor):
        hint = ". A sum of energies takes a tuple for each term" if isinstance(t, (tuple, list)) else ""
        raise TypeError(f"{name} is a {type(t).__name__}; expected a torch.Tensor{hint}")
    if t.is_floating_point() and t.dtype != x.dtype:
        raise TypeError(f"x has dtype {x.dtype} and {name} {t.dtype}; write t.to({x.dtype})")
    if t.device != x.device:
        raise ValueError(f"x is on {x.device} and {name} on {t.device}; write t.to({str(x.device)!r})")
    return t


def refuse_closures(f: Callable[..., Tensor], name: str, inputs: Sequence[Tensor]) -> None:
    """Raise if f makes a graph though called with numbers: what it closes over gets no gradient."""
    with torch.enable_grad():
        out = f(*(t.detach()[..., 0] for t in inputs))
    if out.requires_grad:
        raise ValueError(
            f"{name} uses a tensor that requires grad and is not among its arguments, so it would get "
            "no gradient; pass it after x, or as nodal=(t,), or detach it"
        )


def one_tensor(f: Callable[..., Any], name: str, scalar: bool) -> Callable[..., Tensor]:
    """f, refusing results that are not one tensor (a scalar one, if `scalar`)."""

    def checked(*args: Tensor) -> Tensor:
        with SmallMatrices():
            out = f(*args)
        if not isinstance(out, Tensor):
            raise TypeError(
                f"{name} returned a {type(out).__name__}; expected a torch.Tensor computed from x"
            )
        if scalar and out.ndim:
            raise ValueError(
                f"{name} returned shape {tuple(out.shape)} for one element; expected a scalar, of "
                "shape (): sum it"
            )
        return out

    return checked
