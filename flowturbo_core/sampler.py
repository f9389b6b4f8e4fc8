"""The one sampling loop, and the job it is given."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flowturbo_core import steps as blocks
from flowturbo_core.compile import compile_block
from flowturbo_core.plan import SamplePlan
from flowturbo_core.steps import State

Step = Callable[[State, float, float, Any, Any], State]

_REFINE_STEPS = {"consistent": blocks.refine_step, "released": blocks.refine_step_released}


def _keep(state: State, t: float) -> State:
    return state


@dataclass(frozen=True)
class Job:
    """All that tells one task from another.

    Args:
        x_init: latents (B, C, H, W) to start from: noise, or a noised image.
        condition: what the velocity model is conditioned on, its batch as the guidance wants it.
        guidance_scale: the guidance scale, a 0-d tensor.
        t_start: time to start from, 0 for noise.
        project: called with the state and its time after every block, to change its x;
            inpainting puts the known part of the picture back here.
    """

    x_init: Tensor
    condition: Any
    guidance_scale: Tensor
    t_start: float = 0.0
    project: Callable[[State, float], State] = _keep


def sample(steps: Mapping[str, Step], plan: SamplePlan, job: Job) -> Iterator[State]:
    """Integrate dx/dt = v from `job.t_start` to 1, yielding the state after every block.

    `steps` has a function (state, t, dt, condition, guidance_scale) -> state for each kind of
    block; `build_steps` makes it.
    """
    state = State(job.x_init)
    for kind, t, dt in plan.schedule(job.t_start):
        state = steps[kind](state, t, dt, job.condition, job.guidance_scale)
        state = job.project(state, t + dt)
        yield state


def build_steps(
    velocity: nn.Module,
    refiner: nn.Module | None = None,
    variant: str = "consistent",
    compiled: bool = False,
) -> dict[str, Step]:
    """Bind each kind of block to its model, compiled whole if asked; without a refiner, no R."""
    bound = {
        "E": partial(blocks.euler_step, velocity),
        "H": partial(blocks.heun_step, velocity),
        "P": partial(blocks.pseudo_step, velocity),
    }
    if refiner is not None:
        bound["R"] = partial(_REFINE_STEPS[variant], refiner)
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
