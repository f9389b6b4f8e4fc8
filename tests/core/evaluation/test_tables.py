"""The README's tables are those that the committed measurements give."""

import json

import pytest

from flowturbo_core.evaluation.tables import BENCHMARKS, ROOT, TABLES, with_tables


def test_the_readme_has_the_tables_of_the_committed_measurements():
    text = (ROOT / "README.md").read_text()
    assert with_tables(text) == text


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
