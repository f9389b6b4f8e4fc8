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
