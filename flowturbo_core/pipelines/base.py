"""What every pipeline does: a request becomes a job, and the job pictures."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, ModelMixin
from torch import Tensor

from flowturbo_core.devices import timed
from flowturbo_core.guidance import guidance_warnings
from flowturbo_core.models.catalog import DEFAULT_GUIDANCE_SCALE, DEFAULT_PLAN
from flowturbo_core.pipelines.bench import Bench, Output, Progress
from flowturbo_core.plan import SamplePlan
from flowturbo_core.requests import GUIDANCE_SCALE, Request, Subject
from flowturbo_core.sampler import Job
from flowturbo_core.tasks import JOBS


class FlowPipeline(Bench):
    """A predictor, perhaps a refiner, and an autoencoder; subclasses know the condition.

    Args:
        predictor: the heavy velocity model.
        vae: the autoencoder of its latents.
        refiner: the light model that R blocks need.
        default_plan: the plan where none is given.
        default_guidance_scale: the guidance scale where none is given.

    Raises ValueError if the autoencoder is not the one the predictor was trained on.
    """

    # What it draws.
    subject: ClassVar[type[Subject]]
    SETTINGS: ClassVar[tuple[str, ...]] = ("default_plan", "default_guidance_scale")

    def __init__(
        self,
        predictor: ModelMixin,
        vae: AutoencoderKL,
        refiner: ModelMixin | None = None,
        default_plan: str = DEFAULT_PLAN,
        default_guidance_scale: float = DEFAULT_GUIDANCE_SCALE,
    ):
        super().__init__(predictor, vae, refiner)
        self.class_names: list[str] = []
        self.default_plan = str(SamplePlan.parse(default_plan))
        self.default_guidance_scale = GUIDANCE_SCALE.read(
            "default_guidance_scale", default_guidance_scale, None
        )

    def request(self, *asked: Any, **options: Any) -> Request:
        """Validate what a person asked for; None takes the model's default."""
        raise NotImplementedError  # pragma: no cover

    def example_request(
        self, count: int, guidance_scale: float | None = None, seed: int = 0, first: int = 0
    ) -> Request:
        """Return a request of one image of each of `count` examples: in turn, from `first` on."""
        known = self.examples()
        things = [known[(first + k) % len(known)] for k in range(count)]
        return self.request(things, guidance_scale=guidance_scale, seed=seed)

    def examples(self) -> Sequence[str]:
        """Return things that the model can draw."""
        raise NotImplementedError  # pragma: no cover

    def warnings(self, request: Request) -> list[str]:
        """Return what a person should know of a request that is served as far as it can be.

        That is what is doubtful of the model's folder, and guidance that may mean something else
        than was meant.
        """
        config = self.predictor.config
        guided, channels = config.get("guided_channels"), config.in_channels
        return [
            *self.doubts,
            *guidance_warnings(
                request.guidance_scale,
                request.subject.NOUN,
                getattr(request.subject, "negative_prompt", ""),
                None if guided in (None, channels) else (guided, channels),
            ),
        ]

    def _warn(self, request: Request) -> None:
        """Tell the caller of a public method what `warnings` says of a request."""
        for text in self.warnings(request):
            warnings.warn(text, stacklevel=3)

    def conditions(self, request: Request) -> tuple[Any, Any]:
        """Return the condition of each image, and that which guidance leads away from."""
        raise NotImplementedError  # pragma: no cover

    def job(
        self,
        request: Request,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
    ) -> Job:
        """Return the job of a request; its noise from `latents`, `generator`, or the seed."""
        shape = (self.latent_shape[0], *(side // self.factor for side in self.pixels(request)))
        noise = self.noise(shape, request.seeds, generator, latents)
        job = self.guided(noise, *self.conditions(request), request.guidance_scale)
        return JOBS[type(request.task)](request, job, self)

    def pixels(self, request: Request) -> tuple[int, int]:
        """Return the height and the width of a request's images."""
        if request.size is None:
            return self.image_size, self.image_size
        return request.size.height, request.size.width

    def stream(
        self,
        *asked: Any,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        **options: Any,
    ) -> Iterator[Progress]:
        """Generate as `__call__` does, yielding after each block; `decode` shows its latents."""
        request = self.request(*asked, **options)
        self._warn(request)
        return self.run(self.job(request, generator, latents), request.plan)

    def __call__(
        self,
        *asked: Any,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        **options: Any,
    ) -> Output:
        """Generate images.

        Args:
            asked: what `request` takes, by position or by name.
            generator: one source for the noise of all images, instead of the seed.
            latents: the noise itself, (B, C, h, w), instead of the seed.
            output_type: "pil"; "np" (B, H, W, 3) or "pt" (B, 3, H, W) in [0, 1]; or "latent".
            options: what `request` takes, by name.

        Raises ValueError for a value that is not allowed, FloatingPointError if the arithmetic
        overflows (possible in float16).
        """
        request = self.request(*asked, **options)
        self._warn(request)
        return self.serve(request, output_type, generator=generator, latents=latents)

    def serve(self, request: Request, output_type: str = "pil", **noise: Any) -> Output:
        """Make the images of a request; `noise` is what `job` takes of it beside the seed."""
        job, encode_ms = timed(partial(self.job, request, **noise), self.device)
        output = self.finish(job, request.plan, output_type)
        return replace(output, timing=replace(output.timing, encode_ms=encode_ms))
