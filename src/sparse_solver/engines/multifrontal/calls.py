"""Calls by address: of SciPy's BLAS and LAPACK, and of this package's own kernels.

Addresses come in at run time, in the table `machine` (see `machine.py`). Held by compiled code they
could not be cached, and would tie it to one library.
"""

from __future__ import annotations

from llvmlite import ir

from ..compiler import Pointer, builtin
from ..compiler.types import INT, Value

# Places in the table.
GEMM, HERK, TRSM, HEMM, TRTRI, LAUUM = range(6)
COLUMNS, UPDATE, PANEL, FORWARDS, BACKWARDS, TIMES, TRANSPOSED_TIMES = range(6, 13)
OVER, INVERSE_BLOCK, INVERTED, DOWN, UP, FRONT_DOWN, FRONT_UP, PRODUCT = range(13, 21)
STEP = 21  # rows of a tile
YIELD, SLEEP, NAP = 22, 23, 24  # the system's functions by which a thread waits, and how long it sleeps
_BYTES = ir.IntType(8).as_pointer()


def _caller(arguments: str):
    """A compiled call of a Fortran routine: c a letter, i an integer, s a scalar, p an array."""

    def call(b, address, args):
        pointers = []
        for k, kind in enumerate(arguments):
            value = args.item(k)
            if kind == "p":
                place = value.llvm
            elif kind == "s":
                place = b.slot(value.type.stored)
                b.write(value, Value(Pointer(value.type), (place,)))
            else:
                word = ir.IntType(8 if kind == "c" else 32)
                place = b.slot(word)
                b.store(b.trunc(value.llvm, word), place)
            pointers.append(b.bitcast(place, _BYTES))
        kind = ir.FunctionType(ir.VoidType(), [_BYTES] * len(pointers))
        b.call(b.inttoptr(address.llvm, kind.as_pointer()), pointers)

    return builtin(call)


# Arguments as in the reference: letters by their codes, C = conjugate transpose, L = lower, ...
gemm = _caller("cciiispipispi")  # transa transb m n k alpha A lda B ldb beta C ldc
herk = _caller("cciispispi")  # uplo trans n k alpha A lda beta C ldc, alpha and beta real
hemm = _caller("cciispipispi")  # side uplo m n alpha A lda B ldb beta C ldc
lauum = _caller("cipii")  # uplo n A lda info
trtri = _caller("ccipii")  # uplo diag n A lda info
trsm = _caller("cccciispipi")  # side uplo trans diag m n alpha A lda B ldb


@builtin
def call_kernel(b, address, args):
    """A compiled call of one of `kernels`: arguments as there, the table last."""
    given = [args.item(k) for k in range(len(args.type.items))]
    parts = [v.llvm if isinstance(v.type, Pointer) else b.to(v, INT).llvm for v in given]
    kind = ir.FunctionType(INT.parts[0], [p.type for p in parts])
    return Value(INT, (b.call(b.inttoptr(address.llvm, kind.as_pointer()), parts),))
