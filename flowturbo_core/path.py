"""The straight path from noise (t = 0) to data (t = 1), which every model here has learnt.

x_t = (1 - t) x_0 + t x_1, at the constant velocity x_1 - x_0 (Rectified Flow, 2209.03003, eq. 1).
Tensors are (B, C, H, W); a time is a number, or a tensor that multiplies them.
"""

import torch
from torch import Tensor


def point(noise: Tensor, data: Tensor, t: float | Tensor) -> Tensor:
    """Return where the path from `noise` to `data` is at time `t`."""
    return torch.lerp(noise, data, t)


def velocity(noise: Tensor, data: Tensor) -> Tensor:
    """Return the velocity of the path from `noise` to `data`, the same at all times."""
    return data - noise


def end(x: Tensor, v: Tensor, t: float | Tensor) -> Tensor:
    """Return the data to which the velocity `v`, kept from `x` at time `t` on, leads."""
    return x + (1 - t) * v


def curvature(v_before: Tensor, v: Tensor, dt: float) -> Tensor:
    """Return the curvature (B,) of the paths x(t) whose velocity goes from `v_before` to `v`.

    kappa = |a - (a . u) u| / |v|^2 with a = dv/dt and u = v / |v|. It is the inverse radius of the
    circle that touches the path, in the units of x. Only a turn of the velocity counts, not a
    change of its length. FlowTurbo's figure 1 plots it (2409.18128). Velocities are (B, ...), and
    `dt` is the time between them; v and a are taken in the middle. Zero where the velocity is zero.
    """
    middle = ((v_before + v) / 2).flatten(1).double()
    acceleration = ((v - v_before) / dt).flatten(1).double()
    speed_squared = middle.square().sum(1).clamp_min(1e-30)
    along = (acceleration * middle).sum(1) / speed_squared
    across = acceleration - along[:, None] * middle
    return across.norm(dim=1) / speed_squared
