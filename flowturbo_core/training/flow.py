"""The predictor's objective: flow matching on straight paths."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from flowturbo_core import path
from flowturbo_core.images import contact_sheet
from flowturbo_core.models.sit import SiTPredictor
from flowturbo_core.models.storage import save_trained
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.training.loop import Objective

CONDITION_DROPOUT = 0.1


class FlowMatching(Objective):
    """Minimise E || v(x_t, t) - (x_1 - x_0) ||^2, x_t = (1 - t) x_0 + t x_1 (2209.03003, eq. 1).

    Subclasses say what a velocity is conditioned on.
    """

    def predictor(self) -> nn.Module:
        """Return the velocity model, `predictor(x, t, condition) -> v`."""
        raise NotImplementedError  # pragma: no cover

    def condition(self, given: Tensor, generator: torch.Generator) -> Tensor:
        """Return the condition of examples, some of them dropped for guidance."""
        raise NotImplementedError  # pragma: no cover

    def times(self, count: int, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draw times (B,): half from a logit-normal, half as the cubes of uniform numbers.

        A logit-normal favours the middle of the path (Esser et al., 2403.03206, section 3.1), and
        is hardly ever near the noise. But position and time of day are decided there: at t = 0.1
        they already show. So the other half of the times is drawn near 0.
        """
        middle = torch.sigmoid(randn_of((count,), like, generator))
        early = torch.rand(count, generator=generator, device=like.device) ** 3
        return torch.where(torch.arange(count, device=like.device) % 2 == 0, middle, early)

    def forward(self, batch: list[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss of a batch: latents (B, C, h, w), and what goes with each."""
        x1 = batch[0].float()
        t = self.times(len(x1), x1, generator)
        x0 = randn_of(x1.shape, x1, generator)
        condition = self.condition(batch[1], generator)
        found = self.predictor()(path.point(x0, x1, expand(t)), t, condition)
        return {"loss": (found.float() - path.velocity(x0, x1)).square().mean()}


class FlowObjective(FlowMatching):
    """Flow matching on classes: labels are dropped with probability 0.1."""

    def __init__(self, model: SiTPredictor, data: TensorDataset, vae: AutoencoderKL, classes: list):
        super().__init__()
        self.model, self.data = model, data
        # In a tuple, so that it is not a submodule: it is neither trained nor saved.
        self.frozen, self.classes = (vae,), classes

    def heavy_parts(self, device: torch.device) -> list[nn.Module]:
        """Return the predictor."""
        return [self.model]

    def predictor(self) -> nn.Module:
        """Return what is trained."""
        return self.model

    def condition(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return labels (B,), some of them "no class"."""
        return drop_labels(labels, self.model.null_label, generator)

    def sheet(self) -> Image.Image:
        """Return three samples of each class, H8 at guidance 1.5, always from the same noise."""
        pipeline = ClassConditionalPipeline(self.model, self.frozen[0], self.classes)
        labels = [k for k in range(len(self.classes)) for _ in range(3)]
        pictures = pipeline(labels, plan="H8", guidance_scale=1.5, seed=0).images
        return contact_sheet(pictures, columns=9)

    def export(self, folder: Path, record: dict[str, Any]) -> None:
        """Save the predictor."""
        save_trained(self.model, folder, record)


def drop_labels(labels: Tensor, null_label: int, generator: torch.Generator) -> Tensor:
    """Replace each label by "no class" with probability 0.1."""
    return labels.masked_fill(choose_dropped(labels, generator), null_label)


def choose_dropped(given: Tensor, generator: torch.Generator) -> Tensor:
    """Return which (B,) of B examples lose their condition: each with probability 0.1."""
    return torch.rand(len(given), generator=generator, device=given.device) < CONDITION_DROPOUT


def randn_of(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a standard normal of `shape` on the device of `like`."""
    return torch.randn(shape, generator=generator, device=like.device)


def expand(t: Tensor) -> Tensor:
    """Shape times (B,) to multiply (B, C, H, W)."""
    return t.view(-1, 1, 1, 1)
