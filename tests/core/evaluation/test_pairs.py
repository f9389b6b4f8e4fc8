"""Which of two plans is better, on the same noises."""

import pytest

from flowturbo_core.evaluation.solver_error import ends, solve_reference, solver_errors
from flowturbo_core.plan import SamplePlan
from tests.core.evaluation.evaluating import run


def test_pairs_say_on_how_many_noises_a_plan_is_nearer(pipeline, tmp_path):
    asked = {"plans": ("H2", "H1P1R1"), "metrics": ("solver",)}
    content = run(pipeline, None, tmp_path / "parts", **asked)
    (pair,) = content["pairs"]
    exact = solve_reference(pipeline, 1.5, 3).latents
    heun, refined = (
        solver_errors(ends(pipeline, SamplePlan(blocks), 1.5, 3), exact) for blocks in ("HH", "HPR")
    )
    assert pair["nearer"] == pytest.approx(float((refined < heun).double().mean()))
