"""Refiners compared: none leaves the velocity as it is, and a perfect one is better."""

import json

import pytest
import torch

from flowturbo_core.evaluation.refiners import NONE, NoRefiner, Refiner, compare_refiners
from flowturbo_core.evaluation.solver_error import (
    ends,
    root_mean_square,
    solve_reference,
    solver_errors,
)
from flowturbo_core.models.sit import SiTRefiner
from flowturbo_core.models.storage import save_model, save_trained
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.plan import SamplePlan
from flowturbo_core.steps import State, refine_step
from tests.conftest import TINY_SIT

PLAN = SamplePlan.parse("H2R2")


def test_none_carries_the_velocity_on():
    none, v = NoRefiner({}), torch.randn(2, 4, 8, 8)

    def refiner(x, t, v, condition, guidance_scale):
        return none(x, t, v, condition)

    state = refine_step(refiner, State(v * 3, v), torch.tensor(0.5), torch.tensor(0.25), None, 1)
    torch.testing.assert_close(state.x, v * 3.25)
    assert torch.equal(state.v, v)


def test_rows_are_the_solver_errors_beside_that_of_none(pipeline, tmp_path):
    record = {"runs": [{"max_dt": 0.2}, {"max_dt": 0.1, "guidance_scale": 1.5, "minutes": 3}]}
    save_trained(pipeline.refiner, tmp_path / "r", record)
    compared = [Refiner.parse(str(tmp_path / "r")), Refiner.parse(f"{tmp_path / 'r'}:released")]
    none, ours, released = compare_refiners(pipeline, compared, [PLAN], 1.5, 0)
    assert none["refiner"] == NONE and none["difference"] == 0
    assert (ours["max_dt"], ours["guidance_scale"], ours["minutes"]) == (0.1, 1.5, 3)
    assert (ours["variant"], released["variant"]) == ("consistent", "released")
    assert ours["solver_error"] != pytest.approx(released["solver_error"], rel=1e-6)
    with_it = ClassConditionalPipeline(
        pipeline.predictor, pipeline.vae, pipeline.class_names, compared[0].load()
    )
    errors = solver_errors(ends(with_it, PLAN, 1.5), solve_reference(pipeline, 1.5).latents)
    assert ours["solver_error"] == pytest.approx(root_mean_square(errors))
    assert ours["difference"] == pytest.approx(ours["solver_error"] - none["solver_error"])
    low, high = ours["difference_interval"]
    assert low < ours["difference"] < high


def test_the_command_writes_them(pipeline_folder, command_line, tmp_path):
    file = tmp_path / "refiners.json"
    done = command_line(
        "compare-refiners", "--model", pipeline_folder, "--plans", "H1R1",
        "--refiners", pipeline_folder / "refiner", "--json", file,
    )  # fmt: skip
    assert done.code == 0, done.err
    content = json.loads(file.read_text())
    assert [row["refiner"] for row in content["rows"]] == [NONE, str(pipeline_folder / "refiner")]
    assert content["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"--plans": "H2"}, "plan H2 has no refiner step"),
        ({"--plans": "H1R1,H1R1"}, "twice"),
        ({"--refiners": "nowhere"}, "nowhere"),
        ({"--refiners": ""}, "name at least one refiner"),
        ({"--refiners": "nowhere:released,nowhere:released"}, "a refiner is named twice"),
        ({"--refiners": "nowhere:best"}, "variant 'best' is not one of"),
    ],
)
def test_what_cannot_be_compared(pipeline_folder, command_line, tmp_path, change, sentence):
    asked = {
        "--model": pipeline_folder, "--plans": "H1R1", "--refiners": pipeline_folder / "refiner",
        "--json": tmp_path / "refiners.json",
    }  # fmt: skip
    done = command_line(
        "compare-refiners", *(part for pair in (asked | change).items() for part in pair)
    )
    assert done.code == 2 and sentence in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "refiners.json").exists()


def test_a_refiner_of_another_size_is_refused(pipeline, tmp_path):
    save_model(SiTRefiner(**TINY_SIT | {"num_classes": 4}), tmp_path)
    with pytest.raises(ValueError, match="num_classes is 4"):
        compare_refiners(pipeline, [Refiner.parse(str(tmp_path))], [PLAN], 1.5, 0)
