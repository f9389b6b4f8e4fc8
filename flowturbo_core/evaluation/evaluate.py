"""What the pictures of plans are worth and what they cost: all plans from the same noise, in turn.

A run is cut into batches, each kept when all its plans are done: what was killed goes on where it
was, and several processes share the batches out among themselves.
"""

import hashlib
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from flowturbo_core.data.postcards import CLASSES, IMAGE_SIZE, sample_scene
from flowturbo_core.data.scenes import SHEET_SEED, Scenes
from flowturbo_core.devices import VERSIONS, describe_device
from flowturbo_core.evaluation.frechet import (
    Estimate,
    bootstrap,
    feature_statistics,
    frechet_distance,
    precision_recall,
)
from flowturbo_core.evaluation.parts import Parts
from flowturbo_core.evaluation.rivals import Contender, finish, parse_contenders
from flowturbo_core.evaluation.solver_error import (
    NUM_NOISES,
    REFERENCE_STEPS,
    ends,
    root_mean_square,
    solve,
    solver_errors,
)
from flowturbo_core.models.autoencoder import (
    decode_latents,
    downsampling_factor,
    reconstruct,
)
from flowturbo_core.models.bundle import EVALUATOR
from flowturbo_core.models.catalog import bundled_models, model_folder
from flowturbo_core.models.evaluator import PostcardsEvaluator
from flowturbo_core.models.storage import load_model
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.requests import MAX_SEED, whole_number

METRICS = ("frechet", "accuracy", "solver", "reference")
DEFAULT_METRICS = METRICS[:3]

# Scenes of these numbers on are compared with, reconstructed for the floor, and lend samples their
# classes: none of them was trained on, nor shown on a sheet.
_REFERENCE_SEED = SHEET_SEED + 10_000_000
_FLOOR_SEED = SHEET_SEED + 20_000_000
_CLASS_SEED = SHEET_SEED + 30_000_000


@dataclass(frozen=True)
class Settings:
    """What a run is of; one that goes on must be of the same.

    `weights` is `weights_of` what makes and judges the pictures.
    """

    model: str
    weights: str
    plans: tuple[str, ...]
    num_samples: int
    metrics: tuple[str, ...]
    guidance_scale: float
    seed: int
    batch_size: int
    device: str
    dtype: str
    rivals: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, low, high in (("num_samples", 2, 1_000_000), ("batch_size", 1, 256)):
            # As a whole number, whatever it was written as: files are named by it.
            value = whole_number(name, getattr(self, name), low, high)
            object.__setattr__(self, name, value)
        parse_contenders(self.plans, self.rivals)
        last = MAX_SEED - max(self.num_samples, NUM_NOISES) + 1
        whole_number(f"the first seed of {self.num_samples} samples", self.seed, 0, last)
        unknown = [metric for metric in self.metrics if metric not in METRICS]
        if unknown or not self.metrics:
            raise ValueError(f"metrics {', '.join(unknown)!r}: choose from {', '.join(METRICS)}")
        if "reference" in self.metrics and "solver" not in self.metrics:
            raise ValueError("the metric reference checks that of solver: name both")


