"""What the pictures of plans are worth, and what they cost. All plans start from the same noise.

A run is cut into batches. A batch is kept once all plans have run on it, so a killed run goes on
where it was. Several processes can divide the batches among themselves.
"""

import hashlib
import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn

from flowturbo_core.checks import brief, check_known, whole_number
from flowturbo_core.data.postcards.captions import prompt
from flowturbo_core.data.postcards.scene import ATTRIBUTES, CLASSES, NOTHING, SPLITS, sample_scene
from flowturbo_core.data.postcards.tools import IMAGE_SIZE
from flowturbo_core.data.scenes import SHEET_SEED, AttributedScenes, attribute_labels
from flowturbo_core.devices import VERSIONS, describe_device
from flowturbo_core.evaluation.frechet import (
    Estimate,
    bootstrap,
    feature_statistics,
    frechet_distance,
    precision_recall,
    share,
)
from flowturbo_core.evaluation.parts import Parts
from flowturbo_core.evaluation.rivals import Contender, finish, parse_contenders
from flowturbo_core.evaluation.solver_error import (
    NUM_NOISES,
    ends,
    root_mean_square,
    solve,
    solve_reference,
    solver_errors,
)
from flowturbo_core.making.bundle import AUTOENCODER, EVALUATOR
from flowturbo_core.models.autoencoder import (
    PixelUnshuffleAutoencoderKL,
    autoencoder_hash,
    decode_latents,
    downsampling_factor,
    reconstruct,
)
from flowturbo_core.models.catalog import bundled_models, model_folder
from flowturbo_core.models.evaluator import PostcardsEvaluator
from flowturbo_core.models.storage import load_model
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.requests import MAX_SEED, TextToImageRequest

METRICS = ("frechet", "accuracy", "solver", "reference")
DEFAULT_METRICS = METRICS[:3]

# The first seeds of three stretches of scenes: the reference set, the floor, and the scenes whose
# classes or prompts are asked for. No training and no sheet reaches any of them.
_REFERENCE_SEED = SHEET_SEED + 10_000_000
_FLOOR_SEED = SHEET_SEED + 20_000_000
_CLASS_SEED = SHEET_SEED + 30_000_000
# A Frechet distance grows as either set shrinks, so the reference set always has this size.
REFERENCE_SCENES = 10_000
# Numbers of parts: batches have those below `_SCENES`, which no count of them reaches.
_SCENES, _FIRST_SOLUTION = 1_000_000, 1_000_001
# If nothing can judge the pictures, the plans run for their times alone, on this many batches.
_TIMED_BATCHES = 4


@dataclass(frozen=True)
class Settings:
    """The settings of a run. A run that goes on must have the same ones.

    `weights` is what `weights_of` returns for the models that make and judge the pictures.
    `scenes` is a split of Postcards: its scenes say what is asked for.
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
    scenes: str = "train"

    def __post_init__(self) -> None:
        for name, low, high in (("num_samples", 2, _SCENES), ("batch_size", 1, 256)):
            # Files are named by it, so 200.0 becomes 200.
            value = whole_number(name, getattr(self, name), low, high)
            object.__setattr__(self, name, value)
        parse_contenders(self.plans, self.rivals)
        last = MAX_SEED - max(self.num_samples, NUM_NOISES) + 1
        whole_number(f"the first seed of {self.num_samples} samples", self.seed, 0, last)
        check_known("metrics", self.metrics, METRICS)
        if self.scenes not in SPLITS:
            raise ValueError(f"scenes {brief(self.scenes)} is not one of {', '.join(SPLITS)}")
        if "reference" in self.metrics and "solver" not in self.metrics:
            raise ValueError("the metric reference checks that of solver: name both")


def weights_of(pipeline: FlowPipeline, evaluator: PostcardsEvaluator | None = None) -> str:
    """Return the SHA-256 of all parameters (names and float32 values) and the refiner's variant."""
    digest = hashlib.sha256()
    if pipeline.refiner is not None:
        digest.update(pipeline.refiner.variant.encode())
    for model in (*pipeline.parts().values(), evaluator):
        tensors = model.state_dict() if isinstance(model, nn.Module) else {}
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def evaluator_of(pipeline: FlowPipeline) -> PostcardsEvaluator | None:
    """Return the network that can judge what `pipeline` draws; None if there is none."""
    side = pipeline.latent_shape[-1] * downsampling_factor(pipeline.vae)
    if pipeline.REQUEST is TextToImageRequest:  # it draws Postcards if these are its latents
        shared = AUTOENCODER in bundled_models() and autoencoder_hash(
            load_model(PixelUnshuffleAutoencoderKL, model_folder(AUTOENCODER))
        )
        known = pipeline.predictor.config.get("autoencoder_hash") == shared
    else:
        known = tuple(pipeline.class_names) == CLASSES
    if not known or side != IMAGE_SIZE or EVALUATOR not in bundled_models():
        return None
    return load_model(PostcardsEvaluator, model_folder(EVALUATOR)).to(pipeline.device)


