"""How far plans end from where their ODE leads."""

import math

import pytest
import torch

from flowturbo_core.evaluation.solver_error import (
    NUM_NOISES,
    ends,
    root_mean_square,
    solve,
    solver_errors,
)
from flowturbo_core.plan import SamplePlan
from tests.conftest import tiny_pipeline


@pytest.fixture(scope="module")
def reference(pipeline):
    return solve(pipeline)


def error(pipeline, reference, plan):
    return root_mean_square(solver_errors(ends(pipeline, SamplePlan.parse(plan)), reference))


def test_the_reference_is_where_a_hundred_equal_heun_steps_end(pipeline, reference):
    assert len(reference) == NUM_NOISES
    torch.testing.assert_close(
        reference, ends(pipeline, SamplePlan.parse("H100")), rtol=0, atol=5e-4
    )


def test_the_reference_has_converged(pipeline, reference):
    finer = solve(pipeline, num_steps=200)
    smallest = error(pipeline, reference, "H8")  # of the plans that are worth comparing
    rounding = 5e-6  # of float32, over so many steps
    assert root_mean_square(solver_errors(reference, finer)) < 0.01 * smallest + rounding


def test_the_error_falls_with_the_square_of_the_step(pipeline, reference):
    errors = [error(pipeline, reference, plan) for plan in ("H4", "H8", "H16")]
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert 1.5 < math.log2(coarse / fine) < 2.6
    assert error(pipeline, reference, "E8") > errors[1]


def test_noise_classes_and_guidance_are_the_reference_s(pipeline, reference):
    for changes in ({"seed": 1}, {"guidance_scale": 3.0}):
        assert not torch.allclose(
            solve(pipeline, num_steps=4, **changes), solve(pipeline, num_steps=4)
        )


def test_partly_guided_models_are_solved_too():
    partly = tiny_pipeline(guided_channels=3)
    exact = solve(partly)
    assert error(partly, exact, "H16") < error(partly, exact, "H4")


def test_each_image_has_its_error():
    found = solver_errors(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.zeros(2, 2))
    torch.testing.assert_close(found, torch.tensor([12.5, 0.5], dtype=torch.float64).sqrt())
    with pytest.raises(ValueError, match="differ in shape"):
        solver_errors(torch.zeros(2, 3), torch.zeros(3, 2))
