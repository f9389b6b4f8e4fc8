"""What the tasks differ in: each changes the job that the one loop runs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from flowturbo_core.requests import Generate
from flowturbo_core.sampler import Job


def initial_noise(shape: tuple[int, int, int], seeds: Sequence[int]) -> Tensor:
    """Draw the noise (B, C, H, W) of B images of `shape` (C, H, W), float32 on the CPU.

    Each image has a generator of its own, so that a seed gives the same image alone, in any
    batch, and on any device.
    """
    draws = [
        torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds
    ]
    return torch.stack(draws)


def generate(task: Generate, job: Job) -> Job:
    """Return the job as it is: it leads from noise to images."""
    return job


# How each task changes the job of generating images into its own.
JOBS: dict[type, Callable[[Any, Job], Job]] = {Generate: generate}
