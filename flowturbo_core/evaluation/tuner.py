"""Which plans are worth taking: the front of latency on this machine against solver error.

Plans H..P..R.. are searched as neighbours of neighbours of what is good already, since one block
more or less of a kind changes a plan's cost and error little; plans in other orders are worse
(FlowTurbo, 2409.18128, table 4). A plan is on the front if none that costs no more has a smaller
error; of plans on it that hardly differ, the cheapest is offered.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from torch import Tensor

from flowturbo_core.evaluation.evaluate import Settings, evaluate, evaluator_of, weights_of
from flowturbo_core.evaluation.parts import Parts
from flowturbo_core.evaluation.solver_error import (
    NUM_NOISES,
    ends,
    root_mean_square,
    solve_reference,
    solver_errors,
)
from flowturbo_core.models.front import FrontPlan
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.plan import MAX_STEPS, PAPER_PLANS, SamplePlan
from flowturbo_core.rates import Rates
from flowturbo_core.requests import real_number

Counts = tuple[int, int, int]  # Heun, pseudo-corrector and refiner blocks

_START: tuple[Counts, ...] = ((1, 0, 0), (1, 2, 0), (1, 2, 2), (1, 5, 3), (2, 4, 2))
# Beside the front's own neighbours, those of plans nearly as good: the error of few noises is not
# smooth in the number of steps, and a search that only ever improves stops at its first bump.
_SLACK = 1.05
_WORTH = 0.99  # of the error before it: what a plan must leave at most to be offered, too
_SEARCH_NOISES = 16
_NEAR = 1.02  # how nearly as good, by those few noises, is worth measuring over all of them
_MOST_REFINING = 8  # blocks in a row, as the page offers; the paper's best plans have up to five


def measure_rates(
    pipeline: FlowPipeline, batch_size: int, guidance_scale: float, repeats: int = 5
) -> Rates:
    """Return what one evaluation and one decoding take an image, medians after a first run."""
    plan = SamplePlan("HR" if pipeline.refiner is not None else "H")
    request = pipeline.example_request(batch_size, guidance_scale)
    timings = [
        pipeline.finish(pipeline.job(request), plan, "pt").timing for _ in range(repeats + 1)
    ]
    return Rates.of((plan, plan.kinds, timing) for timing in timings[1:])


def search(
    error_of: Callable[[SamplePlan], float],
    cost_of: Callable[[SamplePlan], float],
    budget: float,
    with_refiner: bool,
) -> dict[SamplePlan, float]:
    """Return the errors of the plans that were tried, all of cost up to `budget`.

    Raises ValueError if not even the cheapest plan is within it.
    """

    def allowed(counts: Counts) -> bool:
        plan = SamplePlan.from_counts(*counts)
        refining = _MOST_REFINING if with_refiner else 0
        return counts[2] <= refining and cost_of(plan) <= budget

    errors: dict[SamplePlan, float] = {}
    waiting = {counts for counts in _START if allowed(counts)}
    if not waiting:
        raise ValueError(
            f"no plan takes {budget:.4g} ms: even H1 takes {cost_of(SamplePlan('H')):.4g} ms"
        )
    while waiting:
        plans = (SamplePlan.from_counts(*counts) for counts in sorted(waiting))
        errors |= {plan: error_of(plan) for plan in plans}
        seen = {_counts(plan) for plan in errors}
        near = {
            counts
            for plan in front(errors, cost_of, _SLACK)
            for counts in _neighbours(_counts(plan))
        }
        waiting = {counts for counts in near - seen if allowed(counts)}
    return errors


def front(
    errors: Mapping[SamplePlan, float], cost_of: Callable[[SamplePlan], float], slack: float = 1
) -> list[SamplePlan]:
    """Return the plans, cheapest first, that none of lower cost beats by a factor of `slack`."""
    kept, best = [], float("inf")
    for plan in sorted(errors, key=lambda plan: (cost_of(plan), errors[plan])):
        if errors[plan] < best * slack:
            kept.append(plan)
        best = min(best, errors[plan])
    return kept


def offered(front: Sequence[SamplePlan], errors: Mapping[SamplePlan, float]) -> list[SamplePlan]:
    """Return those of a front, cheapest first, that are worth telling apart from the one before."""
    kept: list[SamplePlan] = []
    for plan in front:
        if not kept or errors[plan] <= _WORTH * errors[kept[-1]]:
            kept.append(plan)
    return kept


def tune(
    pipeline: FlowPipeline,
    guidance_scale: float,
    seed: int,
    budget_ms: float | None,
    num_samples: int,
    batch_size: int,
    parts: Parts,
    exact: FlowPipeline | None = None,
) -> dict[str, Any]:
    """Return what `models.front` reads: `plans`, cheapest first, and what they were found with.

    The front comes from this machine's rates and the solver errors; its plans are then run in
    turn on `num_samples` images. One that turns out to take longer than one of less error leaves
    the front, and so does one whose Frechet distance, where something can judge the pictures, is
    certainly higher than a cheaper one's. `budget_ms` None is what H8 takes. `exact` is the model
    in float32; None where `pipeline` is. `parts` are for those runs; which plans they are of
    depends on this machine's moment, so what a killed run left is removed.
    """
    evaluator = evaluator_of(pipeline)
    settings = Settings(
        "tuned",
        weights_of(pipeline, evaluator),
        ("H8",),
        num_samples,
        ("frechet", "accuracy"),
        guidance_scale,
        seed,
        batch_size,
        pipeline.device.type,
        str(pipeline.dtype).removeprefix("torch."),
    )  # refuses wrong numbers before anything is measured
    rates = measure_rates(pipeline, settings.batch_size, guidance_scale)
    budget = rates.ms_of(SamplePlan("H" * 8)) if budget_ms is None else budget_ms
    budget = real_number("budget_ms", budget, 0, 1e9)
    errors = measure_errors(pipeline, exact or pipeline, guidance_scale, seed, rates, budget)
    affordable = {plan: e for plan, e in errors.items() if rates.ms_of(plan) <= budget}
    worth = offered(front(affordable, rates.ms_of), errors)
    settings = replace(settings, plans=tuple(map(str, worth)))
    parts.remove()
    run = evaluate(pipeline, settings, parts, evaluator, are_compared=lambda plan, other: True)
    rows = [row | {"solver_error": errors[p]} for row, p in zip(run["rows"], worth, strict=True)]
    rows = confirmed(rows, run["pairs"])
    kept = {row["plan"] for row in rows}
    return {
        "plans": rows,
        "others": [
            asdict(
                FrontPlan(str(plan), plan.predictor_evaluations, plan.refiner_evaluations, error)
            )
            for plan, error in errors.items()
            if str(plan) not in kept
        ],
        "budget_ms": budget,
        "rates": asdict(rates),
        **{
            name: run[name]
            for name in (
                "floor",
                "guidance_scale",
                "seed",
                "batch_size",
                "dtype",
                "machine",
                "versions",
            )
        },
    }


def confirmed(
    rows: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the rows of a front that stay on it once their plans were run, cheapest first.

    A plan must leave less error than all that took less time, and its pictures may not certainly
    be worse than those of one of them: of such `pairs`, the interval of the difference between
    the Frechet distances lies above zero.
    """
    worse = {
        (pair["plan"], pair["other"])
        for pair in pairs
        if pair.get("frechet_distance_difference_interval", (0.0, 0.0))[0] > 0
    }
    kept: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: row["ms_per_image"]):
        if all(
            row["solver_error"] < cheaper["solver_error"]
            and (row["plan"], cheaper["plan"]) not in worse
            for cheaper in kept
        ):
            kept.append(row)
    return kept


