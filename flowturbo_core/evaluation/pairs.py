"""Which of two plans is better, and by how much: differences on the same noises."""

import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from flowturbo_core.evaluation.frechet import Estimate
from flowturbo_core.evaluation.rivals import Contender
from flowturbo_core.evaluation.solver_error import estimate_error


def refines_alone(plan: Contender, other: Contender) -> bool:
    """Tell whether the first of two plans evaluates a refiner, and the second does not."""
    return plan.refiner_evaluations > 0 == other.refiner_evaluations


def compare_plans(
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
        "solver_error": [] if errors is None else [estimate_error(each) for each in errors],
    }
    pairs = []
    for k, n in itertools.permutations(range(len(plans)), 2):
        if not are_compared(plans[k], plans[n]):
            continue
        pair: dict[str, Any] = {"plan": str(plans[k]), "other": str(plans[n])}
        pair["time"] = round(statistics.median((ms[k] / ms[n]).tolist()), 4)
        for name, of_plans in estimates.items():
            if of_plans:
                pair |= (of_plans[k] - of_plans[n]).describe(f"{name}_difference")
        if errors is not None:
            pair["nearer"] = float((errors[k] < errors[n]).double().mean())
        pairs.append(pair)
    return pairs
