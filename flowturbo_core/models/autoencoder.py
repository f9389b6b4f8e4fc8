"""Autoencoders: between images in [-1, 1] and the normalised latents that flows work on."""

import hashlib
import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor


class PixelUnshuffleAutoencoderKL(AutoencoderKL):
    """An `AutoencoderKL` on patches of pixels: used the same way, with far less memory traffic.

    It takes and gives 3-channel images. Within, each p x p patch moves into the channels
    (pixel unshuffle, Shi et al., 1609.05158), so `config.in_channels` and `config.out_channels`
    are 3 p^2 and the widest feature maps are p times coarser than the image.
    """

    @property
    def patch_size(self) -> int:
        """Side, in pixels, of the patches that move into the channels."""
        return math.isqrt(self.config.in_channels // 3)

    def _encode(self, x: Tensor) -> Tensor:
        return super()._encode(F.pixel_unshuffle(x, self.patch_size))

    def _decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        image = F.pixel_shuffle(super()._decode(z, return_dict=False)[0], self.patch_size)
        return DecoderOutput(sample=image) if return_dict else (image,)


def downsampling_factor(vae: AutoencoderKL) -> int:
    """Return how many image pixels one latent pixel spans, along each side."""
    return getattr(vae, "patch_size", 1) * 2 ** (len(vae.config.block_out_channels) - 1)


def latent_statistics(vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation, each (1, C, 1, 1) float32, of the raw latents.

    Per channel where the model's config has them (`latents_mean`, `latents_std`), otherwise the
    one `shift_factor` and `1 / scaling_factor` of older models, such as Stable Diffusion's.
    """
    config, channels = vae.config, vae.config.latent_channels
    mean = config.latents_mean or [config.shift_factor or 0.0] * channels
    std = config.latents_std or [1 / config.scaling_factor] * channels
    return torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)


@torch.no_grad()
def encode_images(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Encode images (B, 3, H, W) in [-1, 1] to normalised latents (B, C, H/f, W/f), float32.

    The posterior's mean is taken: no noise is drawn.
    """
    mean, std = (s.to(images.device) for s in latent_statistics(vae))
    return (vae.encode(images.to(vae.dtype)).latent_dist.mode().float() - mean) / std


@torch.no_grad()
def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode normalised latents (B, C, h, w) to images (B, 3, h f, w f) in [-1, 1], float32.

    Raises FloatingPointError if a value is not finite.
    """
    mean, std = (s.to(latents.device) for s in latent_statistics(vae))
    images = vae.decode((latents * std + mean).to(vae.dtype)).sample.float()
    if not torch.isfinite(images).all():  # clamping would make black or white of an infinity
        raise FloatingPointError(
            f"decoding in {vae.dtype} gave images that are not finite; try float32"
        )
    return images.clamp(-1, 1)


def autoencoder_hash(vae: AutoencoderKL) -> str:
    """Return the SHA-256 of the encoder, its names and float32 values: whose latents these are.

    The decoder does not count: one fine-tuned for the same encoder (as Stable Diffusion's
    ft-EMA and ft-MSE were) decodes the same latents.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        if name.startswith(("encoder.", "quant_conv.")):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
