"""How far plans end from where their ODE leads."""

import json
import math

import pytest
import torch

from flowturbo_core.evaluation import solver_error as module
from flowturbo_core.evaluation.solver_error import (
    NUM_NOISES,
    ends,
    root_mean_square,
    solve,
    solve_reference,
    solver_errors,
)
from flowturbo_core.evaluation.tables import BENCHMARKS
from flowturbo_core.plan import SamplePlan
from tests.conftest import tiny_pipeline


@pytest.fixture(scope="module")
def reference(pipeline):
    return solve_reference(pipeline).latents


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


def test_noises_that_need_more_steps_get_them(pipeline, monkeypatch):
    (job, *_) = module.jobs(pipeline, 1.5, 0)
    stubborn = job.x_init[[2, 11]]

    def heun(job, num_steps):
        """Be off by 1 / N^2, and a hundred times as much from two of the noises."""
        is_stubborn = torch.stack([(x == stubborn).flatten(1).all(1).any() for x in job.x_init])
        factor = torch.where(is_stubborn, 1000.0, 10.0).view(-1, 1, 1, 1)
        return job.x_init.sign() * (1 + factor / num_steps**2)

    monkeypatch.setattr(module, "_heun", heun)
    found = solve_reference(pipeline, 1.5)
    # 1000 / 50^2 - 1000 / 100^2 = 0.3, then 0.075, 0.019, 0.0047: below 0.01 at 800.
    assert [k for k, count in enumerate(found.num_steps) if count > 100] == [2, 11]
    assert {found.num_steps[k] for k in (2, 11)} == {800}
    assert (found.latents.abs() - 1).max() < 0.002
    twice = solve(pipeline, 1.5, num_steps=[2 * count for count in found.num_steps])
    assert root_mean_square(solver_errors(found.latents, twice)) < 0.001


def test_solutions_of_one_noise_are_those_of_all(pipeline, reference):
    counts = [10, 20, *[10] * 62]
    found = solve(pipeline, num_steps=counts)
    torch.testing.assert_close(found[1], solve(pipeline, num_steps=20)[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[2:], solve(pipeline, num_steps=10)[2:])


def test_the_bundled_model_s_reference_is_converged():
    for file in BENCHMARKS.glob("*.json"):
        checked = json.loads(file.read_text()).get("reference")
        if checked is not None:
            assert checked["moved"] < 0.01 and checked["errors_changed"] < 0.01, file


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
    exact = solve_reference(partly).latents
    assert error(partly, exact, "H16") < error(partly, exact, "H4")


def test_each_image_has_its_error():
    found = solver_errors(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.zeros(2, 2))
    torch.testing.assert_close(found, torch.tensor([12.5, 0.5], dtype=torch.float64).sqrt())
    with pytest.raises(ValueError, match="differ in shape"):
        solver_errors(torch.zeros(2, 3), torch.zeros(3, 2))
