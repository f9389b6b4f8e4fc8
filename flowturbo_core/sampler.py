"""The one sampling loop, and the job it is given."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from flowturbo_core import steps as blocks
from flowturbo_core.compile import compile_block
from flowturbo_core.plan import SamplePlan
from flowturbo_core.steps import State

HAIR = 1e-6  # of time: a float32 near 1 tells it from none
Step = Callable[[State, float, float, Any, Any], State]

_REFINE_STEPS = {"consistent": blocks.refine_step, "released": blocks.refine_step_released}


def keep(given: Any, *others: Any) -> Any:
    """Return what is given as it is: what a job does where its task asks for nothing else."""
    return given


@dataclass(frozen=True, eq=False)
class Velocities:
    """What a job integrates: velocity models as blocks call them.

    They live as long as the models they are made of, as compiled programs are kept by them.

    Args:
        predictor: `predictor(x, t, condition, guidance_scale) -> v`.
        refiner: `refiner(x, t, v, condition, guidance_scale) -> offset`; without it, no R.
        variant: how R combines the offsets, `consistent` or `released`.
        pack: turns a job on B images into the one that the loop runs.
        unpack: turns a state that leaves the loop into one of B images.
    """

    predictor: nn.Module
    refiner: nn.Module | None = None
    variant: str = "consistent"
    pack: Callable[["Job"], "Job"] = keep
    unpack: Callable[[State], State] = keep


@dataclass(frozen=True)
class Job:
    """All that tells one task from another.

    Args:
        x_init: latents (B, C, H, W) to start from: noise, or a noised image.
        velocities: what is integrated.
        condition: what the velocities are conditioned on: tensors, nested in lists, tuples and
            dictionaries as the model wants them, their batch as the guidance wants it.
        guidance_scale: the guidance scale, a 0-d tensor, or (B, 1, 1, 1): one for each image.
        t_start: the time to start from, 0 for noise.
        t_switch: the time at which the velocities become others, if they do before the end.
        project: called with the state and its time after every block, to change x and v:
            inpainting puts the known part of the picture, and its velocity, back here. It depends
            on nothing but its arguments, as it may be called twice: see `PartialGuidance`.
        present: called with the decoded images, those of previews too, to change what is shown.
    """

    x_init: Tensor
    velocities: Velocities
    condition: Any
    guidance_scale: Tensor
    t_start: float = 0.0
    t_switch: float = 1.0
    project: Callable[[State, float], State] = keep
    present: Callable[[Sequence[Image.Image]], Sequence[Image.Image]] = keep

    def schedule(self, plan: SamplePlan) -> list[tuple[str, float, float]]:
        """Return the (kind, t, dt) of each block of a plan, uniform on each side of `t_switch`.

        Where the velocities become others, none is carried: a P there is an H. From there on all
        times are a hair late, which is how they tell the sides apart.
        """
        share = (self.t_switch - self.t_start) / (1 - self.t_start) if self.t_start < 1 else 1
        before = min(max(round(share * len(plan)), 1), len(plan) - 1)
        if self.t_switch >= 1 or len(plan) == 1:
            return list(plan.schedule(self.t_start))
        sides = (self.t_start, self.t_switch, before), (self.t_switch, 1.0, len(plan) - before)
        grid = [a + (b - a) * k / count for a, b, count in sides for k in range(count)] + [1.0]
        kinds = plan.kinds
        if kinds[before] == "P":
            kinds = f"{kinds[:before]}H{kinds[before + 1 :]}"
        late = [0.0] * before + [HAIR] * (len(plan) - before)
        return [
            (kind, t + its, after - t)
            for kind, t, after, its in zip(kinds, grid, grid[1:], late, strict=False)
        ]


def sample(
    steps: Mapping[str, Step], schedule: Iterable[tuple[str, float, float]], job: Job
) -> Iterator[State]:
    """Integrate dx/dt = v along `schedule`, yielding the state after every block.

    `schedule` has the (kind, t, dt) of each block in order, as `job.schedule(plan)`.
    `steps` has a function (state, t, dt, condition, guidance_scale) -> state for each kind of
    block; `build_steps` makes it.
    """
    state = State(job.x_init)
    for kind, t, dt in schedule:
        state = steps[kind](state, t, dt, job.condition, job.guidance_scale)
        state = job.project(state, t + dt)
        yield state


def build_steps(velocities: Velocities, compiled: bool = False) -> dict[str, Step]:
    """Bind each kind of block to its model, compiled whole if asked; without a refiner, no R."""
    bound = {
        "E": partial(blocks.euler_step, velocities.predictor),
        "H": partial(blocks.heun_step, velocities.predictor),
        "P": partial(blocks.pseudo_step, velocities.predictor),
    }
    if velocities.refiner is not None:
        bound["R"] = partial(_REFINE_STEPS[velocities.variant], velocities.refiner)
    if compiled:
        bound = {kind: compile_block(kind, step) for kind, step in bound.items()}
    return {kind: partial(_on_device, step) for kind, step in bound.items()}


def _on_device(
    step: Step, state: State, t: float, dt: float, condition: Any, guidance_scale: Tensor
) -> State:
    """Pass t and dt as 0-d tensors on the device, so that a compiled block serves every time."""
    device = state.x.device
    times = (torch.tensor(value, dtype=torch.float32, device=device) for value in (t, dt))
    return step(state, *times, condition, guidance_scale)
