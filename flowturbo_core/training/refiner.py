"""The refiner's objective: how the predictor's velocity changes over a short step."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from flowturbo_core import path
from flowturbo_core.checks import real_number
from flowturbo_core.guidance import GuidedPredictor, GuidedRefiner, choose_guidance
from flowturbo_core.images import contact_sheet
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.models.storage import save_trained
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.requests import GUIDANCE_SCALE
from flowturbo_core.training.flow import drop_labels, expand, randn_of
from flowturbo_core.training.loop import Objective


@dataclass(frozen=True)
class Pairs:
    """Which two points of a path a refiner is trained on.

    Args:
        max_dt: the longest step between them; 0.12 is the best overall in FlowTurbo's table 3.
        guidance_scale: the guidance of the velocities; 1 is none.
    """

    max_dt: float = 0.12
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        real_number("max_dt", self.max_dt, 0.001, 1)
        GUIDANCE_SCALE.read("guidance_scale", self.guidance_scale, None)


class RefinerMatching(Objective):
    """Minimise E || r(x', t + dt, v) + v - v(x', t + dt) ||^2 (FlowTurbo, 2409.18128, eq. 13).

    v = v(x_t, t) comes from the frozen predictor, and x' = x_t + dt v. Each sample draws dt
    uniformly from (0, max_dt], and t from [0, 1 - dt]. The condition is dropped with probability
    0.1, for predictor and refiner at once. At a guidance scale other than 1 both are guided, since
    in sampling a refiner gets guided velocities. Subclasses define the condition.
    """

    pairs: Pairs

    def predictor(self) -> nn.Module:
        """Return the frozen velocity model, `predictor(x, t, condition) -> v`."""
        raise NotImplementedError  # pragma: no cover

    def conditions(self, given: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the condition of examples, some of them dropped, and the null one of each."""
        raise NotImplementedError  # pragma: no cover

    def settings(self) -> dict[str, Any]:
        """Return which pairs it is trained on."""
        return asdict(self.pairs)

    def heavy_parts(self, device: torch.device) -> list[nn.Module]:
        """Return refiner and predictor."""
        return [self.model, self.predictor()]

    def forward(self, batch: list[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of a batch: latents (B, C, h, w), and what goes with each.

        `unrefined` is the loss without a refiner, when v is carried on unchanged.
        """
        x1 = batch[0].float()
        guidance = choose_guidance(self.pairs.guidance_scale, None, x1.shape[1])
        predictor = GuidedPredictor(self.predictor().to(x1.device), guidance)
        refiner = GuidedRefiner(self.model, guidance)
        scale = torch.tensor(self.pairs.guidance_scale, device=x1.device)
        with torch.no_grad():
            condition = guidance.pair(*self.conditions(batch[1], generator))
            # 1 - u lies in (0, 1]: no step of length zero.
            dt = self.pairs.max_dt * (1 - uniform(x1, generator))
            t = uniform(x1, generator) * (1 - dt)
            x_t = path.point(randn_of(x1.shape, x1, generator), x1, expand(t))
            v = predictor(x_t, guidance.pair(t, t), condition, scale)
            x_next, t_next = x_t + expand(dt) * v, guidance.pair(t + dt, t + dt)
            target = predictor(x_next, t_next, condition, scale) - v
        offset = refiner(x_next, t_next, v, condition, scale)
        return {"loss": (offset - target).square().mean(), "unrefined": target.square().mean()}

    def export(self, folder: Path, record: dict[str, Any]) -> None:
        """Save the refiner."""
        save_trained(self.model, folder, record)


class RefinerObjective(RefinerMatching):
    """The refiner of a class-conditional predictor."""

    def __init__(
        self,
        model: SiTRefiner,
        predictor: SiTPredictor,
        data: TensorDataset,
        vae: AutoencoderKL,
        classes: list[str],
        pairs: Pairs = Pairs(),  # noqa: B008 - frozen
    ):
        super().__init__()
        self.model, self.data, self.classes, self.pairs = model, data, classes, pairs
        # In a tuple, so that they are not submodules: they are neither trained nor saved.
        self.frozen = (predictor.eval().requires_grad_(False), vae)

    def predictor(self) -> nn.Module:
        """Return the predictor."""
        return self.frozen[0]

    def conditions(self, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return labels (B,), some of them "no class", and "no class" as often."""
        null_label = self.model.null_label
        return drop_labels(labels, null_label, generator), torch.full_like(labels, null_label)

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


def uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw (B,) uniform numbers in [0, 1) for a batch (B, ...)."""
    return torch.rand(len(like), generator=generator, device=like.device)
