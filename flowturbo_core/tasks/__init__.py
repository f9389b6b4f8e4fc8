"""What the tasks differ in: each changes the job of generating images into its own."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from flowturbo_core.guidance import Guidance
from flowturbo_core.requests import Edit, Generate, Inpaint, Request
from flowturbo_core.sampler import Job, Velocities
from flowturbo_core.tasks.edit import edit
from flowturbo_core.tasks.inpaint import inpaint


class Tools(Protocol):
    """What a task needs of a loaded model."""

    predictor: nn.Module
    factor: int

    def pixels(self, request: Request) -> tuple[int, int]:
        """Return the height and the width of a request's images."""

    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Return the latents (B, C, h, w) of pictures of one size."""

    def conditions(self, request: Request) -> tuple[Any, Any]:
        """Return the condition of each image, and that which guidance leads away from."""

    def guidance(self, guidance_scale: Tensor) -> Guidance:
        """Return how this model is guided at a scale."""

    def hold(self, key: object, make: Callable[[], Velocities]) -> Velocities:
        """Return the velocities of a key, made once: compiled programs are kept by them."""


def initial_noise(shape: tuple[int, int, int], seeds: Sequence[int]) -> Tensor:
    """Draw the noise (B, C, H, W) of B images of `shape` (C, H, W), float32 on the CPU.

    Each image has a generator of its own, so that a seed gives the same image alone, in any
    batch, and on any device.
    """
    draws = [
        torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds
    ]
    return torch.stack(draws)


def generate(request: Request, job: Job, tools: Tools) -> Job:
    """Return the job as it is: it leads from noise to images."""
    return job


# How each task changes the job of generating images from noise into its own.
JOBS: dict[type, Callable[[Request, Job, Tools], Job]] = {
    Generate: generate,
    Edit: edit,
    Inpaint: inpaint,
}
