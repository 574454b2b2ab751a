"""Differentiate through a solve with a sparse matrix, and compare with the dense way.

The matrix is the identity plus the Laplacian of a random graph whose edges are weighted by w; the
loss is L(w) = |A(w)^-1 b|^2 / 2. This is the example of the original pytorch-sparse-solve, but for
a random b: with ones the solution is constant and the gradient exactly zero.
"""

import torch

import sparse_solver as ss
from sparse_solver import gallery

n = 10
graph = gallery.random_edge_graph(n, generator=torch.Generator().manual_seed(0))
torch.manual_seed(0)
b = torch.rand(n, dtype=torch.float64)
w = torch.rand(graph.num_weights, dtype=torch.float64, requires_grad=True)


def gradient(x: torch.Tensor) -> torch.Tensor:
    """Return dL/dw for L = |x|^2 / 2."""
    loss = x.square().sum() / 2
    return torch.autograd.grad(loss, w)[0]


# Dense: O(n^2) memory, O(n^3) time.
rows, cols = graph.indices
A = torch.zeros(n, n, dtype=torch.float64)
A = A.index_put((rows, cols), graph.values(w), accumulate=True)
dense = gradient(torch.linalg.solve(A, b))

# Sparse, with an ordinary torch tensor: the original's call.
A = torch.sparse_coo_tensor(graph.indices, graph.values(w), (n, n), check_invariants=True)
drop_in = gradient(ss.SparseSolver.apply(A, b))

# Sparse, on a pattern built once: nothing is sorted again when w changes, and derivatives of every
# order are there.
P = ss.Pattern(rows, cols, (n, n))
sparse = gradient(ss.solve(P.assemble(graph.values(w)), b))

for name, result in (("SparseSolver.apply", drop_in), ("solve", sparse)):
    difference = (result - dense).norm() / dense.norm()
    print(f"|dL/dw dense - {name}| / |dL/dw| = {difference:.1e}")
    assert difference < 1e-12
