"""Evaluating plans: the same noise for all, parts that survive a kill, honest refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from flowturbo_core.evaluation import evaluate as module
from flowturbo_core.evaluation.evaluate import Settings, evaluate, evaluator_of
from flowturbo_core.models.evaluator import PostcardsEvaluator
from tests.conftest import randomize, tiny_pipeline
from tests.demo.conftest import make_pipeline

SETTINGS = Settings(
    "tiny", ("H2", "H1P1R1"), 6, ("frechet", "accuracy"), 1.5, 3, 4, "cpu", "float32"
)


@pytest.fixture(scope="module")
def postcards():
    return make_pipeline()


@pytest.fixture(scope="module")
def evaluator():
    return randomize(PostcardsEvaluator(widths=(8,) * 5, feature_size=4), 5, scale=0.3)


def run(pipeline, evaluator, parts, **changes):
    return evaluate(pipeline, replace(SETTINGS, **changes), parts, evaluator)


def comparable(content):
    """Return what must not depend on how often a run was interrupted: all but the times."""
    timed = ("ms_per_image", "decode_ms_per_image", "ratio")
    rows = [{k: v for k, v in row.items() if k not in timed} for row in content["rows"]]
    return rows, content["floor"]


def test_rows_hold_what_was_asked(postcards, evaluator, tmp_path):
    content = run(postcards, evaluator, tmp_path / "parts")
    assert [row["plan"] for row in content["rows"]] == ["H2", "H1P1R1"]
    for row in (*content["rows"], content["floor"]):
        low, high = row["frechet_interval"]
        assert 0 <= low <= high and row["frechet_distance"] > 0
        assert 0 <= row["class_accuracy"] <= 1
        assert 0 <= row["precision"] <= 1 and 0 <= row["recall"] <= 1
    first, second = content["rows"]
    assert first["ratio"] == 1 and "frechet_difference" not in first
    assert second["frechet_difference"] == pytest.approx(
        second["frechet_distance"] - first["frechet_distance"]
    )
    assert (second["predictor_evaluations"], second["refiner_evaluations"]) == (3, 2)
    assert (content["model"], content["dtype"], content["num_samples"]) == ("tiny", "float32", 6)
    assert content["versions"]["torch"] == torch.__version__
    assert not (tmp_path / "parts").exists()


def test_one_plan_among_others_is_judged_as_alone(postcards, evaluator, tmp_path):
    together = run(postcards, evaluator, tmp_path / "a")["rows"][1]
    alone = run(postcards, evaluator, tmp_path / "b", plans=("H1P1R1",))["rows"][0]
    assert together["frechet_distance"] == pytest.approx(alone["frechet_distance"], rel=1e-5)


def test_a_run_that_was_killed_goes_on(postcards, evaluator, tmp_path, monkeypatch):
    whole = run(postcards, evaluator, tmp_path / "whole")
    save, saved = module._save, []

    def killed(file, arrays):
        if saved:
            raise KeyboardInterrupt
        save(file, arrays)
        saved.append(file)

    parts = tmp_path / "parts"
    monkeypatch.setattr(module, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        run(postcards, evaluator, parts)
    before = saved[0].stat().st_mtime_ns
    monkeypatch.setattr(module, "_save", lambda f, a: saved.append(f) or save(f, a))
    assert comparable(run(postcards, evaluator, parts)) == comparable(whole)
    assert [file.name for file in saved] == ["000000.npz", "000001.npz"]
    assert before > 0


def test_half_a_part_is_not_a_part(postcards, evaluator, tmp_path, monkeypatch):
    def half(stream, **arrays):
        stream.write(b"PK\x03\x04 the beginning")
        raise KeyboardInterrupt

    monkeypatch.setattr(module.np, "savez", half)
    with pytest.raises(KeyboardInterrupt):
        run(postcards, evaluator, tmp_path / "parts")
    assert not list((tmp_path / "parts").glob("*.npz"))


def test_parts_of_another_run_are_refused(postcards, evaluator, tmp_path):
    parts = tmp_path / "parts"
    module._claim(parts, SETTINGS)
    with pytest.raises(ValueError, match="holds a run with other settings"):
        run(postcards, evaluator, parts, seed=4)
    assert json.loads((parts / "settings.json").read_text())["seed"] == 3


def test_without_an_evaluator_the_solver_error_remains(pipeline, tmp_path):
    content = run(pipeline, None, tmp_path / "parts", plans=("H2", "H4"), metrics=("solver",))
    coarse, fine = content["rows"]
    assert content["floor"] is None and "frechet_distance" not in coarse
    assert coarse["solver_error"] > fine["solver_error"] > 0
    low, high = fine["solver_error_interval"]
    assert low < fine["solver_error"] < high
    assert pipeline.dtype == torch.float32


def test_the_solver_error_is_measured_in_float32(tmp_path):
    def errors(name, dtype):
        pipeline = tiny_pipeline().to(dtype)
        found = run(pipeline, None, tmp_path / name, plans=("H4",), metrics=("solver",))
        assert pipeline.dtype == dtype
        return found["rows"][0]["solver_error"]

    full = errors("full", torch.float32)
    assert errors("half", torch.bfloat16) == pytest.approx(full, rel=0.1)  # weights are rounded


def test_only_postcards_have_an_evaluator(pipeline):
    assert evaluator_of(pipeline) is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_samples": 1}, "num_samples must be a whole number from 2"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1"),
        ({"plans": ()}, "at least one plan"),
        ({"plans": ("H8", "H8")}, "a plan is named twice in H8, H8"),
        ({"metrics": ("beauty",)}, "'beauty': choose from frechet, accuracy, solver"),
        ({"metrics": ()}, "choose from"),
    ],
)
def test_settings_that_cannot_be(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(SETTINGS, **changes)


def test_a_refiner_that_is_not_there_is_noticed_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="no refiner"):
        run(tiny_pipeline(with_refiner=False), None, tmp_path / "parts")
    assert not (tmp_path / "parts").exists()


def test_the_command_line(command_line, pipeline_folder, tmp_path):
    file = tmp_path / "new" / "evaluation.json"
    options = ("--model", pipeline_folder, "--device", "cpu", "--dtype", "float32", "--json", file)
    done = command_line("evaluate", "--plans", "H2,H1P1R1", "--num-samples", 5, *options)
    assert done.code == 0, done.err
    assert [row["plan"] for row in json.loads(file.read_text())["rows"]] == ["H2", "H1P1R1"]
    assert "solver_error" in done.out.splitlines()[-1]
    assert [f.name for f in file.parent.iterdir()] == [file.name]
    for wrong in (("--num-samples", 1), ("--plans", "H2,H2"), ("--metrics", "beauty")):
        refused = command_line("evaluate", "--plans", "H2", *wrong, *options)
        assert refused.code == 2 and refused.err.count("\n") == 1


def test_images_reach_the_evaluator_on_their_scale(postcards, evaluator, tmp_path, monkeypatch):
    seen, look = [], module._look
    monkeypatch.setattr(module, "_look", lambda e, images: seen.append(images) or look(e, images))
    run(postcards, evaluator, tmp_path / "parts")
    values = np.concatenate([images.numpy().ravel() for images in seen])
    assert -1.001 <= values.min() < -0.5 and 0.5 < values.max() <= 1.001
