"""Finds the plans that are worth their time: the front of latency against solver error.

The search goes through plans H..P..R.., because plans in other orders are worse (FlowTurbo,
2409.18128, table 4). One block more or less changes the cost and the error of a plan little, so
the search goes from good plans to their neighbours. A plan is on the front if no plan of the same
or a lower cost has a smaller error. If plans on the front hardly differ, the cheapest is offered.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from typing import Any

from torch import Tensor

from flowturbo_core.checks import real_number
from flowturbo_core.evaluation.evaluate import evaluate
from flowturbo_core.evaluation.parts import Parts
from flowturbo_core.evaluation.quality import evaluator_of
from flowturbo_core.evaluation.settings import Settings
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

Counts = tuple[int, int, int]  # Heun, pseudo-corrector and refiner blocks

_START: tuple[Counts, ...] = ((1, 0, 0), (1, 2, 0), (1, 2, 2), (1, 5, 3), (2, 4, 2))
# The search also visits the neighbours of plans that are up to 5% worse than the front. The error
# on few noises is not smooth in the number of steps: a search that only improves stops at a bump.
_SLACK = 1.05
_WORTH = 0.99  # a plan is offered if its error is at most this share of that of the plan before
_SEARCH_NOISES = 16
_NEAR = 1.02  # plans up to 2% worse than the front, on those noises, are measured on all noises
# What a front says of the run that confirmed it.
_CIRCUMSTANCES = (
    "floor",
    "guidance_scale",
    "seed",
    "batch_size",
    "dtype",
    "machine",
    "versions",
)
_MOST_REFINING = 8  # R blocks in a row, as the page offers; the paper's best plans have up to five


def measure_rates(
    pipeline: FlowPipeline, batch_size: int, guidance_scale: float, repeats: int = 5
) -> Rates:
    """Return the times of an evaluation and a decoding: medians, the first run left out."""
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
    """Return the errors of the plans that were tried. All of them cost `budget` at most.

    Raises ValueError if even the cheapest plan costs more.
    """
    is_allowed = partial(_is_allowed, cost_of, budget, _MOST_REFINING if with_refiner else 0)
    errors: dict[SamplePlan, float] = {}
    waiting = {counts for counts in _START if is_allowed(counts)}
    if not waiting:
        raise ValueError(
            f"no plan takes {budget:.4g} ms: even H1 takes {cost_of(SamplePlan('H')):.4g} ms"
        )
    while waiting:
        plans = (SamplePlan.from_counts(*counts) for counts in sorted(waiting))
        errors |= {plan: error_of(plan) for plan in plans}
        tried = {plan.counts() for plan in errors}
        near = {
            counts
            for plan in front(errors, cost_of, _SLACK)
            for counts in _neighbours(plan.counts())
        }
        waiting = {counts for counts in near - tried if is_allowed(counts)}
    return errors


def _is_allowed(
    cost_of: Callable[[SamplePlan], float], budget: float, most_refining: int, counts: Counts
) -> bool:
    return counts[2] <= most_refining and cost_of(SamplePlan.from_counts(*counts)) <= budget


def front(
    errors: Mapping[SamplePlan, float], cost_of: Callable[[SamplePlan], float], slack: float = 1
) -> list[SamplePlan]:
    """Return the plans, cheapest first, whose error is below `slack` times that of cheaper ones."""
    kept, best = [], float("inf")
    for plan in sorted(errors, key=lambda plan: (cost_of(plan), errors[plan])):
        if errors[plan] < best * slack:
            kept.append(plan)
        best = min(best, errors[plan])
    return kept


def drop_alike(front: Sequence[SamplePlan], errors: Mapping[SamplePlan, float]) -> list[SamplePlan]:
    """Return the plans of a front, cheapest first, without those that hardly improve the error."""
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
    """Return what `models.front` reads: `plans`, cheapest first, and how they were found.

    The front is computed from the rates of this machine and the solver errors. Its plans then run
    in turn on `num_samples` images, and `confirm` keeps those that stand.

    Args:
        pipeline: the model to tune.
        guidance_scale: the guidance scale of all measurements.
        seed: the first seed.
        budget_ms: the most milliseconds an image; None takes those of H8.
        num_samples: images of each plan that confirm the front.
        batch_size: images made together.
        parts: keeps the runs that confirm. Measured rates decide their plans, so a killed run
            cannot go on: what it left is removed.
        exact: the model in float32; None if `pipeline` is in float32.
    """
    evaluator = evaluator_of(pipeline)
    settings = Settings.of(  # refuses wrong numbers before anything is measured
        pipeline,
        evaluator,
        model="tuned",
        plans=("H8",),
        num_samples=num_samples,
        metrics=("frechet", "accuracy"),
        guidance_scale=guidance_scale,
        seed=seed,
        batch_size=batch_size,
    )
    rates = measure_rates(pipeline, settings.batch_size, guidance_scale)
    budget = rates.ms_of(SamplePlan("H" * 8)) if budget_ms is None else budget_ms
    budget = real_number("budget_ms", budget, 0, 1e9)
    errors = measure_errors(pipeline, exact or pipeline, guidance_scale, seed, rates, budget)
    affordable = {plan: e for plan, e in errors.items() if rates.ms_of(plan) <= budget}
    worth = drop_alike(front(affordable, rates.ms_of), errors)
    settings = replace(settings, plans=tuple(map(str, worth)))
    parts.remove()
    run = evaluate(pipeline, settings, parts, evaluator, are_compared=lambda plan, other: True)
    rows = [row | {"solver_error": errors[p]} for row, p in zip(run["rows"], worth, strict=True)]
    rows = confirm(rows, run["pairs"])
    return {
        "plans": rows,
        "others": _list_others(errors, {row["plan"] for row in rows}),
        "budget_ms": budget,
        "rates": asdict(rates),
        **{name: run[name] for name in _CIRCUMSTANCES},
    }


def _list_others(errors: Mapping[SamplePlan, float], kept: Collection[str]) -> list[dict[str, Any]]:
    """Return the plans that were measured and are not on the front."""
    others = (
        FrontPlan(str(plan), plan.predictor_evaluations, plan.refiner_evaluations, error)
        for plan, error in errors.items()
        if str(plan) not in kept
    )
    return [asdict(plan) for plan in others]


def confirm(
    rows: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the rows that stay on the front after their plans were run, cheapest first.

    A plan stays if its error is smaller than that of every faster plan on the front, and if its
    pictures are not measurably worse than those of one. They are if the interval of the difference
    of their Frechet distances, in `pairs`, lies above zero.
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

    The search runs `pipeline` on the first 16 of the 64 noises. The plans that it finds good are
    measured again on all noises by `exact`, the model in float32. So are the default plan of the
    model and the plans of the paper, for comparison.
    """

    @cache  # it is solved only once the search has found a plan within the budget
    def solve() -> Tensor:
        print("solving the reference", flush=True)
        return solve_reference(exact, guidance_scale, seed).latents

    def measure(model: FlowPipeline, plan: SamplePlan, count: int) -> float:
        latents = ends(model, plan, guidance_scale, seed, count)
        found = root_mean_square(solver_errors(latents, solve()[:count]))
        text = f"{plan!s:12} {rates.ms_of(plan):8.1f} ms/img  solver error {found:.4f}"
        print(f"{text} over {count} noises", flush=True)
        return found

    tried = search(
        lambda plan: measure(pipeline, plan, _SEARCH_NOISES),
        rates.ms_of,
        budget_ms,
        pipeline.refiner is not None,
    )
    known = (SamplePlan.parse(plan) for plan in (*PAPER_PLANS, pipeline.default_plan))
    compared = (p for p in known if pipeline.refiner is not None or not p.refiner_evaluations)
    return {
        plan: measure(exact, plan, NUM_NOISES)
        for plan in dict.fromkeys([*front(tried, rates.ms_of, _NEAR), *compared])
    }


def _neighbours(counts: Counts) -> Iterable[Counts]:
    """Yield the plans that differ by one block: added, removed, or changed into another kind."""
    moves = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -1, 0), (0, 1, -1), (1, 0, -1)]
    for move in moves:
        for sign in (1, -1):
            near = tuple(count + sign * step for count, step in zip(counts, move, strict=True))
            if near[0] >= 1 and min(near) >= 0 and sum(near) <= MAX_STEPS:
                yield near
