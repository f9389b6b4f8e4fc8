"""What the tasks differ in: each makes the job that the one loop runs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowturbo_core.sampler import Job, Velocities


def initial_noise(shape: tuple[int, int, int], seeds: Sequence[int]) -> Tensor:
    """Draw the noise (B, C, H, W) of B images of `shape` (C, H, W), float32 on the CPU.

    Each image has a generator of its own, so that a seed gives the same image alone, in any
    batch, and on any device.
    """
    draws = [
        torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds
    ]
    return torch.stack(draws)


def generate(noise: Tensor, velocities: Velocities, condition: Any, guidance_scale: Tensor) -> Job:
    """Return the job of generating images from noise (B, C, H, W)."""
    return Job(noise, velocities, condition, guidance_scale)
