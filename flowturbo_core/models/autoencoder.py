"""Autoencoders turn images in [-1, 1] into the normalised latents that flows work on, and back."""

import hashlib
import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor

from flowturbo_core.checks import brief, real_number

_LARGEST = 1e6  # a larger mean, deviation or factor of latents means that something is broken


class PixelUnshuffleAutoencoderKL(AutoencoderKL):
    """An `AutoencoderKL` on patches of pixels, with far less memory traffic.

    It takes and gives 3-channel images. Inside, each p x p patch moves into the channels (pixel
    unshuffle, Shi et al., 1609.05158). So `config.in_channels` and `config.out_channels` are 3 p^2,
    and the largest feature maps are p times coarser than the image.
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

    The config may have one number a channel (`latents_mean`, `latents_std`). Older models, such as
    Stable Diffusion's, have one number for all: `shift_factor` and `1 / scaling_factor`.
    """
    config, channels = vae.config, vae.config.latent_channels
    check_statistics(config.latents_mean, config.latents_std, channels)
    mean, std = config.latents_mean, config.latents_std
    if mean is None:
        shift = 0 if config.shift_factor is None else config.shift_factor
        mean = [real_number("shift_factor", shift, -_LARGEST, _LARGEST)] * channels
    if std is None:
        factor = real_number("scaling_factor", config.scaling_factor, 1 / _LARGEST, _LARGEST)
        std = [1 / factor] * channels
    mean, std = (torch.tensor(s, dtype=torch.float32).view(1, -1, 1, 1) for s in (mean, std))
    return mean, std


def check_statistics(mean: object, std: object, channels: int) -> None:
    """Raise ValueError unless each is None or a list of `channels` numbers, `std`'s positive."""
    for name, values, low in (
        ("latents_mean", mean, -_LARGEST),
        ("latents_std", std, 1 / _LARGEST),
    ):
        if values is None:
            continue
        if not isinstance(values, list | tuple):
            raise ValueError(f"{name} must be a list of {channels} numbers, not {brief(values)}")
        if len(values) != channels:
            raise ValueError(f"{name} must be {channels} numbers, one a channel, not {len(values)}")
        for value in values:
            real_number(name, value, low, _LARGEST)


def not_finite(found: str, dtype: torch.dtype) -> FloatingPointError:
    """Return the error that values are not finite; `found` says what gave which values."""
    # float32 is the widest format here: if it overflows, the input is to blame.
    advice = "the weights or the latents are broken" if dtype == torch.float32 else "try float32"
    return FloatingPointError(f"{found} in {dtype} that are not finite; {advice}")


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
        raise not_finite("decoding gave images", vae.dtype)
    return images.clamp(-1, 1)


def autoencoder_hash(vae: AutoencoderKL) -> str:
    """Return the SHA-256 of the encoder (names and float32 values). It identifies the latents.

    The decoder does not count. A decoder that was fine-tuned for the same encoder, as Stable
    Diffusion's ft-EMA and ft-MSE were, decodes the same latents.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        if name.startswith(("encoder.", "quant_conv.")):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Return images (B, 3, H, W) in [-1, 1] after encoding and decoding, clamped to [-1, 1]."""
    return decode_latents(vae, encode_images(vae, images)).float().clamp(-1, 1)
