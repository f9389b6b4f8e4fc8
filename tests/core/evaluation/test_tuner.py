"""The tuner's search against looking at every plan, and what it writes against what reads it."""

import itertools
import json
import os
import time
from dataclasses import replace

import pytest
import torch

from flowturbo_core.evaluation import evaluate, tuner
from flowturbo_core.evaluation.rivals import finish as run_plan
from flowturbo_core.evaluation.solver_error import Reference
from flowturbo_core.evaluation.tuner import front, measure_rates, search
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.models.front import Front, front_files
from flowturbo_core.plan import PAPER_PLANS, SamplePlan
from flowturbo_core.rates import Rates
from flowturbo_core.timing import Timing
from tests.conftest import tiny_pipeline

RATES = Rates(predictor_ms=10.0, refiner_ms=0.8, decode_ms=7.0)
BUDGET = RATES.ms_of(SamplePlan.parse("H6"))


def smooth_error(plan):
    """Return what a second-order method might leave, refiner blocks being less exact."""
    heun, pseudo, refiner = (plan.blocks.count(letter) for letter in "HPR")
    steps = heun + pseudo + refiner
    return (1 + 0.3 * pseudo / steps) / steps**2 + 0.05 * (refiner / steps) ** 2


def all_plans(with_refiner=True):
    for counts in itertools.product(range(1, 7), range(12), range(9 if with_refiner else 1)):
        plan = SamplePlan.from_counts(*counts)
        if RATES.ms_of(plan) <= BUDGET:
            yield plan


@pytest.mark.parametrize("with_refiner", [True, False])
def test_the_search_finds_the_front_that_all_plans_have(with_refiner):
    every = {plan: smooth_error(plan) for plan in all_plans(with_refiner)}
    tried = search(smooth_error, RATES.ms_of, BUDGET, with_refiner)
    assert front(tried, RATES.ms_of) == front(every, RATES.ms_of)
    assert len(tried) < len(every) or not with_refiner
    assert all(with_refiner or not plan.refiner_evaluations for plan in tried)


def test_the_search_climbs_over_a_bump():
    def bumpy(plan):
        return smooth_error(plan) * (1.04 if len(plan) % 2 else 1.0)

    every = {plan: bumpy(plan) for plan in all_plans()}
    tried = search(bumpy, RATES.ms_of, BUDGET, with_refiner=True)
    assert front(tried, RATES.ms_of) == front(every, RATES.ms_of)


def test_no_plan_is_tried_twice_or_beyond_the_budget():
    tried = []
    search(lambda plan: tried.append(plan) or smooth_error(plan), RATES.ms_of, BUDGET, True)
    assert len(set(tried)) == len(tried)
    assert max(map(RATES.ms_of, tried)) <= BUDGET


def test_a_front_has_only_plans_that_nothing_cheaper_beats():
    errors = {SamplePlan(blocks): e for blocks, e in (("H", 3), ("HP", 3), ("HPP", 1), ("HH", 2))}
    kept = front(errors, RATES.ms_of)
    for plan, error in errors.items():
        beaten = any(
            errors[other] <= error and RATES.ms_of(other) <= RATES.ms_of(plan) and other != plan
            for other in errors
        )
        assert (plan in kept) != beaten


def test_of_plans_nearly_alike_the_cheapest_is_offered():
    plans = [SamplePlan("H" + "P" * n) for n in range(5)]
    errors = dict(zip(plans, (3.0, 2.98, 2.96, 2.94, 2.93), strict=True))
    assert tuner.drop_alike(plans, errors) == [
        plans[0],
        plans[2],
        plans[4],
    ]  # each 1% below the last


def test_a_budget_below_the_cheapest_plan_is_refused():
    with pytest.raises(ValueError, match="no plan takes 20 ms: even H1 takes 27 ms"):
        search(smooth_error, RATES.ms_of, 20, with_refiner=True)


def test_rates_are_of_evaluations_not_of_blocks(pipeline):
    # So small are both models that without this, a busy machine decides which is faster.
    slowed = pipeline.predictor.register_forward_pre_hook(lambda *_: time.sleep(0.02))
    rates = measure_rates(pipeline, batch_size=2, guidance_scale=1.5, repeats=3)
    slowed.remove()
    assert 0 < rates.refiner_ms < rates.predictor_ms
    assert rates.decode_ms > 0
    # Two images: 40 ms of H are two evaluations of 10 ms an image, 8 of R two of 2.
    plan = SamplePlan("HR")
    assert Rates.of([(plan, plan.kinds, Timing(2, (40.0, 8.0), 6.0))]) == Rates(10, 2, 3)
    assert measure_rates(tiny_pipeline(with_refiner=False), 2, 1.5, 1).refiner_ms is None


def exactly(pipeline, guidance_scale, seed):
    """Solve in steps that are fewer than the reference's."""
    latents = tuner.ends(pipeline, SamplePlan("H" * 30), guidance_scale, seed)
    return Reference(latents, (30,) * 64)


def finish_on_time(pipeline, job, plan, output_type):
    """Run a plan, and say that it took what its evaluations take at `RATES`."""
    output, images = run_plan(pipeline, job, plan, output_type), len(job.x_init)
    return replace(output, timing=Timing(images, (RATES.ms_of(plan) * images,), 0.0))


