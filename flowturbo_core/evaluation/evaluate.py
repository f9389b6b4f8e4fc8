"""What the pictures of plans are worth, and what they cost. All plans start from the same noise.

A run is cut into batches. A batch is kept once all plans have run on it, so a killed run goes on
where it was. Several processes can divide the batches among themselves.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from accelerate import PartialState

from flowturbo_core.data.postcards.captions import prompt
from flowturbo_core.data.postcards.scene import sample_scene
from flowturbo_core.data.scenes import attribute_labels
from flowturbo_core.devices import VERSIONS, describe_device
from flowturbo_core.evaluation import quality
from flowturbo_core.evaluation.pairs import compare_plans, refines_alone
from flowturbo_core.evaluation.parts import Parts
from flowturbo_core.evaluation.rivals import Contender, finish, parse_contenders
from flowturbo_core.evaluation.settings import Settings
from flowturbo_core.evaluation.solutions import measure_solutions
from flowturbo_core.models.evaluator import PostcardsEvaluator
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.requests import Texts

# If nothing can judge the pictures, the plans run for their times alone, on this many batches.
_TIMED_BATCHES = 4


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
    circumstances = _describe_circumstances(pipeline, processes)
    parts.claim(asdict(settings) | circumstances)
    num_samples = _count_samples(settings, evaluator)
    count = -(-num_samples // settings.batch_size)
    run_batch = partial(_run_batch, pipeline, plans, settings, evaluator)
    _run_missing(run_batch, parts, count, processes)
    if not processes.is_main_process:
        return None
    samples = parts.gather(count)
    judged = quality.judge_plans(pipeline, evaluator, settings, samples, parts)
    solved = measure_solutions(exact or pipeline, evaluator, settings, plans, parts)
    ms = [samples[f"ms_{k}"] for k in range(len(plans))]
    return {
        "rows": [
            _describe_plan(plan, num_samples)
            | _take_medians(samples, k)
            | judged.columns[k]
            | solved.columns[k]
            for k, plan in enumerate(plans)
        ],
        "floor": judged.floor,
        "pairs": compare_plans(plans, ms, judged.distances, solved.errors, are_compared),
        "reference": solved.reference,
        **asdict(settings),
        "num_samples": num_samples,
        "reference_scenes": judged.num_reference,
        **circumstances,
    }


def _describe_circumstances(pipeline: FlowPipeline, processes: PartialState) -> dict[str, Any]:
    """Return where a run takes place: times from elsewhere must not be mixed in."""
    return {
        "machine": describe_device(pipeline.device),
        "num_processes": processes.num_processes,
        "versions": VERSIONS,
    }


def _count_samples(settings: Settings, evaluator: PostcardsEvaluator | None) -> int:
    """Return how many images each plan makes; for their times alone fewer are enough."""
    enough = _TIMED_BATCHES * settings.batch_size
    if quality.is_judged(settings, evaluator) or settings.num_samples <= enough:
        return settings.num_samples
    print(f"nothing judges the pictures: {enough} of each plan tell its time", flush=True)
    return enough


def _run_missing(
    run_batch: Callable[[int], dict[str, Any]], parts: Parts, count: int, processes: PartialState
) -> None:
    """Run those of `count` batches that fall to this process and are not there; await the rest."""
    for number in range(processes.process_index, count, processes.num_processes):
        if parts.read(number) is None:
            parts.save(number, run_batch(number))
            print(f"batch {number + 1} of {count}", flush=True)
    processes.wait_for_everyone()


def _run_batch(
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
        things, wanted = _ask(pipeline, settings.scenes, first, size)
        request = pipeline.request(things, guidance_scale=settings.guidance_scale, seed=seed)
    found: dict[str, Any] = {"wanted": np.array(wanted)}
    order = [(number + k) % len(plans) for k in range(len(plans))]
    for k in order:
        output = finish(pipeline, pipeline.job(request), plans[k], "pt")
        found[f"ms_{k}"] = output.timing.ms_per_image
        found[f"decode_ms_{k}"] = output.timing.decode_ms_per_image
        if evaluator is not None:
            features, told = quality.look(evaluator, output.images.float() * 2 - 1)
            found[f"features_{k}"], found[f"told_{k}"] = features.numpy(), told.numpy()
    return found


def _ask(
    pipeline: FlowPipeline, split: str, first: int, size: int
) -> tuple[list[int] | list[str], list[list[int]]]:
    """Return labels or prompts to ask a model of Postcards for, and the attributes they name.

    They come from fresh scenes, and so have the frequencies of the data.
    """
    scenes = [sample_scene(quality.ASKED_SEED + first + k, split) for k in range(size)]
    if pipeline.subject is not Texts:
        labels = [scene.label for scene in scenes]
        return labels, [attribute_labels(scene, ("subject",)) for scene in scenes]
    made = [prompt(scene, scene.seed) for scene in scenes]
    wanted = [attribute_labels(s, p.named) for s, p in zip(scenes, made, strict=True)]
    return [p.text for p in made], wanted


def _describe_plan(plan: Contender, num_samples: int) -> dict[str, Any]:
    return {
        "plan": str(plan),
        "num_samples": num_samples,
        "predictor_evaluations": plan.predictor_evaluations,
        "refiner_evaluations": plan.refiner_evaluations,
    }


def _take_medians(samples: dict[str, np.ndarray], k: int) -> dict[str, float]:
    """Return the median times of plan k, and the median of its ratios to the first plan."""
    ms, first = samples[f"ms_{k}"], samples["ms_0"]
    return {
        "ms_per_image": round(float(np.median(ms)), 4),
        "decode_ms_per_image": round(float(np.median(samples[f"decode_ms_{k}"])), 4),
        "ratio": round(statistics.median((ms / first).tolist()), 4),
    }
