"""What runs a model: noise and guidance, the blocks one by one, decoding, and their times."""

import copy
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from accelerate.utils import get_data_structure
from diffusers import AutoencoderKL, ModelMixin
from PIL import Image
from torch import Tensor

from flowturbo_core import path
from flowturbo_core.checks import brief
from flowturbo_core.compile import can_compile
from flowturbo_core.devices import timed
from flowturbo_core.guidance import Guidance, choose_guidance, guided_velocities
from flowturbo_core.images import from_pil, to_pil
from flowturbo_core.kernels import Kernels
from flowturbo_core.models.autoencoder import decode_latents, encode_images, not_finite
from flowturbo_core.pipelines.folder import FolderModel
from flowturbo_core.plan import SamplePlan
from flowturbo_core.sampler import Job, Step, Velocities, sample
from flowturbo_core.steps import State
from flowturbo_core.tasks import initial_noise
from flowturbo_core.timing import Timing

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass(frozen=True)
class Progress:
    """One block done.

    Args:
        block: how many blocks are done, from 1.
        num_blocks: how many the plan has.
        kind: the kind of block, E, H, P or R.
        t: the time reached, 1 at the end.
        state: latents and velocity, (B, C, h, w), a copy that nothing overwrites.
        block_ms: what this block took on the device.
    """

    block: int
    num_blocks: int
    kind: str
    t: float
    state: State
    block_ms: float

    def prediction(self) -> Tensor:
        """Return the image this state points at, x_1 = x + (1 - t) v, as latents (B, C, h, w)."""
        return path.end(self.state.x, self.state.v, self.t)


