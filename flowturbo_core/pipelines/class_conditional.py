"""Images of a class: a SiT, perhaps its refiner, and an autoencoder."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from flowturbo_core.models.catalog import DEFAULT_GUIDANCE_SCALE, DEFAULT_PLAN
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.pipelines.base import FlowPipeline, Output, Progress
from flowturbo_core.plan import SamplePlan
from flowturbo_core.requests import ClassConditionalRequest, brief, check_class_names
from flowturbo_core.sampler import Job
from flowturbo_core.tasks import generate, initial_noise


class ClassConditionalPipeline(FlowPipeline):
    """Class-conditional generation with FlowTurbo.

    ```python
    pipeline = ClassConditionalPipeline.from_pretrained("postcards-sit")
    pipeline(["sailboat", "cat"], plan="H1P5R3", seed=0).images[0].save("sailboat.png")
    ```

    Args:
        predictor: the SiT.
        vae: the autoencoder of its latents.
        class_names: the name of each class, label 0 first.
        refiner: the light SiT that R blocks need.
        default_plan: the plan where none is given.
        default_guidance_scale: the guidance scale where none is given.

    Raises ValueError if the parts do not belong together.
    """

    REQUIRED_SETTINGS: ClassVar = ("class_names",)

    def __init__(
        self,
        predictor: SiTPredictor,
        vae: AutoencoderKL,
        class_names: Sequence[str],
        refiner: SiTRefiner | None = None,
        default_plan: str = DEFAULT_PLAN,
        default_guidance_scale: float = DEFAULT_GUIDANCE_SCALE,
    ):
        super().__init__(predictor, vae, refiner, default_plan, default_guidance_scale)
        check_class_names(class_names)
        self.class_names = list(class_names)
        if len(self.class_names) != predictor.config.num_classes:
            raise ValueError(
                f"the model has {predictor.config.num_classes} classes, but {len(class_names)} "
                "class names are given"
            )

    def request(
        self,
        class_labels: Sequence[int | str],
        plan: SamplePlan | str | None = None,
        guidance_scale: float | None = None,
        num_images: int = 1,
        seed: int = 0,
    ) -> ClassConditionalRequest:
        """Validate what a person asked for; None takes the model's default."""
        return ClassConditionalRequest.create(
            class_labels,
            self.default_plan if plan is None else plan,
            self.default_guidance_scale if guidance_scale is None else guidance_scale,
            num_images,
            seed,
            self.class_names,
        )

    def job(
        self,
        request: ClassConditionalRequest,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
    ) -> Job:
        """Return the job of a request; its noise from `latents`, `generator`, or the seed."""
        labels = request.labels
        shape = (len(labels), *self.latent_shape)
        if latents is not None:
            noise = _given_noise(latents, shape)
        elif generator is not None:
            if not isinstance(generator, torch.Generator):
                raise ValueError(f"generator must be a torch.Generator, not {brief(generator)}")
            noise = torch.randn(shape, generator=generator, device=generator.device)
        else:
            noise = initial_noise(
                self.latent_shape, range(request.seed, request.seed + len(labels))
            )
        class_labels = torch.tensor(labels, device=self.device)
        null_labels = torch.full_like(class_labels, self.predictor.null_label)
        # As a float32, which is what the loop is given and chooses its guidance by.
        guidance_scale = float(torch.tensor(request.guidance_scale, dtype=torch.float32))
        condition = self.guidance(guidance_scale).pair(class_labels, null_labels)
        return generate(noise.to(self.device), condition, guidance_scale)

    def stream(
        self,
        class_labels: Sequence[int | str],
        plan: SamplePlan | str | None = None,
        guidance_scale: float | None = None,
        num_images: int = 1,
        seed: int = 0,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
    ) -> Iterator[Progress]:
        """Generate as `__call__` does, yielding after each block; `decode` shows its latents."""
        request = self.request(class_labels, plan, guidance_scale, num_images, seed)
        return self.run(self.job(request, generator, latents), request.plan)

    def __call__(
        self,
        class_labels: Sequence[int | str],
        plan: SamplePlan | str | None = None,
        guidance_scale: float | None = None,
        num_images: int = 1,
        seed: int = 0,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
    ) -> Output:
        """Generate `num_images` images of each class.

        Args:
            class_labels: labels or names; images come in their order.
            plan: a plan such as "H1P5R3"; None takes the model's default.
            guidance_scale: classifier-free guidance, 1 is none; None takes the model's default.
            num_images: images for each label.
            seed: image k draws its noise from seed + k, unless a generator or latents are given.
            generator: one source for the noise of all images, instead of the seed.
            latents: the noise itself, (B, C, h, w), instead of the seed.
            output_type: "pil"; "np" (B, H, W, 3) or "pt" (B, 3, H, W) in [0, 1]; or "latent".

        Raises ValueError for a value that is not allowed, FloatingPointError if the arithmetic
        overflows (possible in float16).
        """
        request = self.request(class_labels, plan, guidance_scale, num_images, seed)
        return self.finish(self.job(request, generator, latents), request.plan, output_type)


def _given_noise(latents: object, shape: tuple[int, ...]) -> Tensor:
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
