"""Images of a class: a SiT, perhaps its refiner, and an autoencoder."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from flowturbo_core.guidance import as_float32
from flowturbo_core.models.catalog import DEFAULT_GUIDANCE_SCALE, DEFAULT_PLAN
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.models.storage import load_model
from flowturbo_core.pipelines.base import AUTOENCODERS, FlowPipeline, Output, Progress
from flowturbo_core.plan import SamplePlan
from flowturbo_core.requests import ClassConditionalRequest, check_class_names
from flowturbo_core.sampler import Job
from flowturbo_core.tasks import generate


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

    PART_CLASSES: ClassVar = {
        "predictor": (SiTPredictor,),
        "refiner": (SiTRefiner,),
        "vae": AUTOENCODERS,
    }
    REQUEST: ClassVar = ClassConditionalRequest
    INDEX_CLASSES: ClassVar = ("ClassConditionalPipeline",)
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
        for name in ("in_channels", "sample_size", "num_classes"):
            if refiner is not None and refiner.config.get(name) != predictor.config.get(name):
                raise ValueError(
                    f"the refiner's {name} is {refiner.config.get(name)}, the predictor's "
                    f"{predictor.config.get(name)}"
                )
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

    def example_request(
        self, count: int, guidance_scale: float | None = None, seed: int = 0, first: int = 0
    ) -> ClassConditionalRequest:
        """Return a request of one image of each of `count` classes: in turn, from `first` on."""
        labels = [(first + k) % len(self.class_names) for k in range(count)]
        return self.request(labels, guidance_scale=guidance_scale, seed=seed)

    @classmethod
    def load_part(cls, part_class: type, folder: Path) -> Any:
        """Load a part, in float32. Raises ValueError, naming the folder, if it is broken."""
        advice = (
            "`python -m flowturbo_core convert sit` reads it, as --predictor, --refiner or --vae"
        )
        return load_model(part_class, folder, advice)

    def no_condition(self) -> Tensor:
        """Return the label (1,) of no class."""
        return torch.tensor([self.predictor.null_label], device=self.device)

    def job(
        self,
        request: ClassConditionalRequest,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
    ) -> Job:
        """Return the job of a request; its noise from `latents`, `generator`, or the seed."""
        labels = request.labels
        seeds = range(request.seed, request.seed + len(labels))
        noise = self.noise(self.latent_shape, seeds, generator, latents)
        class_labels = torch.tensor(labels, device=self.device)
        null_labels = torch.full_like(class_labels, self.predictor.null_label)
        guidance_scale = as_float32(request.guidance_scale)
        condition = self.guidance(guidance_scale).pair(class_labels, null_labels)
        return generate(noise, condition, guidance_scale)

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
        self._warn(request)
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
            guidance_scale: classifier-free guidance; 1 is none, 0 leaves the class out, with a
                warning; None takes the model's default.
            num_images: images for each label.
            seed: image k draws its noise from seed + k, unless a generator or latents are given.
            generator: one source for the noise of all images, instead of the seed.
            latents: the noise itself, (B, C, h, w), instead of the seed.
            output_type: "pil"; "np" (B, H, W, 3) or "pt" (B, 3, H, W) in [0, 1]; or "latent".

        Raises ValueError for a value that is not allowed, FloatingPointError if the arithmetic
        overflows (possible in float16).
        """
        request = self.request(class_labels, plan, guidance_scale, num_images, seed)
        self._warn(request)
        return self.finish(self.job(request, generator, latents), request.plan, output_type)