def refines_alone(plan: Contender, other: Contender) -> bool:
    """Tell whether the first of two plans evaluates a refiner, and the second does not."""
    return plan.refiner_evaluations > 0 == other.refiner_evaluations


def evaluate(
    pipeline: FlowPipeline,
    settings: Settings,
    parts: Parts,
    evaluator: PostcardsEvaluator | None,
    exact: FlowPipeline | None = None,
    are_compared: Callable[[Contender, Contender], bool] = refines_alone,
) -> dict[str, Any] | None:
    """Return `rows`, one a plan, with the circumstances of the run, the floor and `pairs`.

    Args:
        pipeline: the model whose plans are measured.
        settings: what is measured.
        parts: keeps finished batches; the caller removes it once the result is written.
        evaluator: judges the pictures; None measures only the solver error and the time.
        exact: the model in float32, for the solver error; None if `pipeline` is in float32.
        are_compared: tells whether `pairs` holds the difference of the first plan from the second.

    Returns None on every process but the first. Raises ValueError if `parts` belongs to another
    run, or if a plan cannot be run.
    """
    processes = PartialState(cpu=pipeline.device.type == "cpu")
    plans = parse_contenders(settings.plans, settings.rivals)
    for plan in plans:
        plan.require_refiner(pipeline.refiner is not None)
    # Times from another machine, or from another number of processes, must not be mixed in.
    circumstances = {
        "machine": describe_device(pipeline.device),
        "num_processes": processes.num_processes,
        "versions": VERSIONS,
    }
    parts.claim(asdict(settings) | circumstances)
    judged = evaluator is not None and {"frechet", "accuracy"} & {*settings.metrics}
    num_samples = settings.num_samples
    if not judged and num_samples > _TIMED_BATCHES * settings.batch_size:
        num_samples = _TIMED_BATCHES * settings.batch_size
        print(f"nothing judges the pictures: {num_samples} of each plan tell its time", flush=True)
    count = -(-num_samples // settings.batch_size)
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
            "num_samples": num_samples,
            "predictor_evaluations": plan.predictor_evaluations,
            "refiner_evaluations": plan.refiner_evaluations,
        }
        | _times(samples, k)
        for k, plan in enumerate(plans)
    ]
    floor, distances, errors, reference = None, [], None, None
    if judged:
        floor, distances = _judge(pipeline, evaluator, settings, samples, rows, parts)
    if "solver" in settings.metrics:
        errors, reference = _solve(exact or pipeline, evaluator, settings, plans, rows, parts)
    ms = [samples[f"ms_{k}"] for k in range(len(plans))]
    pairs = _pairs(plans, ms, distances, errors, are_compared)
    content = (
        {"rows": rows, "floor": floor, "pairs": pairs, "reference": reference}
        | asdict(settings)
        | {
            "num_samples": num_samples,
            "reference_scenes": REFERENCE_SCENES if distances else None,
        }
        | circumstances
    )
    return content


def _batch(
    pipeline: FlowPipeline,
    plans: Sequence[Contender],
    settings: Settings,
    evaluator: PostcardsEvaluator | None,
    number: int,
) -> dict[str, Any]:
    """Run every plan on one batch. Each batch begins with another plan, so none is favoured."""
    first = number * settings.batch_size
    size = min(settings.batch_size, settings.num_samples - first)
    seed = settings.seed + first
    if evaluator is None:
        request, wanted = pipeline.example_request(size, settings.guidance_scale, seed, first), []
    else:
        things, wanted = _asked(pipeline, settings.scenes, first, size)
        request = pipeline.request(things, guidance_scale=settings.guidance_scale, seed=seed)
    found: dict[str, Any] = {"wanted": np.array(wanted)}
    order = [(number + k) % len(plans) for k in range(len(plans))]
    for k in order:
        output = finish(pipeline, pipeline.job(request), plans[k], "pt")
        found[f"ms_{k}"] = output.timing.ms_per_image
        found[f"decode_ms_{k}"] = output.timing.decode_ms_per_image
        if evaluator is not None:
            features, told = _look(evaluator, output.images.float() * 2 - 1)
            found[f"features_{k}"], found[f"told_{k}"] = features.numpy(), told.numpy()
    return found


