"""The library's own engine: a multifrontal Cholesky factorisation, compiled when first needed.

`engine` is the adapter. Below it, from structure to numbers: `ordering` -> `tree` -> `supernodes` ->
`schedule` (who works on what) -> `analysis` (all of it, once per structure) -> `factor`, `solve`,
`selected` with `inverse` (fronts and tasks) -> `kernels` and `tile` (dense arithmetic), with `run`
and `team` for threads, `calls` and `machine` for calls by address, `numeric` on top.
"""

from .engine import Multifrontal

__all__ = ["Multifrontal"]
