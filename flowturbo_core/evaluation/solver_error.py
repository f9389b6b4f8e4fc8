"""The solver error: how far a plan ends from the exact solution. It needs no data set.

The reference is Heun's method with 100 steps, from the same noise and under the same guidance. It
is solved in float32 whatever the model otherwise computes in, because rounding is not an error of
the solver. The steps are shorter near the noise, where the content of a picture is decided and
errors grow. This halves the distance to the solution at least, compared with equal steps (measured
on postcards-sit: a factor of two to four).

Some noises lie where the flow parts: a small early error leads to another picture. With 100 steps,
two of the 64 noises of postcards-sit ended 0.2 and 0.1 away from where 200 steps led. Such noises
get more steps.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from flowturbo_core.evaluation.frechet import Estimate, bootstrap
from flowturbo_core.evaluation.rivals import Contender, finish
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.sampler import Job, build_steps, sample

NUM_NOISES = 64
REFERENCE_STEPS = 100
# If half as many steps end further away than this, a noise gets twice as many, up to the most.
_MOVED, _MOST_STEPS = 0.01, 3200
_BATCH = 16


def jobs(
    pipeline: FlowPipeline,
    guidance_scale: float | None,
    seed: int,
    num_noises: int = NUM_NOISES,
) -> Iterator[Job]:
    """Yield the fixed noises, 16 at a time, their classes or prompts in turn."""
    for first in range(0, num_noises, _BATCH):
        count = min(_BATCH, num_noises - first)
        yield pipeline.job(pipeline.example_request(count, guidance_scale, seed + first, first))


@dataclass(frozen=True)
class Reference:
    """The end of the flow: latents (64, C, h, w), and the number of steps from each noise."""

    latents: Tensor
    num_steps: tuple[int, ...]


def solve_reference(
    pipeline: FlowPipeline, guidance_scale: float | None = None, seed: int = 0
) -> Reference:
    """Return the reference: 100 steps, and more from noises where half as many end elsewhere."""
    asked = (pipeline, guidance_scale, seed)
    latents = solve(*asked)
    moved = solver_errors(solve(*asked, REFERENCE_STEPS // 2), latents).tolist()
    counts = [REFERENCE_STEPS] * len(latents)
    for k, count in enumerate(counts):
        while moved[k] > _MOVED and count < _MOST_STEPS:
            count *= 2
            finer = _solve_one(*asked, k, count)
            moved[k] = float(solver_errors(finer, latents[k : k + 1]))
            latents[k : k + 1] = finer
        counts[k] = count
    return Reference(latents, tuple(counts))


def solve(
    pipeline: FlowPipeline,
    guidance_scale: float | None = None,
    seed: int = 0,
    num_steps: int | Sequence[int] = REFERENCE_STEPS,
) -> Tensor:
    """Return the latents (64, C, h, w) of Heun's method; `num_steps` may differ by noise."""
    counts = [num_steps] * NUM_NOISES if isinstance(num_steps, int) else list(num_steps)
    fewest = min(counts)
    latents = torch.cat([_heun(job, fewest) for job in jobs(pipeline, guidance_scale, seed)])
    for k, count in enumerate(counts):
        if count > fewest:
            latents[k : k + 1] = _solve_one(pipeline, guidance_scale, seed, k, count)
    return latents


def _solve_one(
    pipeline: FlowPipeline, guidance_scale: float | None, seed: int, k: int, num_steps: int
) -> Tensor:
    """Return the latents (1, C, h, w) that noise k ends on."""
    request = pipeline.example_request(1, guidance_scale, seed + k, k)
    return _heun(pipeline.job(request), num_steps)


@torch.no_grad()
def _heun(job: Job, num_steps: int) -> Tensor:
    """Take Heun steps on t_k = 1 - cos(k pi / 2N), a grid that no plan has."""
    grid = [1 - math.cos(k * math.pi / 2 / num_steps) for k in range(num_steps + 1)]
    schedule = [("H", t, t_next - t) for t, t_next in pairwise(grid)]
    velocities = job.velocities
    *_, last = sample(build_steps(velocities), schedule, velocities.pack(job))
    return velocities.unpack(last).x


@torch.no_grad()
def ends(
    pipeline: FlowPipeline,
    plan: Contender,
    guidance_scale: float | None = None,
    seed: int = 0,
    num_noises: int = NUM_NOISES,
) -> Tensor:
    """Return the latents (num_noises, C, h, w) that `plan` ends on, from the same noises."""
    return torch.cat(
        [
            finish(pipeline, job, plan, "latent").latents
            for job in jobs(pipeline, guidance_scale, seed, num_noises)
        ]
    )


def solver_errors(latents: Tensor, reference: Tensor) -> Tensor:
    """Return the root mean square error of each image (N,), both (N, ...)."""
    if latents.shape != reference.shape:
        raise ValueError(
            f"latents {tuple(latents.shape)} and reference {tuple(reference.shape)} differ in shape"
        )
    return (latents.double() - reference.double()).square().flatten(1).mean(1).sqrt()


def root_mean_square(errors: Tensor) -> float:
    """Return the root mean square of errors (N,)."""
    return float(errors.square().mean().sqrt())


def estimate_error(errors: Tensor) -> Estimate:
    """Estimate the root mean square of errors (N,)."""
    return bootstrap(lambda i: root_mean_square(errors[i]), len(errors))
