"""NVIDIA cuDSS, the direct solver for GPUs: `binding` has the calls, `handle` one device's lock and
streams, `session` an analysed structure, `engine` the adapter.
"""

from .engine import Cudss

__all__ = ["Cudss"]
