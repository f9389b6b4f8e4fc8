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