def _asked(
    pipeline: FlowPipeline, split: str, first: int, size: int
) -> tuple[list[int] | list[str], list[list[int]]]:
    """Return labels or prompts to ask a model of Postcards for, and the attributes they name.

    They come from fresh scenes, and so have the frequencies of the data.
    """
    scenes = [sample_scene(_CLASS_SEED + first + k, split) for k in range(size)]
    if pipeline.REQUEST is not TextToImageRequest:
        labels = [scene.label for scene in scenes]
        return labels, [attribute_labels(scene, ("subject",)) for scene in scenes]
    made = [prompt(scene, scene.seed) for scene in scenes]
    wanted = [attribute_labels(s, p.named) for s, p in zip(scenes, made, strict=True)]
    return [p.text for p in made], wanted


@torch.no_grad()
def _look(evaluator: PostcardsEvaluator, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return features (B, D) and predicted attributes (B, 4) of images in [-1, 1], on the CPU."""
    features = evaluator(images)
    told = [logits.argmax(1) for logits in evaluator.logits(features).values()]
    return features.cpu(), torch.stack(told, dim=1).cpu()


def _times(samples: dict[str, np.ndarray], k: int) -> dict[str, float]:
    ms, first = samples[f"ms_{k}"], samples["ms_0"]
    return {
        "ms_per_image": round(float(np.median(ms)), 4),
        "decode_ms_per_image": round(float(np.median(samples[f"decode_ms_{k}"])), 4),
        "ratio": round(statistics.median((ms / first).tolist()), 4),
    }


def _judge(
    pipeline: FlowPipeline,
    evaluator: PostcardsEvaluator,
    settings: Settings,
    samples: dict[str, np.ndarray],
    rows: list[dict[str, Any]],
    parts: Parts,
) -> tuple[dict[str, Any], list[Estimate]]:
    """Add the evaluator's measurements to each row.

    Returns the floor and the Frechet distances. The floor holds the same measurements of as many
    scenes, `drawn` and `reconstructed` by the autoencoder. There is one Frechet distance a row, or
    none at all if the metric was not asked for.
    """
    count, many = settings.num_samples, REFERENCE_SCENES
    look = partial(_scenes, pipeline, evaluator, split=settings.scenes)

    def drawn() -> dict[str, np.ndarray]:
        print(f"drawing {many} scenes to compare with", flush=True)
        return {"features": look(_REFERENCE_SEED, many, reconstructed=False)[0].numpy()}

    if "frechet" in settings.metrics:
        reference = torch.from_numpy(parts.once(_SCENES, drawn)["features"])
    # A class is one attribute, named "class"; a prompt names up to four.
    names = dict(enumerate(ATTRIBUTES)) if pipeline.REQUEST is TextToImageRequest else {0: "class"}

    def distance(features: Tensor) -> Estimate:
        # Both sets are resampled: the reference is a sample, too.
        return bootstrap(
            lambda i, j: frechet_distance(
                feature_statistics(features[i]), feature_statistics(reference[j])
            ),
            len(features),
            many,
        )

    def judged(
        features: Tensor, told: Tensor, wanted: Tensor
    ) -> tuple[dict[str, Any], list[Estimate]]:
        found, distances = {}, []
        if "frechet" in settings.metrics:
            distances = [distance(features)]
            found |= _described("frechet_distance", distances[0])
            equal = min(count, many)  # precision and recall depend on the sizes of the sets
            if equal > 3:
                found["precision"], found["recall"] = precision_recall(
                    features[:equal], reference[:equal]
                )
        if "accuracy" in settings.metrics:
            for k, name in names.items():
                found |= _accuracy(name, told[:, k], wanted[:, k])
        return found, distances

    wanted = torch.from_numpy(samples["wanted"])
    distances: list[Estimate] = []
    for k, row in enumerate(rows):
        seen = (torch.from_numpy(samples[f"{name}_{k}"]) for name in ("features", "told"))
        found, estimated = judged(*seen, wanted)
        row |= found
        distances += estimated
    floor = {
        name: judged(*look(_FLOOR_SEED, count, reconstructed=name == "reconstructed"))[0]
        for name in ("drawn", "reconstructed")
    }
    return floor, distances


def _accuracy(name: str, told: Tensor, wanted: Tensor) -> dict[str, Any]:
    """Return the share of right labels (N,) among those that were asked for."""
    asked = wanted != NOTHING
    if not asked.any():
        return {}
    value, interval = share((told == wanted)[asked])
    return {f"{name}_accuracy": value, f"{name}_accuracy_interval": interval}


def _described(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: estimate.value, f"{name}_interval": estimate.interval}


def _pairs(
    plans: Sequence[Contender],
    ms: Sequence[np.ndarray],
    distances: Sequence[Estimate],
    errors: Tensor | None,
    are_compared: Callable[[Contender, Contender], bool],
) -> list[dict[str, Any]]:
    """Return the differences between the plans that `are_compared` selects.

    Args:
        plans: the plans of the run.
        ms: milliseconds an image of each plan, batch by batch.
        distances: the Frechet distance of each plan; empty if there are none.
        errors: solver errors (plans, noises), if there are any.
        are_compared: selects a plan and another one.
    """
    estimates = {
        "frechet_distance": distances,
        "solver_error": [] if errors is None else [_estimated(each) for each in errors],
    }
    pairs = []
    for k, n in itertools.permutations(range(len(plans)), 2):
        if are_compared(plans[k], plans[n]):
            pair: dict[str, Any] = {"plan": str(plans[k]), "other": str(plans[n])}
            pair["time"] = round(statistics.median((ms[k] / ms[n]).tolist()), 4)
            for name, estimated in estimates.items():
                if estimated:
                    pair |= _described(f"{name}_difference", estimated[k] - estimated[n])
            if errors is not None:
                pair["nearer"] = float((errors[k] < errors[n]).double().mean())
            pairs.append(pair)
    return pairs


def _scenes(
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
        found.append((*_look(evaluator, images), labels))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def _solve(
    pipeline: FlowPipeline,
    evaluator: PostcardsEvaluator | None,
    settings: Settings,
    plans: Sequence[Contender],
    rows: list[dict[str, Any]],
    parts: Parts,
) -> tuple[Tensor, dict[str, Any] | None]:
    """Add the solver error to each row, and return the error on each noise (plans, 64).

    The model is in float32. The error is measured on latents, and on features too if there is an
    evaluator. With the metric `reference`, a second dictionary says what twice as many steps of
    the reference change: how far it moves (as a share of the smallest error), the largest relative
    change of an error, and the most steps that a noise took. Without it, the second is None.
    """
    asked = (settings.guidance_scale, settings.seed)
    numbers = itertools.count(_FIRST_SOLUTION)

    def kept(what: str, solve: Callable[[], dict[str, Any]]) -> dict[str, np.ndarray]:
        """Return a solution; one that a killed run left is read, not solved again."""

        def make() -> dict[str, Any]:
            print(what, flush=True)
            return solve()

        return parts.once(next(numbers), make)

    def latents_of(part: dict[str, np.ndarray]) -> Tensor:
        return torch.from_numpy(part["latents"]).to(pipeline.device)

    def exactly() -> dict[str, Any]:
        found = solve_reference(pipeline, *asked)
        return {"latents": found.latents.cpu().numpy(), "num_steps": np.array(found.num_steps)}

    def twice_as_exactly() -> dict[str, Any]:
        return {"latents": solve(pipeline, *asked, (2 * steps).tolist()).cpu().numpy()}

    def seen(latents: Tensor) -> Tensor:
        return _look(evaluator, decode_latents(pipeline.vae, latents))[0]

    part = kept("solving the reference", exactly)
    reference, steps = latents_of(part), part["num_steps"]
    of_reference = None if evaluator is None else seen(reference)
    finer = None
    if "reference" in settings.metrics:
        finer = latents_of(kept("solving it in twice as many steps", twice_as_exactly))
    each, changes = [], []
    for plan, row in zip(plans, rows, strict=True):

        def ended(plan: Contender = plan) -> dict[str, Any]:
            return {"latents": ends(pipeline, plan, *asked).cpu().numpy()}

        latents = latents_of(kept(f"solver error of {plan}", ended))
        errors = solver_errors(latents, reference)
        each.append(errors)
        row |= _described("solver_error", _estimated(errors))
        row["solver_error_median"] = float(errors.median())
        if of_reference is not None:
            of_features = solver_errors(seen(latents), of_reference)
            row["solver_error_of_features"] = root_mean_square(of_features)
        if finer is not None:
            error = root_mean_square(solver_errors(latents, finer))
            changes.append(abs(error / row["solver_error"] - 1))
    if finer is None:
        return torch.stack(each), None
    moved = root_mean_square(solver_errors(reference, finer))
    moved /= min(row["solver_error"] for row in rows)
    if moved > 0.01:
        print(f"the reference itself is off by {moved:.1%} of the smallest error", flush=True)
    changed = {"moved": moved, "errors_changed": max(changes), "most_steps": int(steps.max())}
    return torch.stack(each), changed


def _estimated(errors: Tensor) -> Estimate:
    """Estimate the root mean square of errors (N,)."""
    return bootstrap(lambda i: root_mean_square(errors[i]), len(errors))
