"""What pictures of Postcards are worth: a trained network, the evaluator, judges them.

The Frechet distance, precision and recall compare their features with those of freshly drawn
scenes. The accuracies tell how often a picture shows what was asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowturbo_core.data.postcards.scene import ATTRIBUTES, CLASSES, NOTHING
from flowturbo_core.data.postcards.tools import IMAGE_SIZE
from flowturbo_core.data.scenes import SHEET_SEED, AttributedScenes
from flowturbo_core.evaluation.frechet import (
    Estimate,
    bootstrap,
    feature_statistics,
    frechet_distance,
    precision_recall,
    share,
)
from flowturbo_core.evaluation.parts import Parts
from flowturbo_core.evaluation.settings import MAX_SAMPLES, Settings
from flowturbo_core.making.bundle import AUTOENCODER, EVALUATOR
from flowturbo_core.models.autoencoder import (
    PixelUnshuffleAutoencoderKL,
    autoencoder_hash,
    downsampling_factor,
    reconstruct,
)
from flowturbo_core.models.catalog import bundled_models, model_folder
from flowturbo_core.models.evaluator import PostcardsEvaluator
from flowturbo_core.models.storage import load_model
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.requests import Texts

# The first seeds of three stretches of scenes: the reference set, the floor, and the scenes whose
# classes or prompts are asked for. No training and no sheet reaches any of them.
REFERENCE_SEED = SHEET_SEED + 10_000_000
FLOOR_SEED = SHEET_SEED + 20_000_000
ASKED_SEED = SHEET_SEED + 30_000_000
# A Frechet distance grows as either set shrinks, so the reference set always has this size.
REFERENCE_SCENES = 10_000
# The part of a run that holds the reference set. Batches are numbered below it.
SCENES_PART = MAX_SAMPLES


@dataclass(frozen=True)
class Quality:
    """What the pictures of the plans of a run are worth.

    Args:
        columns: what the row of each plan says of it.
        distances: the Frechet distance of each plan; empty if it was not asked for.
        floor: the same columns of as many scenes, `drawn` and `reconstructed` by the autoencoder.
        num_reference: how many scenes the distances are from; None without distances.
    """

    columns: list[dict[str, Any]]
    distances: Sequence[Estimate] = ()
    floor: dict[str, Any] | None = None
    num_reference: int | None = None


def evaluator_of(pipeline: FlowPipeline) -> PostcardsEvaluator | None:
    """Return the network that can judge what `pipeline` draws; None if there is none."""
    side = pipeline.latent_shape[-1] * downsampling_factor(pipeline.vae)
    if pipeline.subject is Texts:  # it draws Postcards if these are its latents
        shared = AUTOENCODER in bundled_models() and autoencoder_hash(
            load_model(PixelUnshuffleAutoencoderKL, model_folder(AUTOENCODER))
        )
        known = pipeline.predictor.config.get("autoencoder_hash") == shared
    else:
        known = tuple(pipeline.class_names) == CLASSES
    if not known or side != IMAGE_SIZE or EVALUATOR not in bundled_models():
        return None
    return load_model(PostcardsEvaluator, model_folder(EVALUATOR)).to(pipeline.device)


@torch.no_grad()
def look(evaluator: PostcardsEvaluator, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return features (B, D) and predicted attributes (B, 4) of images in [-1, 1], on the CPU."""
    features = evaluator(images)
    told = [logits.argmax(1) for logits in evaluator.logits(features).values()]
    return features.cpu(), torch.stack(told, dim=1).cpu()


def is_judged(settings: Settings, evaluator: PostcardsEvaluator | None) -> bool:
    """Tell whether a run looks at pictures."""
    return evaluator is not None and not {"frechet", "accuracy"}.isdisjoint(settings.metrics)