@dataclass(frozen=True)
class Output:
    """What a pipeline returns.

    Args:
        images: the images, in the type asked for.
        latents: what they were decoded from, (B, C, h, w).
        timing: the time they took.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    latents: Tensor
    timing: Timing


class Bench(FolderModel):
    """A model that runs jobs block by block, and times them.

    Args:
        predictor: the heavy velocity model.
        vae: the autoencoder of its latents.
        refiner: the light model that R blocks need.
    """

    def __init__(
        self, predictor: ModelMixin, vae: AutoencoderKL, refiner: ModelMixin | None = None
    ):
        super().__init__(predictor, vae, refiner)
        self._velocities: dict[Hashable, Velocities] = {}  # by the form of guidance
        self._kernels, self._is_compiled = Kernels(), False

    def to(
        self,
        device: torch.device | torch.dtype | str | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> Self:
        """Move every model to `device` and `dtype`, where given; a dtype alone may come first."""
        super().to(device, dtype)
        self._kernels.reset()
        return self

    def compiled(self) -> Self:
        """Return a pipeline on the same weights and kernels that compiles each block, whole.

        The first run of each kind and batch size takes as long as compiling does. Raises
        ValueError where torch.compile does not work.
        """
        if not can_compile(self.device.type):
            raise ValueError(
                "torch.compile does not work on this machine: it needs a C++ compiler and "
                "Python's headers on a CPU, Triton on a GPU"
            )
        twin = copy.copy(self)
        twin._is_compiled = True
        return twin

    def noise(
        self,
        shape: tuple[int, int, int],
        seeds: Sequence[int],
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Return the noise (B, *shape) of B images: `latents`, the generator's, or the seeds'."""
        if latents is not None:
            noise = _check_noise(latents, (len(seeds), *shape))
        elif generator is not None:
            if not isinstance(generator, torch.Generator):
                raise ValueError(f"generator must be a torch.Generator, not {brief(generator)}")
            size = (len(seeds), *shape)
            noise = torch.randn(size, generator=generator, device=generator.device)
        else:
            noise = initial_noise(shape, seeds)
        return noise.to(self.device)

    def guided(
        self, noise: Tensor, condition: Any, null_condition: Any, guidance_scale: float
    ) -> Job:
        """Return the job that leads from noise (B, C, h, w) to images, guided as this model is.

        The conditions have B entries each. The guidance is chosen here, by the number that the
        loop computes with, a float32.
        """
        scale = torch.tensor(guidance_scale, dtype=torch.float32, device=noise.device)
        guidance = self.guidance(scale)
        # Of a model's partial guidance there is one number of channels.
        velocities = self.hold(
            type(guidance), lambda: guided_velocities(self.predictor, self.refiner, guidance)
        )
        return Job(noise, velocities, guidance.pair(condition, null_condition), scale)

    def guidance(self, guidance_scale: Tensor) -> Guidance:
        """Return how this model is guided at a scale."""
        config = self.predictor.config
        return choose_guidance(guidance_scale, config.get("guided_channels"), config.in_channels)

    def hold(self, key: Hashable, make: Callable[[], Velocities]) -> Velocities:
        """Return the velocities of a key, made once: compiled programs are kept by them."""
        if key not in self._velocities:
            self._velocities[key] = make()
        return self._velocities[key]

    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Return the latents (B, C, h, w) of pictures of one size."""
        images = from_pil(pictures).to(self.device).float() / 127.5 - 1
        return encode_images(self.vae, images)

    @torch.no_grad()
    def run(self, job: Job, plan: SamplePlan) -> Iterator[Progress]:
        """Run `job` by `plan`, yielding after every block; closing the generator stops it.

        One block of each kind is run beforehand, unless that shape already was, so that no
        first-time cost enters the times. Raises ValueError if the plan needs a refiner that
        this model does not have.
        """
        plan.require_refiner(job.velocities.refiner is not None)
        steps = self._kernels.steps(job.velocities, self._is_compiled)
        packed = job.velocities.pack(job)
        self._warm_up(steps, packed, plan, job.x_init)
        schedule = job.schedule(plan)
        states = sample(steps, schedule, packed)
        for done, (kind, t, dt) in enumerate(schedule, start=1):
            state, block_ms = timed(partial(next, states), self.device)
            x, v = job.velocities.unpack(state)
            state = State(x.clone(), v.clone())
            yield Progress(done, len(schedule), kind, min(t + dt, 1.0), state, block_ms)

    def _warm_up(
        self, steps: Mapping[str, Step], job: Job, plan: SamplePlan, latents: Tensor
    ) -> None:
        state = State(job.x_init, torch.zeros_like(job.x_init))
        shapes = (tuple(job.x_init.shape), repr(get_data_structure(job.condition)))
        for kind in sorted(set(plan.kinds)):
            run = partial(steps[kind], state, 0.0, 0.0, job.condition, job.guidance_scale)
            self._kernels.warm_up((steps[kind], *shapes), run)
        decode = partial(decode_latents, self.vae, latents)
        self._kernels.warm_up(("decode", tuple(latents.shape)), decode)

    def finish(self, job: Job, plan: SamplePlan, output_type: str = "pil") -> Output:
        """Run `job` by `plan` to the end, decode it and present it."""
        _check_output_type(output_type)
        blocks = list(self.run(job, plan))
        latents = blocks[-1].state.x
        images, decode_ms, present_ms = self.show(job, latents, output_type)
        block_ms = tuple(block.block_ms for block in blocks)
        timing = Timing(len(latents), block_ms, decode_ms, present_ms=present_ms)
        return Output(images, latents, timing)

    def show(self, job: Job, latents: Tensor, output_type: str = "pil") -> tuple[Any, float, float]:
        """Decode latents (B, C, h, w) of a job and present the pictures, as its task says.

        Tensors and arrays are what was decoded: a task presents pictures alone. The milliseconds
        of decoding and those of presenting come with them.
        """
        images, decode_ms = timed(partial(self.decode, latents, output_type), self.device)
        if output_type != "pil":
            return images, decode_ms, 0.0
        images, present_ms = timed(partial(job.present, images), self.device)
        return images, decode_ms, present_ms

    def decode(self, latents: Tensor, output_type: str = "pil") -> Any:
        """Decode latents (B, C, h, w) to pictures, or to `np` or `pt` images in [0, 1].

        `np` is (B, H, W, 3), `pt` (B, 3, H, W), `latent` the latents themselves.
        Raises FloatingPointError if a value is not finite.
        """
        _check_output_type(output_type)
        channels = self.latent_shape[0]
        if not isinstance(latents, Tensor) or latents.ndim != 4 or latents.shape[1] != channels:
            found = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
            raise ValueError(f"latents must be a tensor (B, {channels}, h, w), not {found}")
        if not torch.isfinite(latents).all():
            raise not_finite("sampling gave latents", self.dtype)
        if output_type == "latent":
            return latents
        images = decode_latents(self.vae, latents)
        if output_type == "pil":
            return to_pil(images)
        images = images / 2 + 0.5
        return images if output_type == "pt" else images.permute(0, 2, 3, 1).cpu().numpy()


def _check_output_type(output_type: object) -> None:
    if output_type not in OUTPUT_TYPES:
        raise ValueError(
            f"output_type {brief(output_type)} is not one of {', '.join(OUTPUT_TYPES)}"
        )


def _check_noise(latents: object, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(latents, Tensor):
        raise ValueError(f"latents must be a torch tensor, not a {type(latents).__name__}")
    if tuple(latents.shape) != shape:
        raise ValueError(f"latents must have the shape {shape}, not {tuple(latents.shape)}")
    if latents.is_complex():
        raise ValueError(f"latents must be real numbers, not {latents.dtype} (complex)")
    if latents.layout != torch.strided or latents.is_meta:
        raise ValueError("latents must be a dense tensor with values; these are sparse or meta")
    noise = latents.float()
    if not torch.isfinite(noise).all():
        raise ValueError("latents must be finite in float32; these hold NaN or infinity")
    return noise
