"""Problems for tests, documentation and benchmarks.

Parametrised problems are a `MatrixFamily`: one pattern, and a differentiable map from weights to
values (`problem.assemble(weights)`). The others are a `SparseMatrix`. Whatever is random comes from
a `torch.Generator` that can be given.

==================================== =================================================
parametrised                         weights
==================================== =================================================
`cyclic_chain`                       springs of a ring
`edge_graph`, `random_edge_graph`,   edges of a graph
`grid_graph`
`diffusion`                          conductivity by segment, triangle or tetrahedron
`elasticity_elements`                Young's modulus by rectangle or hexahedron
==================================== =================================================

==================================== =================================================
matrix                               kind
==================================== =================================================
`grid_laplacian`                     positive definite, or singular (Neumann)
`elasticity`                         positive definite, or singular (free)
`convection_diffusion`               unsymmetric M-matrix
`stokes`                             symmetric indefinite, or singular (free pressure)
`helmholtz`                          complex symmetric
`circuit`                            unsymmetric with zeros on the diagonal
`load`                               real data that comes with pyamg
==================================== =================================================
"""

from .data import RealProblem, load
from .elements import (
    ElementMatrices,
    diffusion,
    elasticity,
    elasticity_elements,
    refine_triangles,
    rigid_body_modes,
)
from .family import MatrixFamily
from .graphs import (
    CyclicChain,
    GraphLaplacian,
    cyclic_chain,
    edge_graph,
    grid_graph,
    random_edge_graph,
)
from .grids import convection_diffusion, grid_laplacian, helmholtz, recirculating_wind
from .systems import circuit, stokes

__all__ = [
    "CyclicChain",
    "ElementMatrices",
    "GraphLaplacian",
    "MatrixFamily",
    "RealProblem",
    "circuit",
    "convection_diffusion",
    "cyclic_chain",
    "diffusion",
    "edge_graph",
    "elasticity",
    "elasticity_elements",
    "grid_graph",
    "grid_laplacian",
    "helmholtz",
    "load",
    "random_edge_graph",
    "recirculating_wind",
    "refine_triangles",
    "rigid_body_modes",
    "stokes",
]