def measure_errors(
    pipeline: FlowPipeline,
    exact: FlowPipeline,
    guidance_scale: float,
    seed: int,
    rates: Rates,
    budget_ms: float,
) -> dict[SamplePlan, float]:
    """Return the solver errors of the plans that are on the front or near it.

    The search looks at the first 16 of the solver error's 64 noises, by the model as it runs; what
    it finds good is then measured over all of them, by the model in float32, `exact`, as the
    reference is, and so are the model's own plan and the paper's, to compare with.
    """

    @cache  # not before the search has found a plan within the budget
    def reference() -> Tensor:
        print("solving the reference", flush=True)
        return solve_reference(exact, guidance_scale, seed).latents

    def error(model: FlowPipeline, plan: SamplePlan, count: int) -> float:
        latents = ends(model, plan, guidance_scale, seed, count)
        found = root_mean_square(solver_errors(latents, reference()[:count]))
        text = f"{plan!s:12} {rates.ms_of(plan):8.1f} ms/img  solver error {found:.4f}"
        print(f"{text} over {count} noises", flush=True)
        return found

    tried = search(
        lambda plan: error(pipeline, plan, _SEARCH_NOISES),
        rates.ms_of,
        budget_ms,
        pipeline.refiner is not None,
    )
    known = (SamplePlan.parse(plan) for plan in (*PAPER_PLANS, pipeline.default_plan))
    compared = (p for p in known if pipeline.refiner is not None or not p.refiner_evaluations)
    return {
        plan: error(exact, plan, NUM_NOISES)
        for plan in dict.fromkeys([*front(tried, rates.ms_of, _NEAR), *compared])
    }


def _counts(plan: SamplePlan) -> Counts:
    return tuple(plan.blocks.count(letter) for letter in "HPR")


def _neighbours(counts: Counts) -> Iterable[Counts]:
    """Yield one block more or less of a kind, and one of a kind changed into another."""
    moves = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -1, 0), (0, 1, -1), (1, 0, -1)]
    for move in moves:
        for sign in (1, -1):
            near = tuple(count + sign * step for count, step in zip(counts, move, strict=True))
            if near[0] >= 1 and min(near) >= 0 and sum(near) <= MAX_STEPS:
                yield near
