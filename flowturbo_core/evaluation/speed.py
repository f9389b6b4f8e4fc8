"""Measures how long plans take. They take turns, so that no plan meets a warmer machine."""

import statistics
import sys
from collections.abc import Sequence
from typing import Any

import torch

from flowturbo_core.checks import check_known, whole_number
from flowturbo_core.devices import VERSIONS, describe_device
from flowturbo_core.evaluation.rivals import Contender, finish, parse_contenders
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.plan import SamplePlan
from flowturbo_core.rates import ms_of_kind
from flowturbo_core.timing import Timing

try:
    import resource
except ImportError:  # Windows has none
    resource = None


MODES = ("eager", "compiled")


def bench(
    pipeline: FlowPipeline,
    plans: Sequence[str],
    batch_size: int = 8,
    repeats: int = 7,
    guidance_scale: float | None = None,
    modes: Sequence[str] = ("eager",),
    rivals: Sequence[str] = (),
) -> dict[str, Any]:
    """Time `plans` in turn, A B C A B C ..., `repeats` times, on batches of `batch_size` images.

    `rivals` are other solvers on the same model and noise (`evaluation.rivals`). They run in eager
    mode, after the plans.

    Returns `rows`, one a plan and mode. `ms_per_image` is the median over the repeats. `ratio` is
    the median of the ratios to the first row of the same round. `predictor_ms_per_image` and
    `refiner_ms_per_image` are the times of the blocks that evaluate each model. The warm-up is not
    counted. Without a compiler the compiled rows are left out, and `notes` says so.
    """
    contenders = parse_contenders(plans, rivals)
    for contender in contenders:
        contender.require_refiner(pipeline.refiner is not None)
    batch_size = whole_number("batch_size", batch_size, 1, 256)
    repeats = whole_number("repeats", repeats, 1, 1000)
    pipelines, notes = _prepare_modes(pipeline, modes)
    request = pipeline.example_request(batch_size, guidance_scale)
    cases = _list_cases([*pipelines], contenders)

    def run(mode: str, contender: Contender) -> Timing:
        chosen = pipelines[mode]
        return finish(chosen, chosen.job(request), contender, "pt").timing

    for case in cases:
        run(*case)
    peak = _PeakMemory(pipeline.device)
    rounds = [[run(*case) for case in cases] for _ in range(repeats)]
    return {
        "rows": [
            {"plan": str(contender), "mode": mode, **_take_medians(rounds, k, contender)}
            for k, (mode, contender) in enumerate(cases)
        ],
        "batch_size": batch_size,
        "repeats": repeats,
        "guidance_scale": request.guidance_scale,
        "device": pipeline.device.type,
        "machine": describe_device(pipeline.device),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "peak_memory_mib": peak.mib(),
        "notes": notes,
        "versions": VERSIONS,
    }


def _list_cases(
    modes: Sequence[str], contenders: Sequence[Contender]
) -> list[tuple[str, Contender]]:
    """Return what takes turns: every plan in every mode, and rivals eager alone."""
    rivals = [contender for contender in contenders if not isinstance(contender, SamplePlan)]
    if rivals and "eager" not in modes:
        raise ValueError("rivals are timed eager: add eager to the modes")
    return [
        (mode, contender)
        for mode in modes
        for contender in contenders
        if contender not in rivals or mode == "eager"
    ]


def _prepare_modes(
    pipeline: FlowPipeline, modes: Sequence[str]
) -> tuple[dict[str, FlowPipeline], list[str]]:
    """Return the pipeline in each mode, and notes on the modes that are left out."""
    check_known("modes", modes, MODES)
    found, notes = {}, []
    for mode in modes:
        try:
            found[mode] = pipeline if mode == "eager" else pipeline.compiled()
        except ValueError as error:
            found["eager"] = pipeline
            notes.append(f"eager only: {error}")
    return found, notes


def _take_medians(
    rounds: Sequence[Sequence[Timing]], k: int, contender: Contender
) -> dict[str, float]:
    """Return the times of case k over all rounds: medians, in milliseconds an image."""
    timings = [timings[k] for timings in rounds]
    ms = [timing.ms_per_image for timing in timings]
    ratios = [m / timings[0].ms_per_image for m, timings in zip(ms, rounds, strict=True)]
    refining = [ms_of_kind(timing, contender.kinds, "R") for timing in timings]
    decoding = [timing.decode_ms_per_image for timing in timings]
    predicting = [m - r - d for m, r, d in zip(ms, refining, decoding, strict=True)]
    row = {
        "ms_per_image": statistics.median(ms),
        "ms_min": min(ms),
        "ms_max": max(ms),
        "ratio": statistics.median(ratios),
        "predictor_ms_per_image": statistics.median(predicting),
        "refiner_ms_per_image": statistics.median(refining),
        "decode_ms_per_image": statistics.median(decoding),
    }
    return {name: round(value, 4) for name, value in row.items()}


class _PeakMemory:
    """The peak of memory: on a GPU since this was made, on a CPU since the process began."""

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def mib(self) -> float | None:
        """Return mebibytes; None where the system does not say."""
        if self.device.type == "cuda":
            return round(torch.cuda.max_memory_allocated(self.device) / 2**20, 1)
        if resource is None:
            return None
        unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kibibytes elsewhere
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
