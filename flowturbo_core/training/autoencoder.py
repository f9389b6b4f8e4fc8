"""The autoencoder's objective: L1, gradient L1 and a small KL, on freshly drawn postcards."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from flowturbo_core.data.scenes import SHEET_SEED, Scenes
from flowturbo_core.images import contact_sheet, to_pil
from flowturbo_core.models.storage import save_trained
from flowturbo_core.training.loop import Objective


class AutoencoderObjective(Objective):
    """Minimise p(D(z) - x) + w_g p(grad D(z) - grad x) + w_kl KL(q(z | x) || N(0, I)), z ~ q.

    p is `penalty`. The gradient term acts on differences between neighbouring pixels. It keeps
    edges crisp.
    """

    def __init__(
        self,
        model: AutoencoderKL,
        first_seed: int,
        gradient_weight: float = 1.0,
        kl_weight: float = 1e-4,
    ):
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.data = Scenes(first_seed)
        self.gradient_weight, self.kl_weight = gradient_weight, kl_weight

    def forward(self, batch: list[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of a batch: images (B, 3, H, W) uint8, and labels, which it ignores."""
        images = batch[0].float() / 127.5 - 1
        posterior = self.model.encode(images).latent_dist
        error = self.model.decode(posterior.sample(generator)).sample.float() - images
        pixel = penalty(error)
        gradient = penalty(error.diff(dim=-1)) + penalty(error.diff(dim=-2))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {
            "loss": pixel + self.gradient_weight * gradient + self.kl_weight * kl,
            "pixel": pixel,
            "gradient": gradient,
            "kl": kl,
            "psnr_db": mean_psnr(error.detach()),
        }

    @torch.no_grad()
    def sheet(self) -> Image.Image:
        """Return unseen scenes (upper rows of each pair) above their reconstructions."""
        images = Scenes(SHEET_SEED)[range(16)][0].float() / 127.5 - 1
        device = next(self.model.parameters()).device
        images = images.to(device)
        decoded = self.model.decode(self.model.encode(images).latent_dist.mode()).sample
        pairs = [p for k in range(0, 16, 8) for p in (images[k : k + 8], decoded[k : k + 8])]
        return contact_sheet(to_pil(torch.cat(pairs).clamp(-1, 1)), columns=8)

    @torch.no_grad()
    def export(self, folder: Path, record: dict[str, Any]) -> None:
        """Save the autoencoder with the statistics of its latents, and its PSNR on unseen scenes.

        Statistics and PSNR are measured on the weights as stored, in float16.
        """
        stored = type(self.model).from_config(self.model.config)
        stored.load_state_dict({k: v.half().float() for k, v in self.model.state_dict().items()})
        stored = stored.to(next(self.model.parameters()).device)
        moments = measure(stored, Scenes(SHEET_SEED), count=512)
        stored.register_to_config(
            latents_mean=moments.pop("mean"), latents_std=moments.pop("std"), scaling_factor=1.0
        )
        save_trained(stored, folder, record | {"unseen": moments})


def penalty(error: Tensor, square_weight: float = 10.0) -> Tensor:
    """Return the mean of |e| + w e^2.

    Most of a picture is flat: there only |e| counts, and makes the areas exact. On edges e^2
    dominates. With |e| alone, many small errors outweigh the edges, which stay soft for hours.
    """
    return error.abs().mean() + square_weight * error.square().mean()


def mean_psnr(error: Tensor) -> Tensor:
    """Return the mean peak signal-to-noise ratio, in dB, of errors (B, ...) on a [-1, 1] scale."""
    return -10 * (error.flatten(1) / 2).square().mean(1).clamp_min(1e-12).log10().mean()


@torch.no_grad()
def measure(vae: AutoencoderKL, data: Scenes, count: int) -> dict[str, Any]:
    """Return `psnr_db` over `count` scenes, and `mean` and `std`, lists, of each latent channel."""
    device, latents, psnr = next(vae.parameters()).device, [], []
    for start in range(0, count, 64):
        images = data[range(start, start + 64)][0].to(device).float() / 127.5 - 1
        raw = vae.encode(images).latent_dist.mode()
        psnr.append(float(mean_psnr(vae.decode(raw).sample.clamp(-1, 1) - images)))
        latents.append(raw.transpose(0, 1).flatten(1))
    channels = torch.cat(latents, dim=1)
    return {
        "psnr_db": round(float(np.mean(psnr)), 2),
        "mean": channels.mean(1).tolist(),
        "std": channels.std(1).tolist(),
    }
