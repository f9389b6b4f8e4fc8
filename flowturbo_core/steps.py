"""The four kinds of sample block: pure functions from one state to the next.

A velocity model is called as `velocity(x, t, condition, guidance_scale) -> v`, a refiner as
`refiner(x, t, v, condition, guidance_scale) -> offset`. Times run from 0 (noise) to 1 (data);
t, dt and the guidance scale are 0-d tensors. FlowTurbo is Zhao et al., 2409.18128.

`advance` and `trapezoid` are the arithmetic alone, for those who evaluate the models themselves.
"""

from typing import NamedTuple

from torch import Tensor


class State(NamedTuple):
    """What one block hands to the next."""

    x: Tensor  # (B, C, H, W) latents
    v: Tensor | None = None  # (B, C, H, W) velocity carried to the next block


def advance(x: Tensor, v: Tensor, dt: Tensor | float) -> Tensor:
    """Return where `x` is after `dt` at the velocity `v`."""
    return x + dt * v


def trapezoid(x: Tensor, d0: Tensor, d1: Tensor, dt: Tensor | float) -> Tensor:
    """Return where `x` is after `dt`, at the mean of the velocities at both ends."""
    return x + dt / 2 * (d0 + d1)


def euler_step(velocity, state, t, dt, condition, guidance_scale):
    """Take an Euler step, E: one evaluation. InstaFlow's sampler (2309.06380, eq. 2)."""
    v = velocity(state.x, t, condition, guidance_scale)
    return State(advance(state.x, v, dt), v)


def heun_step(velocity, state, t, dt, condition, guidance_scale):
    """Take a Heun step, H: two evaluations, second order (FlowTurbo, eq. 6)."""
    d0 = velocity(state.x, t, condition, guidance_scale)
    return _correct(velocity, state.x, d0, t, dt, condition, guidance_scale)


def pseudo_step(velocity, state, t, dt, condition, guidance_scale):
    """Take a pseudo-corrector step, P: Heun's with the carried velocity for the first of its two.

    One evaluation, second order (FlowTurbo, eq. 8 and appendix B).
    """
    return _correct(velocity, state.x, state.v, t, dt, condition, guidance_scale)


def refine_step(refiner, state, t, dt, condition, guidance_scale):
    """Take a refiner step, R, variant `consistent`: two refiner evaluations, no predictor.

    Both offsets are added to the carried velocity, as in training (FlowTurbo, eq. 13).
    """
    d0 = refiner(state.x, t, state.v, condition, guidance_scale) + state.v
    x_end = advance(state.x, d0, dt)
    d1 = refiner(x_end, t + dt, state.v, condition, guidance_scale) + state.v
    return State(trapezoid(state.x, d0, d1, dt), d1)


def refine_step_released(refiner, state, t, dt, condition, guidance_scale):
    """Take a refiner step, R, variant `released`: what the published weights were measured with.

    The second offset is added to d0 rather than to the carried velocity, and d0 is carried on.
    """
    d0 = refiner(state.x, t, state.v, condition, guidance_scale) + state.v
    x_end = advance(state.x, d0, dt)
    d1 = refiner(x_end, t + dt, state.v, condition, guidance_scale) + d0
    return State(trapezoid(state.x, d0, d1, dt), d0)


def _correct(velocity, x, d0, t, dt, condition, guidance_scale):
    d1 = velocity(advance(x, d0, dt), t + dt, condition, guidance_scale)
    return State(trapezoid(x, d0, d1, dt), d1)
