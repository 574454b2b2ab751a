"""Calls by address: of SciPy's BLAS and LAPACK, and of this package's own kernels.

Addresses come in at run time, in the table `machine` (see `machine.py`). Held by compiled code they
could not be cached, and would tie it to one library.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# Places in the table.
GEMM, HERK, TRSM, HEMM, POTRI = range(5)
COLUMNS, UPDATE, PANEL, FORWARDS, BACKWARDS, TIMES, TRANSPOSED_TIMES, OVER, INVERSE_BLOCK = range(5, 14)
DOWN, UP = 14, 15
STEP = 16  # rows of a tile
YIELD, SLEEP, NAP = 17, 18, 19  # the system's functions by which a thread waits, and how long it sleeps
_BYTES = ir.IntType(8).as_pointer()


def _caller(arguments: str):
    """A compiled call of a Fortran routine: c a letter, i an integer, s a scalar, p an array."""

    def call(typingctx, address, args):
        def codegen(context, builder, sig, given):
            pointers = []
            for k, kind in enumerate(arguments):
                value, type_ = builder.extract_value(given[1], k), sig.args[1].types[k]
                if kind != "p":
                    if kind in "ci":
                        wanted = types.int8 if kind == "c" else types.int32
                        value = context.cast(builder, value, type_, wanted)
                    slot = cgutils.alloca_once(builder, value.type)
                    builder.store(value, slot)
                    value = slot
                pointers.append(builder.bitcast(value, _BYTES))
            kind = ir.FunctionType(ir.VoidType(), [_BYTES] * len(pointers))
            builder.call(builder.inttoptr(given[0], kind.as_pointer()), pointers)
            return context.get_dummy_value()

        return types.void(types.int64, args), codegen

    return intrinsic(call)


# Arguments as in the reference: letters by their codes, C = conjugate transpose, L = lower, ...
gemm = _caller("cciiispipispi")  # transa transb m n k alpha A lda B ldb beta C ldc
herk = _caller("cciispispi")  # uplo trans n k alpha A lda beta C ldc, alpha and beta real
hemm = _caller("cciispipispi")  # side uplo m n alpha A lda B ldb beta C ldc
potri = _caller("cipii")  # uplo n A lda info
trsm = _caller("cccciispipi")  # side uplo trans diag m n alpha A lda B ldb


def _kernel_caller():
    """A compiled call of a function of pointers and integers that returns an integer."""

    def call(typingctx, address, args):
        def codegen(context, builder, sig, given):
            values = []
            for k, type_ in enumerate(sig.args[1].types):
                value = builder.extract_value(given[1], k)
                if not isinstance(type_, types.CPointer):
                    value = context.cast(builder, value, type_, types.int64)
                values.append(value)
            kind = ir.FunctionType(ir.IntType(64), [v.type for v in values])
            return builder.call(builder.inttoptr(given[0], kind.as_pointer()), values)

        return types.int64(types.int64, args), codegen

    return intrinsic(call)


call_kernel = _kernel_caller()  # arguments as in `kernels`, the table last
