"""sparsax's side of benchmarks/logdet.py, in a process of its own because it brings JAX.

Reads a problem from an .npz file, then one word a line from standard input: "gradient FILE" writes
log det A(w) and its gradient at the file's w, "step" times both at a new w and answers the seconds.
Imports neither torch nor this library, so that it runs in an environment without them.
"""

from __future__ import annotations

import sys
import time

import numpy as np


def main(problem: str) -> None:
    """Serve until standard input ends."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    import sparsax

    with np.load(problem) as data:
        i, j, n = data["i"], data["j"], int(data["n"])
    # sparsax takes one triangle, and adds up triplets at one place.
    nodes = np.arange(n)
    rows = np.concatenate([nodes, np.minimum(i, j), i, j]).astype(np.int32)
    cols = np.concatenate([nodes, np.maximum(i, j), i, j]).astype(np.int32)
    ones = np.ones(n)

    def log_det(w):  # type: ignore[no-untyped-def]
        return sparsax.logdet(rows, cols, jnp.concatenate([ones, -w, w, w]), n)

    value_and_gradient = jax.jit(jax.value_and_grad(log_det))
    rng = np.random.default_rng(1)

    def run(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, gradient = value_and_gradient(w)
        return np.asarray(value), np.asarray(gradient)

    print("ready", sparsax.__version__, jax.__version__, flush=True)
    for line in sys.stdin:
        word, *file = line.split()
        if word == "gradient":
            with np.load(file[0]) as data:
                value, gradient = run(data["w"])
            np.savez(file[0], value=value, gradient=gradient)
            print("done", flush=True)
        else:
            w = rng.random(len(i)) + 0.5
            start = time.perf_counter()
            run(w)
            print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
