"""Rival solvers: their order on exact problems, diffusers' own loop, and the cached first block."""

import json
import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from flowturbo_core.evaluation import rivals
from flowturbo_core.evaluation.rivals import Rival, finish, parse_contenders
from flowturbo_core.evaluation.solver_error import ends
from flowturbo_core.plan import SamplePlan
from tests.conftest import tiny_pipeline
from tests.problems import PROBLEMS, GaussianFlow, start_points


def error(solver, problem, num_steps):
    found = solver(problem, start_points(), num_steps)
    return float((found - problem.solution(start_points(), 1.0)).abs().max())


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(("solver", "order"), [("ab2", 2), ("fbc", 1)])
def test_errors_fall_as_the_order_says(problem, solver, order):
    coarse, fine = (error(rivals._SOLVERS[solver], problem(), steps) for steps in (64, 128))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("solver", ["dpm++", "unipc"])
def test_the_schedulers_solve_the_flow_that_they_are_for(solver):
    # Their grid starts at sigma = 0.999, a thousandth of the way: that much remains.
    errors = [error(rivals._SOLVERS[solver], GaussianFlow(), steps) for steps in (4, 8, 64)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 5e-3


@pytest.mark.parametrize("solver", ["ab2", "dpm++", "unipc", "fbc"])
def test_a_step_is_one_evaluation(solver):
    problem = GaussianFlow()
    rivals._SOLVERS[solver](problem, start_points(), 7)
    assert problem.evaluations == 7


def test_dpm_solver_is_diffusers_own_loop():
    problem, x = GaussianFlow(), start_points()
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, solver_order=2
    )
    scheduler.set_timesteps(6)
    for timestep in scheduler.timesteps:
        velocity = problem.field(x, 1 - float(timestep) / 1000)
        x = scheduler.step(-velocity, timestep, x).prev_sample
    found = rivals.dpm_solver(problem, start_points(), 6)
    torch.testing.assert_close(found, x, atol=1e-3, rtol=1e-3)


def test_a_cache_that_never_holds_is_eulers_method(pipeline):
    cached = ends(pipeline, Rival("fbc", 5, 0.0), 1.5, 0, 16)
    torch.testing.assert_close(cached, ends(pipeline, SamplePlan("E" * 5), 1.5, 0, 16))


def test_a_cache_that_always_holds_evaluates_the_other_blocks_once(pipeline):
    calls = []
    handle = pipeline.predictor.blocks[-1].attn.register_forward_hook(lambda *_: calls.append(1))
    try:
        cached = ends(pipeline, Rival("fbc", 5, 10.0), 1.5, 0, 16)
        assert len(calls) == 1
        again = ends(pipeline, Rival("fbc", 5, 10.0), 1.5, 0, 16)  # nothing is left of the first
        assert len(calls) == 2
    finally:
        handle.remove()
    torch.testing.assert_close(cached, again)
    assert not pipeline.predictor.is_cache_enabled
    exact = ends(pipeline, SamplePlan("E" * 5), 1.5, 0, 16)
    assert not torch.allclose(cached, exact)


def test_a_model_with_partial_guidance_is_sampled_like_by_its_plan():
    pipeline = tiny_pipeline(guided_channels=3)
    plan, rival = SamplePlan("E"), Rival("ab2", 1)
    job = pipeline.job(pipeline.request([0, 1], plan, 1.5, 1, 0))
    expected = pipeline.finish(job, plan, "latent").latents
    torch.testing.assert_close(finish(pipeline, job, rival, "latent").latents, expected)


def test_names_are_read_and_written():
    assert str(Rival.parse(" DPM++:9 ")) == "dpm++:9"
    assert str(Rival.parse("fbc:16:0.10")) == "fbc:16:0.1"
    plan, rival = parse_contenders(["H8"], ["unipc:12"])
    assert (rival.predictor_evaluations, rival.refiner_evaluations) == (12, 0)
    assert plan == SamplePlan("H" * 8)


@pytest.mark.parametrize(
    "text",
    ["", "dpm++", "dpm++:0", "dpm++:101", "rk4:4", "ab2:x", "ab2:9:0.1", "fbc:16", "fbc:16:nan"],
)
def test_what_is_no_rival_is_refused(text):
    with pytest.raises(ValueError, match="rival"):
        Rival.parse(text)


def test_a_rival_named_twice_is_refused():
    with pytest.raises(ValueError, match="a rival is named twice"):
        parse_contenders(["H8"], ["ab2:9", "AB2:9"])


def test_bench_times_rivals_after_the_plans(command_line, pipeline_folder, tmp_path):
    file = tmp_path / "bench.json"
    options = ("--model", pipeline_folder, "--device", "cpu", "--repeats", 2, "--json", file)
    done = command_line("bench", "--plans", "H2,H1P1R1", "--rivals", "unipc:3,fbc:3:0.1", *options)
    assert done.code == 0, done.err
    rows = json.loads(file.read_text())["rows"]
    assert [row["plan"] for row in rows] == ["H2", "H1P1R1", "unipc:3", "fbc:3:0.1"]
    assert all(row["ratio"] > 0 and row["mode"] == "eager" for row in rows)
    assert rows[2]["refiner_ms_per_image"] == 0 < rows[1]["refiner_ms_per_image"]
