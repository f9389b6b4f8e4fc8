"""How far plans end from the exact solutions, and how exact these are."""

from dataclasses import replace

import pytest
import torch

from flowturbo_core.evaluation.evaluate import evaluate
from flowturbo_core.evaluation.parts import Parts
from flowturbo_core.evaluation.solver_error import ends, solve_reference, solver_errors
from flowturbo_core.models.autoencoder import decode_latents
from flowturbo_core.plan import SamplePlan
from tests.conftest import tiny_pipeline
from tests.core.evaluation.evaluating import SETTINGS, run


@pytest.mark.slow
def test_the_reference_is_checked_if_asked(pipeline, tmp_path):
    metrics = ("solver", "reference")
    content = run(pipeline, None, tmp_path / "parts", plans=("H1", "H4"), metrics=metrics)
    assert 0 < content["reference"]["moved"] < 0.1
    assert 0 < content["reference"]["errors_changed"] < 0.1
    assert content["reference"]["most_steps"] == 100
    plain = run(pipeline, None, tmp_path / "plain", plans=("H1", "H4"), metrics=("solver",))
    assert plain["reference"] is None
    with pytest.raises(ValueError, match="reference checks that of solver: name both"):
        replace(SETTINGS, metrics=("reference",))


def test_without_an_evaluator_the_solver_error_remains(pipeline, tmp_path):
    content = run(pipeline, None, tmp_path / "parts", plans=("H2", "H4"), metrics=("solver",))
    coarse, fine = content["rows"]
    assert content["floor"] is None and "frechet_distance" not in coarse
    assert coarse["solver_error"] > fine["solver_error"] > 0
    exact = solve_reference(pipeline, 1.5, 3).latents
    errors = [solver_errors(ends(pipeline, SamplePlan("H" * n), 1.5, 3), exact) for n in (2, 4)]
    for row, each in zip(content["rows"], errors, strict=True):
        assert row["solver_error"] == pytest.approx(float(each.square().mean().sqrt()))
        assert row["solver_error_median"] == pytest.approx(float(each.median()))
    assert pipeline.dtype == torch.float32


def test_the_solver_error_is_measured_in_float32(tmp_path):
    asked = replace(SETTINGS, plans=("H4",), metrics=("solver",))
    exact, rounded = tiny_pipeline(), tiny_pipeline().to(torch.bfloat16)
    errors = [
        evaluate(*case)["rows"][0]["solver_error"]
        for case in (
            (exact, asked, Parts(tmp_path / "full"), None),
            (rounded, asked, Parts(tmp_path / "half"), None, exact),
        )
    ]
    assert errors[0] == errors[1] and rounded.dtype == torch.bfloat16


@pytest.mark.slow
def test_the_error_of_features_is_the_distance_of_what_the_evaluator_sees(
    postcards, evaluator, tmp_path
):
    asked = {"plans": ("H2",), "metrics": ("solver",)}
    (row,) = run(postcards, evaluator, tmp_path / "parts", **asked)["rows"]
    exact = solve_reference(postcards, 1.5, 3).latents
    latents = [exact, ends(postcards, SamplePlan("HH"), 1.5, 3)]
    with torch.no_grad():
        expected, found = (evaluator(decode_latents(postcards.vae, x)) for x in latents)
    expected = (found - expected).square().mean().sqrt().item()
    assert row["solver_error_of_features"] == pytest.approx(expected, rel=1e-4) and expected > 0
