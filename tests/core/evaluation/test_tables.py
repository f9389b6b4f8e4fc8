"""The tables of the README and of docs/ are those that the committed measurements give."""

import json

import pytest
import torch

from flowturbo_core.evaluation.quality import evaluator_of
from flowturbo_core.evaluation.settings import weights_of
from flowturbo_core.evaluation.tables import (
    BENCHMARKS,
    PAGES,
    ROOT,
    pairs_table,
    quality_table,
    refiner_cost,
    trade_table,
    with_tables,
)
from flowturbo_core.pipelines.loading import load_pipeline


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_the_tables_of_the_committed_measurements(page):
    text = (ROOT / page).read_text()
    assert with_tables(page, text) == text


# Measurements that record no hash of the weights, and why they need none, or what stands in for it.
WITHOUT_WEIGHTS = {
    "postcards-sit-speed.json": "the time of a plan does not depend on the weights' values",
    "postcards-t2i-speed.json": "the time of a plan does not depend on the weights' values",
    "sit-xl-2-speed.json": "its weights are random",
    "postcards-sit-refiners.json": "its bundled rows are compared with the quality run, below",
    "soak.json": "it measures the server, not pictures",
    "postcards-sit-straightness.json": "`straightness` records none: nothing holds it here",
}


def measurements():
    """Return every committed measurement by the name of its file."""
    return {file.name: json.loads(file.read_text()) for file in BENCHMARKS.glob("*.json")}


def test_every_measurement_names_its_weights_or_is_excused():
    assert {name for name, its in measurements().items() if "weights" not in its} == set(
        WITHOUT_WEIGHTS
    )


@pytest.mark.parametrize("name", ["postcards-sit", "postcards-t2i"])
def test_they_are_of_the_bundled_models(name):
    pipeline = load_pipeline(name, "cpu", torch.bfloat16)
    weights = weights_of(pipeline, evaluator_of(pipeline))
    of_model = {
        file: its["weights"]
        for file, its in measurements().items()
        if file not in WITHOUT_WEIGHTS and its["model"] == name
    }
    assert of_model and of_model == dict.fromkeys(of_model, weights)


def test_the_refiners_were_compared_on_the_bundled_model():
    files = measurements()
    quality, refiners = (files[f"postcards-sit-{name}.json"] for name in ("quality", "refiners"))
    assert (quality["guidance_scale"], quality["seed"]) == (
        refiners["guidance_scale"],
        refiners["seed"],
    )
    errors = {row["plan"]: row["solver_error"] for row in quality["rows"]}
    bundled = {
        row["plan"]: row["solver_error"]
        for row in refiners["rows"]
        if row["refiner"] == "assets/models/postcards-sit/refiner"
        and row["variant"] == "consistent"
        and row["plan"] in errors
    }
    assert bundled == pytest.approx({plan: errors[plan] for plan in ("H1P5R3", "H1P5R4")}, rel=1e-5)


# Of FlowTurbo's table 1b: each plan, its Heun partner, and the most of its time that it may take.
TABLE_1B = {"H1P2R2": ("H4", 0.70), "H1P4R2": ("H5", 0.76), "H1P6R3": ("H8", 0.65),
            "H3P6R3": ("H10", 0.72)}  # fmt: skip
ACCURACIES = {"subject": 0.95, "time": 0.95, "colour": 0.85, "position": 0.85}


def test_the_bundled_model_of_texts_is_as_good_and_as_fast_as_was_asked_of_it():
    trained, held_out, speed = (
        json.loads((BENCHMARKS / f"postcards-t2i-{name}.json").read_text())
        for name in ("quality", "held-out", "speed")
    )
    assert trained["num_samples"] >= 1000 and trained["scenes"] == "train"
    assert held_out["num_samples"] >= 1000 and held_out["scenes"] == "held_out"
    for attribute, least in ACCURACIES.items():
        name = f"{attribute}_accuracy"
        by_plan = {row["plan"]: row[name] for row in trained["rows"]}
        assert min(by_plan.values()) >= least
        assert by_plan["H1P6R3"] - held_out["rows"][0][name] <= 0.10
    distances = {row["plan"]: row["frechet_distance"] for row in trained["rows"]}
    pairs = {(pair["plan"], pair["other"]): pair for pair in trained["pairs"]}
    for plan, (partner, most) in TABLE_1B.items():
        assert pairs[plan, partner]["time"] <= most
        assert distances[plan] <= 1.02 * distances[partner]
    assert refiner_cost(speed, "eager") <= 0.15


def test_runs_that_differ_make_no_table_together():
    runs = [
        json.loads((BENCHMARKS / file).read_text())
        for file in PAGES["docs/measurements.md"]["quality"][0]
    ]
    for changes in ({"weights": "others"}, {"guidance_scale": 4.0}, {"num_samples": 50}):
        (name,) = changes
        for make in (quality_table, pairs_table):
            with pytest.raises(ValueError, match=f"differ in {name}"):
                make(runs[0], runs[1] | changes)


def doubled(value):
    """Return a measurement of which every number that is not whole is twice as large."""
    if isinstance(value, dict):
        return {name: doubled(part) for name, part in value.items()}
    if isinstance(value, list):
        return [doubled(part) for part in value]
    return 2 * value if isinstance(value, float) else value


@pytest.mark.parametrize("page", PAGES)
def test_another_measurement_is_another_table(page, tmp_path):
    tables = PAGES[page]
    for file in {file for files, _ in tables.values() for file in files}:
        content = doubled(json.loads((BENCHMARKS / file).read_text()))
        (tmp_path / file).write_text(json.dumps(content))
    text = (ROOT / page).read_text()
    changed = with_tables(page, text, tmp_path)
    for name in tables:
        mark = f"<!-- {name}: written by"
        before, after = (t.partition(mark)[2].partition("<!-- end")[0] for t in (text, changed))
        assert before and after and before != after


def test_the_readmes_finding_says_what_the_intervals_say():
    content = [
        json.loads((BENCHMARKS / file).read_text()) for file in PAGES["README.md"]["trade"][0]
    ]
    quality, speed = content
    pair = next(its for its in quality["pairs"] if (its["plan"], its["other"]) == ("H1P5R4", "H8"))
    for interval, words in (
        ([-0.3, -0.1], "is measurably lower than"),
        ([-0.1, 0.1], "does not measurably differ from"),
        ([0.1, 0.3], "is measurably higher than"),
    ):
        pair["frechet_distance_difference_interval"] = interval
        assert f"Frechet distance {words} that of `H8` (" in trade_table(quality, speed)


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="README.md has no place for the table 'trade'"):
        with_tables("README.md", "# Nothing here\n")
