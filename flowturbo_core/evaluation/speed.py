"""How long plans take, measured in turn within one run, so that no plan meets a warmer machine."""

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn

from flowturbo_core.devices import VERSIONS, describe_device
from flowturbo_core.models.sit import PRESETS, SiTPredictor, SiTRefiner
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.plan import SamplePlan
from flowturbo_core.requests import whole_number
from flowturbo_core.timing import Timing

# Stable Diffusion's autoencoder, which the released SiT models use.
_RELEASED_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}


def random_pipeline(
    architecture: str, device: torch.device, dtype: torch.dtype
) -> ClassConditionalPipeline:
    """Return a published size with random weights: its pictures are noise, its speed is real.

    `architecture` is one of `PRESETS`, such as "sit-xl-2", on 32 x 32 latents of 256 px images,
    with a refiner of one block and Stable Diffusion's autoencoder.
    """
    if architecture not in PRESETS:
        raise ValueError(f"architecture {architecture!r} is not one of {', '.join(PRESETS)}")
    preset = PRESETS[architecture]
    with device:
        predictor = SiTPredictor(**preset, guided_channels=3)
        refiner = SiTRefiner(**preset | {"depth": 1}, variant="released")
        vae = AutoencoderKL(**_RELEASED_VAE)
    for model in (predictor, refiner):
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.02)
    names = [f"class {k}" for k in range(predictor.config.num_classes)]
    return ClassConditionalPipeline(predictor, vae, names, refiner).to(device, dtype)


def bench(
    pipeline: ClassConditionalPipeline,
    plans: Sequence[str],
    batch_size: int = 8,
    repeats: int = 7,
    guidance_scale: float | None = None,
) -> dict[str, Any]:
    """Time `plans` in turn, A B C A B C ..., `repeats` times, on batches of `batch_size` images.

    Returns `rows`, one a plan: `ms_per_image` is the median over the repeats, `ratio` the median
    of the ratios to the first plan in the same round. Nothing of the warm-up is counted.
    """
    if not plans:
        raise ValueError("name at least one plan to time; the list is empty")
    parsed = [SamplePlan.parse(plan) for plan in plans]
    if len({str(plan) for plan in parsed}) != len(parsed):
        raise ValueError(f"a plan is named twice in {', '.join(plans)}")
    batch_size = whole_number("batch_size", batch_size, 1, 256)
    repeats = whole_number("repeats", repeats, 1, 1000)
    labels = [k % len(pipeline.class_names) for k in range(batch_size)]

    def run(plan: SamplePlan) -> Timing:
        request = pipeline.request(labels, plan, guidance_scale, num_images=1, seed=0)
        return pipeline.finish(pipeline.job(request), plan, output_type="pt").timing

    for plan in parsed:
        run(plan)
    rounds = [[run(plan) for plan in parsed] for _ in range(repeats)]
    rows = []
    for k, plan in enumerate(parsed):
        times = [timings[k].ms_per_image for timings in rounds]
        ratios = [timings[k].ms_per_image / timings[0].ms_per_image for timings in rounds]
        row = {
            "plan": str(plan),
            "mode": "eager",
            "ms_per_image": statistics.median(times),
            "ms_min": min(times),
            "ms_max": max(times),
            "ratio": statistics.median(ratios),
            "decode_ms_per_image": statistics.median(t[k].decode_ms_per_image for t in rounds),
        }
        rows.append({n: round(v, 4) if isinstance(v, float) else v for n, v in row.items()})
    return {
        "rows": rows,
        "batch_size": batch_size,
        "repeats": repeats,
        "device": describe_device(pipeline.device),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "versions": VERSIONS,
    }


def write_json(content: dict[str, Any], file: Path) -> None:
    """Write `content` to `file` in one go: a killed run leaves no partial file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, file)