def weights_of(
    pipeline: ClassConditionalPipeline, evaluator: PostcardsEvaluator | None = None
) -> str:
    """Return the SHA-256 of all parameters, their names and float32 values."""
    digest = hashlib.sha256()
    for model in (pipeline.predictor, pipeline.refiner, pipeline.vae, evaluator):
        for name, tensor in sorted({} if model is None else model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def evaluator_of(pipeline: ClassConditionalPipeline) -> PostcardsEvaluator | None:
    """Return the network that knows what `pipeline` draws; None if there is none."""
    side = pipeline.latent_shape[-1] * downsampling_factor(pipeline.vae)
    known = tuple(pipeline.class_names) == CLASSES and side == IMAGE_SIZE
    if not known or EVALUATOR not in bundled_models():
        return None
    return load_model(PostcardsEvaluator, model_folder(EVALUATOR)).to(pipeline.device)


def evaluate(
    pipeline: ClassConditionalPipeline,
    settings: Settings,
    parts: Parts,
    evaluator: PostcardsEvaluator | None,
) -> dict[str, Any] | None:
    """Return `rows`, one a plan, beside what they were measured on and the floor.

    What is done is in `parts`, which the caller removes when the result is written. Where
    `evaluator` is None, only the solver error and the time are measured. Returns None on every
    process but the first. Raises ValueError if `parts` are another run's, or a plan cannot be run.
    """
    processes = PartialState(cpu=pipeline.device.type == "cpu")
    plans = parse_contenders(settings.plans, settings.rivals)
    for plan in plans:
        plan.require_refiner(pipeline.refiner is not None)
    parts.claim(asdict(settings))
    count = -(-settings.num_samples // settings.batch_size)
    for number in range(processes.process_index, count, processes.num_processes):
        if parts.read(number) is None:
            parts.save(number, _batch(pipeline, plans, settings, evaluator, number))
            print(f"batch {number + 1} of {count}", flush=True)
    processes.wait_for_everyone()
    if not processes.is_main_process:
        return None
    samples = parts.gather(count)
    rows = [
        {
            "plan": str(plan),
            "num_samples": settings.num_samples,
            "predictor_evaluations": plan.predictor_evaluations,
            "refiner_evaluations": plan.refiner_evaluations,
        }
        | _times(samples, k)
        for k, plan in enumerate(plans)
    ]
    floor, distances, errors, reference = None, [], [], None
    if evaluator is not None:
        floor, distances = _judge(pipeline, evaluator, settings, samples, rows)
    if "solver" in settings.metrics:
        errors, reference = _solve(pipeline, evaluator, settings, plans, rows)
    pairs = _pairs(plans, rows, {"frechet_distance": distances, "solver_error": errors})
    content = (
        {"rows": rows, "floor": floor, "pairs": pairs, "reference": reference}
        | asdict(settings)
        | {
            "machine": describe_device(pipeline.device),
            "num_processes": processes.num_processes,
            "versions": VERSIONS,
        }
    )
    return content


def _batch(
    pipeline: ClassConditionalPipeline,
    plans: Sequence[Contender],
    settings: Settings,
    evaluator: PostcardsEvaluator | None,
    number: int,
) -> dict[str, Any]:
    """Run every plan on one batch, the first a different one each time, so none is favoured."""
    first = number * settings.batch_size
    size = min(settings.batch_size, settings.num_samples - first)
    labels = _labels(pipeline, first, size)
    found: dict[str, Any] = {"labels": np.array(labels)}
    request = pipeline.request(labels, None, settings.guidance_scale, 1, settings.seed + first)
    order = [(number + k) % len(plans) for k in range(len(plans))]
    for k in order:
        output = finish(pipeline, pipeline.job(request), plans[k], "pt")
        found[f"ms_{k}"] = output.timing.ms_per_image
        found[f"decode_ms_{k}"] = output.timing.decode_ms_per_image
        if evaluator is not None:
            features, told = _look(evaluator, output.images.float() * 2 - 1)
            found[f"features_{k}"], found[f"told_{k}"] = features.numpy(), told.numpy()
    return found


def _labels(pipeline: ClassConditionalPipeline, first: int, size: int) -> list[int]:
    """Return classes as often as the data has them; for other models than Postcards', in turn."""
    if tuple(pipeline.class_names) == CLASSES:
        return [sample_scene(_CLASS_SEED + first + k).label for k in range(size)]
    return [(first + k) % len(pipeline.class_names) for k in range(size)]


@torch.no_grad()
def _look(evaluator: PostcardsEvaluator, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return features (B, D) and the subjects told (B,), on the CPU, of images in [-1, 1]."""
    features = evaluator(images)
    return features.cpu(), evaluator.logits(features)["subject"].argmax(1).cpu()


def _times(samples: dict[str, np.ndarray], k: int) -> dict[str, float]:
    ms, first = samples[f"ms_{k}"], samples["ms_0"]
    return {
        "ms_per_image": round(float(np.median(ms)), 4),
        "decode_ms_per_image": round(float(np.median(samples[f"decode_ms_{k}"])), 4),
        "ratio": round(statistics.median((ms / first).tolist()), 4),
    }


def _judge(
    pipeline: ClassConditionalPipeline,
    evaluator: PostcardsEvaluator,
    settings: Settings,
    samples: dict[str, np.ndarray],
    rows: list[dict[str, Any]],
) -> tuple[dict[str, Any], list[Estimate]]:
    """Add to each row what the evaluator says of it.

    Returns what it says of reconstructions, and each row's Frechet distance if it was asked for.
    """
    count = settings.num_samples
    reference, _, _ = _scenes(pipeline, evaluator, _REFERENCE_SEED, count, reconstructed=False)
    target = feature_statistics(reference)

    def judged(features: Tensor, right: Tensor) -> tuple[dict[str, Any], list[Estimate]]:
        found, distances = {}, []
        if "frechet" in settings.metrics:
            distances = [
                bootstrap(
                    lambda i: frechet_distance(feature_statistics(features[i]), target), count
                )
            ]
            found |= _described("frechet_distance", distances[0])
            if count > 3:
                found["precision"], found["recall"] = precision_recall(features, reference)
        if "accuracy" in settings.metrics:
            accuracy = bootstrap(lambda i: float(right[i].double().mean()), count)
            found |= _described("class_accuracy", accuracy)
            ends = found["class_accuracy_interval"]
            found["class_accuracy_interval"] = tuple(min(max(end, 0.0), 1.0) for end in ends)
        return found, distances

    labels = torch.from_numpy(samples["labels"])
    distances: list[Estimate] = []
    for k, row in enumerate(rows):
        right = torch.from_numpy(samples[f"told_{k}"]) == labels
        found, estimated = judged(torch.from_numpy(samples[f"features_{k}"]), right)
        row |= found
        distances += estimated
    features, told, of_scenes = _scenes(pipeline, evaluator, _FLOOR_SEED, count, reconstructed=True)
    return judged(features, told == of_scenes)[0], distances


def _described(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: estimate.value, f"{name}_interval": estimate.interval}


def _pairs(
    plans: Sequence[Contender],
    rows: Sequence[dict[str, Any]],
    measured: dict[str, Sequence[Estimate]],
) -> list[dict[str, Any]]:
    """Return how every plan that refines differs from every one that does not.

    `measured` has, for each measure, an estimate of every plan in turn, or none.
    """
    refines = [plan.refiner_evaluations > 0 for plan in plans]
    pairs = []
    for k in range(len(plans)):
        for n in range(len(plans)):
            if not refines[k] or refines[n]:
                continue
            pair = {"plan": str(plans[k]), "other": str(plans[n])}
            pair["time"] = round(rows[k]["ratio"] / rows[n]["ratio"], 4)
            for name, estimates in measured.items():
                if estimates:
                    pair |= _described(f"{name}_difference", estimates[k] - estimates[n])
            pairs.append(pair)
    return pairs


def _scenes(
    pipeline: ClassConditionalPipeline,
    evaluator: PostcardsEvaluator,
    first_seed: int,
    count: int,
    reconstructed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, subjects told and labels of freshly drawn scenes."""
    scenes, found = Scenes(first_seed), []
    for start in range(0, count, 64):
        images, labels = scenes[range(start, min(start + 64, count))]
        images = images.to(pipeline.device).float() / 127.5 - 1
        if reconstructed:
            images = reconstruct(pipeline.vae, images)
        found.append((*_look(evaluator, images), labels))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def _solve(
    pipeline: ClassConditionalPipeline,
    evaluator: PostcardsEvaluator | None,
    settings: Settings,
    plans: Sequence[Contender],
    rows: list[dict[str, Any]],
) -> tuple[list[Estimate], dict[str, float] | None]:
    """Add the solver error to each row and return it, with the model in float32.

    It is that of latents, and of features where there is an evaluator. If it was asked for, also
    returns what halving the reference's steps changes: how far it moves, as a share of the
    smallest error, and by how much of itself an error changes at most.
    """
    dtype, asked = pipeline.dtype, (settings.guidance_scale, settings.seed)
    pipeline.to(dtype=torch.float32)
    try:
        print("solving the reference", flush=True)
        reference = solve(pipeline, *asked)

        def seen(latents: Tensor) -> Tensor:
            return _look(evaluator, decode_latents(pipeline.vae, latents))[0]

        exact = None if evaluator is None else seen(reference)
        finer = None
        if "reference" in settings.metrics:
            finer = solve(pipeline, *asked, num_steps=2 * REFERENCE_STEPS)
        estimates, changes = [], []
        for plan, row in zip(plans, rows, strict=True):
            latents = ends(pipeline, plan, *asked)
            errors = solver_errors(latents, reference)
            estimates.append(bootstrap(lambda i, e=errors: root_mean_square(e[i]), len(errors)))
            row |= _described("solver_error", estimates[-1])
            if exact is not None:
                of_features = solver_errors(seen(latents), exact)
                row["solver_error_of_features"] = root_mean_square(of_features)
            if finer is not None:
                error = root_mean_square(solver_errors(latents, finer))
                changes.append(abs(error / row["solver_error"] - 1))
        if finer is None:
            return estimates, None
        moved = root_mean_square(solver_errors(reference, finer))
        smallest = min(estimate.value for estimate in estimates)
        return estimates, {"moved": moved / smallest, "errors_changed": max(changes)}
    finally:
        pipeline.to(dtype=dtype)
