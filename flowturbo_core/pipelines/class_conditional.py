"""Images of a class: a SiT, perhaps its refiner, and an autoencoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from flowturbo_core.models.catalog import DEFAULT_GUIDANCE_SCALE, DEFAULT_PLAN
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.models.storage import load_model
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.pipelines.folder import AUTOENCODERS
from flowturbo_core.plan import SamplePlan
from flowturbo_core.requests import GENERATE, Classes, Request, check_class_names, read_request


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

    subject: ClassVar = Classes
    PART_CLASSES: ClassVar = {
        "predictor": (SiTPredictor,),
        "refiner": (SiTRefiner,),
        "vae": AUTOENCODERS,
    }
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
        task: Any = GENERATE,
    ) -> Request:
        """Validate what a person asked for.

        Args:
            class_labels: labels or names; images come in their order.
            plan: a plan such as "H1P5R3"; None takes the model's default.
            guidance_scale: classifier-free guidance; 1 is none, 0 leaves the class out, with a
                warning; None takes the model's default.
            num_images: images for each label.
            seed: image k draws its noise from seed + k, unless a generator or latents are given.
            task: what is done, with its own values.
        """
        asked = {"class_names": class_labels, "num_images": num_images, "seed": seed}
        return read_request(self, asked, task, plan=plan, guidance_scale=guidance_scale)

    def examples(self) -> Sequence[str]:
        """Return the classes."""
        return self.class_names

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

    def conditions(self, request: Request) -> tuple[Tensor, Tensor]:
        """Return the label of each image (B,), and that of no class (B,)."""
        labels = [self.class_names.index(name) for name in request.captions]
        class_labels = torch.tensor(labels, device=self.device)
        return class_labels, torch.full_like(class_labels, self.predictor.null_label)
