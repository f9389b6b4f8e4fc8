"""The evaluator's objective: every attribute of a postcard, as drawn and as reconstructed."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from flowturbo_core.data.postcards.scene import ATTRIBUTES, NOTHING
from flowturbo_core.data.scenes import SHEET_SEED, AttributedScenes
from flowturbo_core.images import contact_sheet, to_pil
from flowturbo_core.models.autoencoder import reconstruct
from flowturbo_core.models.evaluator import PostcardsEvaluator
from flowturbo_core.models.storage import save_trained
from flowturbo_core.training.loop import Objective

_UNSEEN = 4096
_CALIBRATION = 1024
_CALIBRATION_SEED = SHEET_SEED + 1_000_000


class EvaluatorObjective(Objective):
    """Minimise the cross entropy of every attribute, summed.

    The autoencoder encodes and decodes half of each batch first. The evaluator must judge sampled
    pictures, and their edges are as soft as the autoencoder makes them.
    """

    def __init__(self, model: PostcardsEvaluator, vae: AutoencoderKL, first_seed: int):
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.data = AttributedScenes(first_seed)
        self.frozen = (vae,)  # in a tuple, so that it is neither trained nor saved

    def forward(self, batch: list[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of a batch: images (B, 3, 128, 128) uint8, attributes (B, 4)."""
        images, attributes = batch[0].float() / 127.5 - 1, batch[1]
        half = len(images) // 2
        images = torch.cat([reconstruct(self.frozen[0], images[:half]), images[half:]])
        logits = self.model.logits(self.model(images))
        losses = {
            name: F.cross_entropy(logits[name].float(), labels, ignore_index=NOTHING)
            for name, labels in zip(ATTRIBUTES, attributes.unbind(1), strict=True)
        }
        return {"loss": sum(losses.values()), **losses}

    def sheet(self) -> Image.Image:
        """Return up to 32 unseen scenes whose subject it mistakes; if none, the first 8 scenes."""
        images, attributes = AttributedScenes(SHEET_SEED)[range(512)]
        images = images.to(next(self.model.parameters()).device).float() / 127.5 - 1
        with torch.no_grad():
            told = self.model.logits(self.model(images))["subject"].argmax(1).cpu()
        mistaken = (told != attributes[:, 0]).nonzero()[:32, 0]
        shown = images[mistaken] if len(mistaken) else images[:8]
        return contact_sheet(to_pil(shown), columns=8)

    def export(self, folder: Path, record: dict[str, Any]) -> None:
        """Save the evaluator, calibrated, with its accuracies on unseen scenes as stored."""
        device = next(self.model.parameters()).device
        images, _ = AttributedScenes(_CALIBRATION_SEED)[range(_CALIBRATION)]
        self.model.calibrate(images.to(device).float() / 127.5 - 1)
        stored = PostcardsEvaluator.from_config(self.model.config)
        stored.load_state_dict({k: v.half().float() for k, v in self.model.state_dict().items()})
        stored = stored.to(device).eval()
        unseen = measure(stored, self.frozen[0], AttributedScenes(SHEET_SEED), _UNSEEN)
        save_trained(stored, folder, record | {"unseen": unseen})


@torch.no_grad()
def measure(
    model: PostcardsEvaluator, vae: AutoencoderKL, data: AttributedScenes, count: int
) -> dict[str, dict[str, float]]:
    """Return the accuracy on `count` scenes, by attribute: `drawn`, and `reconstructed`."""
    device = next(model.parameters()).device
    right = {kind: {name: [] for name in ATTRIBUTES} for kind in ("drawn", "reconstructed")}
    for start in range(0, count, 64):
        images, attributes = data[range(start, min(start + 64, count))]
        images = images.to(device).float() / 127.5 - 1
        for kind, seen in (("drawn", images), ("reconstructed", reconstruct(vae, images))):
            logits = model.logits(model(seen))
            for name, labels in zip(ATTRIBUTES, attributes.unbind(1), strict=True):
                there = labels != NOTHING
                right[kind][name].append((logits[name].argmax(1).cpu() == labels)[there])
    return {
        kind: {
            name: round(float(torch.cat(parts).double().mean()), 5) for name, parts in item.items()
        }
        for kind, item in right.items()
    }
