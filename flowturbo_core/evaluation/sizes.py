"""Models of published sizes with random weights: their speed needs no checkpoint."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from flowturbo_core.checks import unknown
from flowturbo_core.models.sit import PRESETS, SiTPredictor, SiTRefiner
from flowturbo_core.models.unet import SD_REFINER, SD_UNET
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.pipelines.text_to_image import TextToImagePipeline
from flowturbo_core.requests import EXAMPLE_PROMPTS
from flowturbo_core.training.text import train_tokenizer

# Stable Diffusion's autoencoder, which the released SiT models use.
_RELEASED_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}
# The text encoder of Stable Diffusion 1.5, and of InstaFlow's models.
_CLIP = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
}
_MARKS = ("bos", "eos", "pad")
ARCHITECTURES = (*PRESETS, "sd-1-5")


def random_pipeline(architecture: str, device: torch.device, dtype: torch.dtype) -> FlowPipeline:
    """Return a model of a published size with random weights, to measure speed.

    `architecture` is one of `ARCHITECTURES`. "sit-xl-2" and the other SiT sizes work on 32 x 32
    latents of 256 px images, with a refiner of one block. "sd-1-5" is the UNet of Stable Diffusion
    and InstaFlow on 64 x 64 latents of 512 px images, with FlowTurbo's refiner for it. All have
    Stable Diffusion's autoencoder.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(unknown("architecture", architecture, ARCHITECTURES))
    with device:
        vae = AutoencoderKL(**_RELEASED_VAE)
        make = _random_sit if architecture in PRESETS else _random_sd
        return make(architecture, vae).to(device, dtype)


def _random_sit(architecture: str, vae: AutoencoderKL) -> ClassConditionalPipeline:
    preset = PRESETS[architecture]
    predictor = _random(SiTPredictor(**preset, guided_channels=3))
    refiner = _random(SiTRefiner(**preset | {"depth": 1}, variant="released"))
    names = [f"class {k}" for k in range(predictor.config.num_classes)]
    return ClassConditionalPipeline(predictor, vae, names, refiner)


def _random_sd(_: str, vae: AutoencoderKL) -> TextToImagePipeline:
    # A small vocabulary is enough: the time to encode a text does not depend on its size.
    tokenizer = train_tokenizer(EXAMPLE_PROMPTS, _CLIP["max_position_embeddings"])
    marks = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in _MARKS}
    texts = CLIPTextModel(CLIPTextConfig(**_CLIP, **marks, vocab_size=len(tokenizer)))
    predictor, refiner = (_random(UNet2DConditionModel(**item)) for item in (SD_UNET, SD_REFINER))
    return TextToImagePipeline(predictor, vae, texts.eval(), tokenizer, refiner)


def _random(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    return model.eval()
