"""Where the plans of a run end, beside where the flow ends. Each solution is kept as a part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowturbo_core.evaluation import quality
from flowturbo_core.evaluation.parts import Parts
from flowturbo_core.evaluation.rivals import Contender
from flowturbo_core.evaluation.settings import Settings
from flowturbo_core.evaluation.solver_error import (
    ends,
    estimate_error,
    root_mean_square,
    solve,
    solve_reference,
    solver_errors,
)
from flowturbo_core.models.autoencoder import decode_latents
from flowturbo_core.models.evaluator import PostcardsEvaluator
from flowturbo_core.pipelines.base import FlowPipeline

# The parts of a run that hold solutions: the reference, a finer one if asked for, then the plans.
_REFERENCE_PART = quality.SCENES_PART + 1


@dataclass(frozen=True)
class Solutions:
    """How far the plans of a run end from the exact solution.

    Args:
        columns: what the row of each plan says of it.
        errors: the error of each plan on each noise (plans, 64); None if it was not asked for.
        reference: what twice as many steps of the reference change, if that was asked for: how
            far it moves (as a share of the smallest error), the largest relative change of an
            error, and the most steps that a noise took.
    """

    columns: list[dict[str, Any]]
    errors: Tensor | None = None
    reference: dict[str, Any] | None = None


def measure_solutions(
    pipeline: FlowPipeline,
    evaluator: PostcardsEvaluator | None,
    settings: Settings,
    plans: Sequence[Contender],
    parts: Parts,
) -> Solutions:
    """Measure the solver error of each plan; the model is in float32.

    The error is measured on latents, and on features too if there is an evaluator. Where it was not
    asked for, columns are empty.
    """
    if "solver" not in settings.metrics:
        return Solutions([{} for _ in plans])
    solver = _Solver(pipeline, settings, parts)
    reference, steps = solver.solve_reference()
    features = None if evaluator is None else _look(pipeline, evaluator, reference)
    finer = solver.solve_finer(steps) if "reference" in settings.metrics else None
    first = _REFERENCE_PART + (1 if finer is None else 2)
    latents = [solver.solve_plan(first + k, plan) for k, plan in enumerate(plans)]
    errors = [solver_errors(end, reference) for end in latents]
    columns = [
        estimate_error(each).describe("solver_error")
        | {"solver_error_median": float(each.median())}
        for each in errors
    ]
    if features is not None:
        for end, found in zip(latents, columns, strict=True):
            of_features = solver_errors(_look(pipeline, evaluator, end), features)
            found["solver_error_of_features"] = root_mean_square(of_features)
    checked = None
    if finer is not None:
        of_plans = [found["solver_error"] for found in columns]
        checked = _check_reference(reference, finer, latents, of_plans)
        checked["most_steps"] = max(steps)
    return Solutions(columns, torch.stack(errors), checked)


def _check_reference(
    reference: Tensor, finer: Tensor, latents: Sequence[Tensor], errors: Sequence[float]
) -> dict[str, Any]:
    """Return how far a finer reference moves, and how much it changes the errors of the plans."""
    moved = root_mean_square(solver_errors(reference, finer)) / min(errors)
    if moved > 0.01:
        print(f"the reference itself is off by {moved:.1%} of the smallest error", flush=True)
    changes = [
        abs(root_mean_square(solver_errors(end, finer)) / error - 1)
        for end, error in zip(latents, errors, strict=True)
    ]
    return {"moved": moved, "errors_changed": max(changes)}


def _look(pipeline: FlowPipeline, evaluator: PostcardsEvaluator, latents: Tensor) -> Tensor:
    """Return the features (N, D) of the pictures of latents (N, C, h, w)."""
    return quality.look(evaluator, decode_latents(pipeline.vae, latents))[0]


@dataclass(frozen=True)
class _Solver:
    """Solves from the noises of a run. What a killed run left in `parts` is not solved again."""

    pipeline: FlowPipeline
    settings: Settings
    parts: Parts

    def solve_reference(self) -> tuple[Tensor, list[int]]:
        """Return the exact solution (64, C, h, w) and the number of steps from each noise."""

        def make() -> dict[str, np.ndarray]:
            found = solve_reference(self.pipeline, *self._asked)
            steps = np.array(found.num_steps)
            return {"latents": found.latents.cpu().numpy(), "num_steps": steps}

        part = self.parts.make_once(_REFERENCE_PART, "solving the reference", make)
        return self._latents_in(part), part["num_steps"].tolist()

    def solve_finer(self, steps: Sequence[int]) -> Tensor:
        """Return the solution in twice as many steps from each noise."""
        twice = [2 * count for count in steps]
        return self._solve_once(
            _REFERENCE_PART + 1,
            "solving it in twice as many steps",
            lambda: solve(self.pipeline, *self._asked, twice),
        )

    def solve_plan(self, number: int, plan: Contender) -> Tensor:
        """Return the latents (64, C, h, w) that a plan ends on; they are part `number`."""
        return self._solve_once(
            number, f"solver error of {plan}", lambda: ends(self.pipeline, plan, *self._asked)
        )

    def _solve_once(self, number: int, doing: str, solve: Callable[[], Tensor]) -> Tensor:
        part = self.parts.make_once(number, doing, lambda: {"latents": solve().cpu().numpy()})
        return self._latents_in(part)

    def _latents_in(self, part: dict[str, np.ndarray]) -> Tensor:
        return torch.from_numpy(part["latents"]).to(self.pipeline.device)

    @property
    def _asked(self) -> tuple[float, int]:
        return self.settings.guidance_scale, self.settings.seed