def test_the_command_line_writes_what_the_page_reads(
    command_line, pipeline_folder, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tuner, "measure_rates", lambda *arguments: RATES)
    monkeypatch.setattr(tuner, "solve_reference", exactly)
    # Half a millisecond lies between these plans, each run once: a busy machine would turn their
    # order round, and the most exact would be all that is left of the front.
    monkeypatch.setattr(evaluate, "finish", finish_on_time)
    options = ("--model", pipeline_folder, "--device", "cpu", "--num-samples", 4)
    done = command_line("tune", *options, "--budget-ms", 50, "--guidance-scale", 1.5)
    assert done.code == 0, done.err
    found = Front.of(pipeline_folder)
    assert found.guidance_scale == 1.5
    errors = [plan.solver_error for plan in found.plans]
    assert errors == sorted(errors, reverse=True) and len(errors) > 1
    content = json.loads((pipeline_folder / "front.json").read_text())
    assert content["model"] == "tiny" and content["machine"] and content["rates"]["decode_ms"] > 0
    for row in content["plans"]:
        assert row["ms_per_image"] == RATES.ms_of(SamplePlan.parse(row["plan"]))
    assert all(RATES.ms_of(SamplePlan.parse(plan.plan)) <= 50 for plan in found.plans)
    # What it is compared with is measured too, within the budget or not.
    own = ModelDescription.read(pipeline_folder).default_plan
    assert {*PAPER_PLANS, own} <= {plan.plan for plan in found.measured}
    assert not list(pipeline_folder.glob("*.parts"))
    # One found when the folder was not to be written would be preferred to it.
    earlier, _ = front_files(pipeline_folder)
    earlier.parent.mkdir(parents=True)
    earlier.write_text(json.dumps(content | {"weights": "others"}))
    again = command_line("tune", *options, "--budget-ms", 50, "--guidance-scale", 1.5)
    assert again.code == 0, again.err
    assert not earlier.exists() and Front.of(pipeline_folder) is not None
    # Where the folder is not to be written, what is in it stays.
    monkeypatch.setattr(os, "access", lambda path, mode: path != pipeline_folder)
    elsewhere = command_line("tune", *options, "--budget-ms", 50, "--guidance-scale", 1.5)
    assert elsewhere.code == 0, elsewhere.err
    assert earlier.exists() and (pipeline_folder / "front.json").exists()


def test_errors_are_of_the_weights_as_they_are_stored(command_line, pipeline_folder, monkeypatch):
    formats = set()

    def ends(pipeline, plan, scale, seed, count):
        weight = pipeline.predictor.x_embedder.proj.weight
        rounded = bool((weight.bfloat16() == weight).all())
        formats.add((count, pipeline.dtype, rounded))
        return torch.zeros(count, 4, 8, 8)

    monkeypatch.setattr(tuner, "measure_rates", lambda *arguments: RATES)
    monkeypatch.setattr(tuner, "ends", ends)
    solution = Reference(torch.ones(64, 4, 8, 8), (100,) * 64)
    monkeypatch.setattr(tuner, "solve_reference", lambda *asked: solution)
    options = ("--dtype", "bfloat16", "--device", "cpu", "--num-samples", 2, "--budget-ms", 30)
    done = command_line("tune", "--model", pipeline_folder, *options)
    assert done.code == 0, done.err
    # As it runs in the search, and as it is stored in what is reported.
    assert formats == {(16, torch.bfloat16, True), (64, torch.float32, False)}


def row(plan, ms, error):
    return {"plan": plan, "ms_per_image": ms, "solver_error": error}


def pair(plan, other, interval):
    return {"plan": plan, "other": other, "frechet_distance_difference_interval": interval}


def test_a_front_is_what_remains_once_its_plans_were_run():
    as_found = [row("H1P1", 30, 0.5), row("H1P2", 41, 0.4), row("H2P1", 40, 0.3)]
    kept = [its["plan"] for its in tuner.confirm(as_found, [])]
    assert kept == ["H1P1", "H2P1"]  # H1P2 takes longer than what has less error
    rows = [row("E1", 10, 0.9), row("E2", 20, 0.8), row("E3", 30, 0.7), row("E4", 40, 0.6)]
    pairs = [
        pair("E2", "E1", (0.1, 0.4)),  # certainly worse
        pair("E3", "E1", (-0.2, 0.3)),
        pair("E4", "E2", (0.1, 0.3)),  # than one that is not on the front
        pair("E1", "E3", (0.1, 0.3)),  # which takes longer
    ]
    assert [its["plan"] for its in tuner.confirm(rows, pairs)] == ["E1", "E3", "E4"]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (("--budget-ms", 0.0000001), "no plan takes"),
        (("--budget-ms", "nan"), "budget_ms must be"),
        (("--num-samples", 1), "num_samples must be a whole number from 2"),
        (("--batch-size", 0), "batch_size must be a whole number from 1"),
        (("--output", "."), "is a folder"),
    ],
)
def test_wrong_options_are_one_sentence(
    command_line, pipeline_folder, monkeypatch, wrong, sentence
):
    monkeypatch.setattr(tuner, "solve_reference", lambda *arguments: pytest.fail("it was solved"))
    refused = command_line("tune", "--model", pipeline_folder, "--device", "cpu", *wrong)
    assert refused.code == 2 and refused.err.count("\n") == 1 and sentence in refused.err
    assert not (pipeline_folder / "front.json").exists()
