"""Rivals: other samplers on the same predictor, which plans have to beat.

A rival is written as a name, a colon and a number of steps: "ab2:9", "dpm++:9" and "unipc:9" make
one evaluation a step. "fbc:16:0.1" is Euler's method with 16 steps and diffusers' FirstBlockCache.
The cache skips all transformer blocks but the first while the output of the first changes by less
than 0.1 of itself, averaged over the batch. So this rival alone depends on the size of the batch.
The methods of Euler and Heun are plans, E and H.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from diffusers import DPMSolverMultistepScheduler, SchedulerMixin, UniPCMultistepScheduler
from diffusers.hooks import FirstBlockCacheConfig
from torch import Tensor

from flowturbo_core.checks import brief, cut, real_number, whole_number
from flowturbo_core.devices import timed
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.pipelines.bench import Output
from flowturbo_core.plan import MAX_STEPS, SamplePlan, parse_distinct
from flowturbo_core.sampler import Job
from flowturbo_core.steps import State
from flowturbo_core.timing import Timing

Velocity = Callable[[Tensor, float], Tensor]  # v(x, t), x (B, C, h, w)


def adams_bashforth_2(velocity: Velocity, x: Tensor, num_steps: int) -> Tensor:
    """Integrate from t = 0 to 1: x += dt (3 v_n - v_(n-1)) / 2, the first step Euler's.

    Second order at one evaluation a step (Hairer, Norsett and Wanner, section III.1).
    """
    dt, before = 1 / num_steps, None
    for k in range(num_steps):
        v = velocity(x, k * dt)
        x = x + dt * (v if before is None else 1.5 * v - 0.5 * before)
        before = v
    return x


def euler(velocity: Velocity, x: Tensor, num_steps: int) -> Tensor:
    """Integrate from t = 0 to 1: x += dt v."""
    for k in range(num_steps):
        x = x + velocity(x, k / num_steps) / num_steps
    return x


def dpm_solver(velocity: Velocity, x: Tensor, num_steps: int) -> Tensor:
    """Integrate by DPM-Solver++(2M) (Lu et al., 2211.01095), in its flow form."""
    return _by_scheduler(DPMSolverMultistepScheduler(**_FLOW), velocity, x, num_steps)


def unipc(velocity: Velocity, x: Tensor, num_steps: int) -> Tensor:
    """Integrate by UniPC-2 (Zhao et al., 2302.04867), in its flow form."""
    return _by_scheduler(UniPCMultistepScheduler(**_FLOW), velocity, x, num_steps)


_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "solver_order": 2}


def _by_scheduler(scheduler: SchedulerMixin, velocity: Velocity, x: Tensor, steps: int) -> Tensor:
    """Integrate by a diffusers scheduler: its time is sigma = 1 - t, its output noise - data."""
    scheduler.set_timesteps(steps, device=x.device)
    sigmas = scheduler.sigmas.tolist()
    for sigma, timestep in zip(sigmas, scheduler.timesteps, strict=False):
        x = scheduler.step(-velocity(x, 1 - sigma), timestep, x).prev_sample
    return x


_SOLVERS = {"ab2": adams_bashforth_2, "dpm++": dpm_solver, "unipc": unipc, "fbc": euler}


_GRAMMAR = "write ab2:9, dpm++:9, unipc:9 or fbc:16:0.1, a solver, its steps and the threshold"


@dataclass(frozen=True)
class Rival:
    """A solver, its number of steps, and how much its cached first block may move.

    Raises ValueError for a solver, number or threshold there is not.
    """

    solver: str
    num_steps: int
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.solver not in _SOLVERS or (self.solver == "fbc") == (self.threshold is None):
            raise ValueError(_GRAMMAR)
        whole_number("a rival's steps", self.num_steps, 1, MAX_STEPS)
        if self.threshold is not None:
            real_number("a rival's threshold", self.threshold, 0, 10)

    @classmethod
    def parse(cls, text: str) -> "Rival":
        """Read "dpm++:9" or "fbc:16:0.1"."""
        solver, _, numbers = text.strip().lower().partition(":")
        steps, _, threshold = numbers.partition(":")
        try:
            numbers = int(steps), float(threshold) if threshold else None
        except ValueError:
            raise ValueError(f"rival {brief(text)} is not understood; {_GRAMMAR}") from None
        try:
            return cls(solver, *numbers)
        except ValueError as error:
            raise ValueError(f"rival {brief(text)}: {error}") from error

    def __str__(self) -> str:
        threshold = "" if self.threshold is None else f":{self.threshold!r}"
        return f"{self.solver}:{self.num_steps}{threshold}"

    @property
    def kinds(self) -> str:
        """The blocks it is timed by: all of it is one, S."""
        return "S"

    @property
    def predictor_evaluations(self) -> int:
        """How often the predictor is called for one image; with a cache, not always whole."""
        return self.num_steps

    @property
    def refiner_evaluations(self) -> int:
        """A rival refines nothing."""
        return 0

    def require_refiner(self, is_there: bool) -> None:
        """Accept every model: a rival needs no refiner."""

    @torch.no_grad()
    def solve(self, pipeline: FlowPipeline, job: Job) -> Tensor:
        """Return the latents (B, C, h, w) that `job` ends on, which starts from noise."""
        velocities = job.velocities
        packed = velocities.pack(job)

        def velocity(x: Tensor, t: float) -> Tensor:
            time = torch.tensor(t, dtype=torch.float32, device=x.device)
            return velocities.predictor(x, time, packed.condition, packed.guidance_scale)

        caching = nullcontext() if self.threshold is None else _first_block_cache(pipeline, self)
        with caching:
            x = _SOLVERS[self.solver](velocity, packed.x_init, self.num_steps)
        return velocities.unpack(State(x)).x


@contextmanager
def _first_block_cache(pipeline: FlowPipeline, rival: Rival) -> Iterator[None]:
    predictor = pipeline.predictor
    if not hasattr(predictor, "enable_cache"):
        raise ValueError(f"{type(predictor).__name__} cannot cache its first block")
    predictor.enable_cache(FirstBlockCacheConfig(threshold=rival.threshold))
    try:
        with predictor.cache_context("guided"):
            yield
    finally:
        predictor.disable_cache()


Contender = SamplePlan | Rival


def parse_contenders(plans: Sequence[str], rivals: Sequence[str] = ()) -> list[Contender]:
    """Read what is to be compared: at least one plan, none of them twice, and rivals after them."""
    parsed = [Rival.parse(text) for text in rivals]
    if len(set(map(str, parsed))) != len(parsed):
        raise ValueError(f"a rival is named twice in {cut(', '.join(rivals))}")
    return [*parse_distinct(plans), *parsed]


def finish(pipeline: FlowPipeline, job: Job, contender: Contender, output_type: str) -> Output:
    """Run `job` to the end by a plan or a rival, decode it, and time both."""
    if isinstance(contender, SamplePlan):
        return pipeline.finish(job, contender, output_type)
    latents, solve_ms = timed(lambda: contender.solve(pipeline, job), pipeline.device)
    images, decode_ms = timed(lambda: pipeline.decode(latents, output_type), pipeline.device)
    return Output(images, latents, Timing(len(latents), (solve_ms,), decode_ms))
