"""The README's tables are those that the committed measurements give."""

import json

import pytest

from flowturbo_core.evaluation.tables import BENCHMARKS, ROOT, TABLES, with_tables


def test_the_readme_has_the_tables_of_the_committed_measurements():
    text = (ROOT / "README.md").read_text()
    assert with_tables(text) == text


def test_another_measurement_is_another_table(tmp_path):
    for file in {file for files, _ in TABLES.values() for file in files}:
        content = json.loads((BENCHMARKS / file).read_text())
        content["rows"][0]["plan"] = "H9"
        for pair in content.get("pairs", ()):
            pair["other"] = pair["other"].replace("H8", "H9")
        (tmp_path / file).write_text(json.dumps(content))
    changed = with_tables((ROOT / "README.md").read_text(), tmp_path)
    assert changed.count("| `H9` |") == len(TABLES) and "time / H9" in changed


def test_a_readme_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="no place for the table"):
        with_tables("# Nothing here\n")