def judge_plans(
    pipeline: FlowPipeline,
    evaluator: PostcardsEvaluator | None,
    settings: Settings,
    samples: dict[str, np.ndarray],
    parts: Parts,
) -> Quality:
    """Judge the pictures of each plan of a run, by what was seen in them.

    `samples` has features_k (N, D) and told_k (N, 4) of plan k, and the attributes `wanted` (N, 4).
    The reference set is drawn once and kept in `parts`. Where nothing is judged, columns are empty.
    """
    plans = range(len(settings.plans) + len(settings.rivals))
    if not is_judged(settings, evaluator):
        return Quality([{} for _ in plans])
    look_at = partial(_look_at_scenes, pipeline, evaluator, split=settings.scenes)
    reference = _draw_reference(look_at, parts) if "frechet" in settings.metrics else None
    judge = partial(_judge, settings.metrics, _attributes_of(pipeline), reference)
    wanted = torch.from_numpy(samples["wanted"])
    columns, distances = [], []
    for k in plans:
        features, told = (torch.from_numpy(samples[f"{name}_{k}"]) for name in ("features", "told"))
        found, distance = judge(features, told, wanted)
        columns.append(found)
        distances += [] if distance is None else [distance]
    floor = {
        name: judge(*look_at(FLOOR_SEED, settings.num_samples, reconstructed=is_reconstructed))[0]
        for name, is_reconstructed in (("drawn", False), ("reconstructed", True))
    }
    return Quality(columns, distances, floor, REFERENCE_SCENES if distances else None)


def _draw_reference(look_at: Callable[..., tuple[Tensor, ...]], parts: Parts) -> Tensor:
    """Return the features (M, D) of the scenes that pictures are compared with."""
    doing = f"drawing {REFERENCE_SCENES} scenes to compare with"

    def draw() -> dict[str, np.ndarray]:
        return {
            "features": look_at(REFERENCE_SEED, REFERENCE_SCENES, reconstructed=False)[0].numpy()
        }

    return torch.from_numpy(parts.make_once(SCENES_PART, doing, draw)["features"])


def _attributes_of(pipeline: FlowPipeline) -> dict[int, str]:
    """Return the attributes that are asked for, by their column: a class is one, "class"."""
    return dict(enumerate(ATTRIBUTES)) if pipeline.subject is Texts else {0: "class"}


def _judge(
    metrics: Sequence[str],
    attributes: dict[int, str],
    reference: Tensor | None,
    features: Tensor,
    told: Tensor,
    wanted: Tensor,
) -> tuple[dict[str, Any], Estimate | None]:
    """Return the columns of one set of pictures, and its Frechet distance if asked for.

    Features are (N, D), those of the reference (M, D), attributes told and wanted (N, 4).
    """
    found: dict[str, Any] = {}
    distance = None
    if "frechet" in metrics:
        distance = _measure_distance(features, reference)
        found |= distance.describe("frechet_distance")
        # Precision and recall depend on the sizes of the sets.
        equal = min(len(features), len(reference))
        if equal > 3:
            found["precision"], found["recall"] = precision_recall(
                features[:equal], reference[:equal]
            )
    if "accuracy" in metrics:
        for k, name in attributes.items():
            found |= _measure_accuracy(name, told[:, k], wanted[:, k])
    return found, distance


def _measure_distance(features: Tensor, reference: Tensor) -> Estimate:
    """Return the Frechet distance of (N, D) from (M, D). Both are samples: both are resampled."""
    return bootstrap(
        lambda i, j: frechet_distance(
            feature_statistics(features[i]), feature_statistics(reference[j])
        ),
        len(features),
        len(reference),
    )


def _measure_accuracy(name: str, told: Tensor, wanted: Tensor) -> dict[str, Any]:
    """Return the share of right labels (N,) among those that were asked for."""
    asked = wanted != NOTHING
    if not asked.any():
        return {}
    value, interval = share((told == wanted)[asked])
    return {f"{name}_accuracy": value, f"{name}_accuracy_interval": interval}


def _look_at_scenes(
    pipeline: FlowPipeline,
    evaluator: PostcardsEvaluator,
    first_seed: int,
    count: int,
    *,
    split: str,
    reconstructed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, predicted attributes and true attributes of freshly drawn scenes."""
    scenes, found = AttributedScenes(first_seed, split), []
    for start in range(0, count, 64):
        images, labels = scenes[range(start, min(start + 64, count))]
        images = images.to(pipeline.device).float() / 127.5 - 1
        if reconstructed:
            images = reconstruct(pipeline.vae, images)
        found.append((*look(evaluator, images), labels))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))
