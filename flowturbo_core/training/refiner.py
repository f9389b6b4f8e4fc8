"""The refiner's objective: how the predictor's velocity changes over a short step."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from flowturbo_core.images import contact_sheet
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.models.storage import save_trained
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.training.flow import drop_labels, expand, randn_of
from flowturbo_core.training.loop import Objective

MAX_DT = 0.12  # the range (0, 0.12] is the best overall in FlowTurbo's table 3


class RefinerObjective(Objective):
    """Minimise E || r(x', t + dt, v) + v - v(x', t + dt) ||^2 (FlowTurbo, 2409.18128, eq. 13).

    v = v(x_t, t) by the frozen predictor, x' = x_t + dt v, dt uniform in (0, 0.12] and
    t uniform in [0, 1 - dt], both drawn for each sample; the condition is dropped with
    probability 0.1, the same for predictor and refiner.
    """

    def __init__(
        self,
        model: SiTRefiner,
        predictor: SiTPredictor,
        data: TensorDataset,
        vae: AutoencoderKL,
        classes: list[str],
    ):
        super().__init__()
        self.model, self.data, self.classes = model, data, classes
        # In a tuple, so that they are not submodules: they are neither trained nor saved.
        self.frozen = (predictor.eval().requires_grad_(False), vae)

    def heavy_parts(self) -> list[nn.Module]:
        """Return refiner and predictor."""
        return [self.model, self.frozen[0]]

    def forward(self, batch: list[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of a batch: latents (B, C, h, w) and labels (B,).

        `unrefined` is what the loss would be without a refiner, which carries v on as it is.
        """
        x1, labels = batch[0].float(), batch[1]
        predictor = self.frozen[0].to(x1.device)
        labels = drop_labels(labels, self.model.null_label, generator)
        with torch.no_grad():
            # 1 - u lies in (0, 1]: no step of length zero.
            dt = MAX_DT * (1 - uniform(x1, generator))
            t = uniform(x1, generator) * (1 - dt)
            x_t = torch.lerp(randn_of(x1.shape, x1, generator), x1, expand(t))
            v = predictor(x_t, t, labels).float()
            x_next = x_t + expand(dt) * v
            target = predictor(x_next, t + dt, labels).float() - v
        offset = self.model(x_next, t + dt, v, labels).float()
        return {"loss": (offset - target).square().mean(), "unrefined": target.square().mean()}

    def sheet(self) -> Image.Image:
        """Return two rows of samples from the same noise: H8 above H1P5R3."""
        predictor, vae = self.frozen
        pipeline = ClassConditionalPipeline(predictor, vae, self.classes, self.model)
        labels = list(range(0, len(self.classes), 2))
        pictures = [
            picture
            for plan in ("H8", "H1P5R3")
            for picture in pipeline(labels, plan=plan, guidance_scale=1.5, seed=0).images
        ]
        return contact_sheet(pictures, columns=len(labels))

    def export(self, folder: Path, record: dict[str, Any]) -> None:
        """Save the refiner."""
        save_trained(self.model, folder, record)


def uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw (B,) uniform numbers in [0, 1) for a batch (B, ...)."""
    return torch.rand(len(like), generator=generator, device=like.device)
