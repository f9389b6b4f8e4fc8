"""The README's tables are those that the committed measurements give."""

import json

import pytest
import torch

from flowturbo_core.evaluation.evaluate import evaluator_of, weights_of
from flowturbo_core.evaluation.tables import (
    BENCHMARKS,
    ROOT,
    TABLES,
    pairs_table,
    quality_table,
    refiner_cost,
    with_tables,
)
from flowturbo_core.pipelines.loading import load_pipeline


def test_the_readme_has_the_tables_of_the_committed_measurements():
    text = (ROOT / "README.md").read_text()
    assert with_tables(text) == text


@pytest.mark.parametrize("name", ["postcards-sit", "postcards-t2i"])
def test_they_are_of_the_bundled_models(name):
    pipeline = load_pipeline(name, "cpu", torch.bfloat16)
    weights = weights_of(pipeline, evaluator_of(pipeline))
    for file in BENCHMARKS.glob(f"{name}-*.json"):
        assert json.loads(file.read_text()).get("weights", weights) == weights, file


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
    runs = [json.loads((BENCHMARKS / file).read_text()) for file in TABLES["quality"][0]]
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


def test_another_measurement_is_another_table(tmp_path):
    for file in {file for files, _ in TABLES.values() for file in files}:
        content = doubled(json.loads((BENCHMARKS / file).read_text()))
        (tmp_path / file).write_text(json.dumps(content))
    text = (ROOT / "README.md").read_text()
    changed = with_tables(text, tmp_path)
    for name in TABLES:
        mark = f"<!-- {name}: written by"
        before, after = (t.partition(mark)[2].partition("<!-- end")[0] for t in (text, changed))
        assert before and after and before != after


def test_a_readme_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="no place for the table"):
        with_tables("# Nothing here\n")
