"""Measures how straight trajectories are. FlowTurbo's refiner is small because they are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowturbo_core import path
from flowturbo_core.evaluation.solver_error import NUM_NOISES, jobs
from flowturbo_core.files import written_whole
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.plan import SamplePlan
from flowturbo_core.sampler import Job, build_steps, sample
from flowturbo_core.steps import State

_QUARTILES = ("lower_quartile", "median", "upper_quartile")


@dataclass(frozen=True)
class Trajectory:
    """Where paths were and how they moved.

    Args:
        times: the N + 1 times, from 0 (noise) to 1 (data).
        x: latents (N + 1, B, ...).
        v: velocities there, of the same shape.
    """

    times: tuple[float, ...]
    x: Tensor
    v: Tensor


def deviations(trajectory: Trajectory) -> Tensor:
    """Return |(Z_1 - Z_0) - v(Z_t, t)|^2 at each time, (N + 1, B)."""
    displacement = trajectory.x[-1] - trajectory.x[0]
    return (displacement - trajectory.v).double().square().flatten(2).sum(2)


def straightness(trajectory: Trajectory) -> float:
    """Return S(Z), the integral over t of E |(Z_1 - Z_0) - v(Z_t, t)|^2, by the trapezoidal rule.

    Zero for straight paths at constant speed (Rectified Flow, 2209.03003, eq. 6; InstaFlow,
    2309.06380, section 2.3).
    """
    means = deviations(trajectory).mean(1)
    return float(torch.trapezoid(means, torch.tensor(trajectory.times, dtype=torch.float64)))


@torch.no_grad()
def follow(
    pipeline: FlowPipeline,
    guidance_scale: float | None = None,
    seed: int = 0,
    num_steps: int = 32,
    num_noises: int = NUM_NOISES,
) -> Trajectory:
    """Return the paths of fixed noises by Heun's method, with the velocity at every state."""
    plan = SamplePlan("H" * num_steps)
    paths = [_path(job, plan) for job in jobs(pipeline, guidance_scale, seed, num_noises)]
    x, v = (torch.cat(parts, dim=1) for parts in zip(*paths, strict=True))
    return Trajectory(plan.time_grid(), x, v)


def _path(job: Job, plan: SamplePlan) -> tuple[Tensor, Tensor]:
    velocities = job.velocities
    packed = velocities.pack(job)
    blocks = sample(build_steps(velocities), plan.schedule(), packed)
    states = []
    for x, t in zip([packed.x_init, *(state.x for state in blocks)], plan.time_grid(), strict=True):
        time = torch.tensor(t, device=x.device)
        v = velocities.predictor(x, time, packed.condition, packed.guidance_scale)
        states.append(velocities.unpack(State(x, v)))
    return tuple(torch.stack(parts).cpu() for parts in zip(*states, strict=True))


def describe(trajectory: Trajectory) -> dict[str, Any]:
    """Return the numbers of FlowTurbo's figure 1: quartiles of the curvature, and S(Z) by time."""
    times = trajectory.times
    intervals = list(zip(times[:-1], times[1:], strict=True))
    moves = zip(trajectory.v[:-1], trajectory.v[1:], intervals, strict=True)
    bent = torch.stack(
        [path.curvature(before, v, end - start) for before, v, (start, end) in moves]
    )
    quartiles = torch.quantile(bent, torch.tensor([0.25, 0.5, 0.75], dtype=bent.dtype), dim=1)
    per_dimension = trajectory.x[0, 0].numel()
    return {
        "curvature": [
            {"t": (start + end) / 2} | dict(zip(_QUARTILES, values, strict=True))
            for (start, end), values in zip(intervals, quartiles.T.tolist(), strict=True)
        ],
        "deviation": [
            {"t": t, "mean": mean}
            for t, mean in zip(times, deviations(trajectory).mean(1).tolist(), strict=True)
        ],
        "straightness": straightness(trajectory),
        "straightness_per_dimension": straightness(trajectory) / per_dimension,
        "num_noises": trajectory.x.shape[1],
        "num_steps": len(intervals),
    }


def plot(described: dict[str, Any], title: str, file: Path) -> None:
    """Draw curvature and deviation against time into `file`, a .png, .svg or .pdf."""
    from matplotlib.figure import Figure  # only here: it takes half a second to import

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = described["curvature"]
    times = [row["t"] for row in rows]
    low, middle, high = ([row[name] for row in rows] for name in _QUARTILES)
    left.plot(times, middle, color="#4f46e5", label="median")
    left.fill_between(times, low, high, color="#4f46e5", alpha=0.2, label="quartiles")
    left.set(xlabel="t (0 noise, 1 data)", ylabel="curvature of the path", ylim=(0, None))
    left.legend(frameon=False)
    right.plot(
        [row["t"] for row in described["deviation"]],
        [row["mean"] for row in described["deviation"]],
        color="#db2777",
    )
    right.set(
        xlabel="t (0 noise, 1 data)",
        ylabel="E |(Z1 - Z0) - v|²",
        ylim=(0, None),
        title=f"S(Z) = {described['straightness']:.4g}",
    )
    left.set_title(title)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    with written_whole(file) as partial:
        figure.savefig(partial, dpi=150, format=file.suffix.removeprefix("."))
