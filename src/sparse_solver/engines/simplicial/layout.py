"""What the compiled loops and their callers agree on.

A factorisation is one array: the values it was made of (nnz), L below its unit diagonal by columns,
D (n) and 1 / D (n), and ROOM times n numbers of room for the loops, used only while it is made.
"""

ROOM = 3
KEPT, SOLVED, REFUSED = 1, 2, -1  # what became of a step
BLOCK = 8  # right-hand sides solved side by side

# Places in the table: sizes; addresses of the structure of A, of L, and of how one goes into the other.
N, NNZ, NNZ_L = 0, 1, 2
INDPTR, COLS, DIAGONAL, MATE = 3, 4, 5, 6
POINTER, INDEX, ROW_POINTER, ROW_COL, ROW_PLACE = 7, 8, 9, 10, 11
LOW_POINTER, LOW_VALUE, LOW_AT, ORDER = 12, 13, 14, 15
LIMITS, RANDOM = 16, 17  # of whole steps alone: addresses of the limits and of the probe's vector

# Places among the limits by which a step is judged, all relative.
SYMMETRY, DOMINANCE, SUSPICION, NORMWISE, COMPONENTWISE = 0, 1, 2, 3, 4
