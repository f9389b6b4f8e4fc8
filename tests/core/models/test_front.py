"""The file of the plans that are worth their time."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from flowturbo_core.models import front as module
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.models.front import Front, FrontPlan, front_files, writable_front_file
from flowturbo_core.rates import Rates
from tests.conftest import write_front

ENTRY = {
    "plan": "H1P5R3",
    "predictor_evaluations": 7,
    "refiner_evaluations": 6,
    "solver_error": 0.33,
}
HEUN = {"plan": "H8", "predictor_evaluations": 16, "refiner_evaluations": 0, "solver_error": 0.12}
CONTENT = {"plans": [ENTRY, HEUN], "guidance_scale": 2.0, "num_noises": 64}


def test_a_front_is_read(tmp_path):
    write_front(tmp_path, CONTENT)
    front = Front.of(tmp_path)
    assert front == Front((FrontPlan("H1P5R3", 7, 6, 0.33), FrontPlan("H8", 16, 0, 0.12)), 2.0)
    assert front.solver_error("H8") == 0.12 and front.solver_error("E4") is None
    assert front.plans[0].ms(Rates(10.0, 1.0, 5.0)) == 81.0


def test_what_was_measured_and_is_not_worth_its_time_is_known_too(tmp_path):
    write_front(tmp_path, {"plans": [ENTRY], "others": [HEUN], "guidance_scale": 2.0})
    front = Front.of(tmp_path)
    assert [its.plan for its in front.plans] == ["H1P5R3"]
    assert [its.plan for its in front.measured] == ["H1P5R3", "H8"]
    assert front.solver_error("H8") == 0.12


def test_where_the_folder_cannot_be_written_the_users_cache_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    cached, beside = front_files(folder)
    assert cached != front_files(tmp_path)[0] and cached.is_relative_to(tmp_path / "cache")
    assert writable_front_file(folder) == beside
    monkeypatch.setattr(module.os, "access", lambda path, mode: False)
    assert writable_front_file(folder) == cached
    cached.parent.mkdir(parents=True)
    write_front(folder, CONTENT | {"plans": [ENTRY]})
    assert Front.of(folder).solver_error("H8") is None
    write_front(cached.parent, CONTENT)  # found here: it comes before what came with the model
    assert Front.of(folder).solver_error("H8") == 0.12


def test_a_front_of_other_weights_is_none(pipeline_folder):
    write_front(pipeline_folder, CONTENT)
    assert Front.of(pipeline_folder).solver_error("H8") == 0.12
    weights = next((pipeline_folder / "predictor").glob("*.safetensors"))
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(ValueError, match="front.json: it was found with other weights"):
        Front.of(pipeline_folder)
    write_front(pipeline_folder, CONTENT | {"weights": None})
    with pytest.raises(ValueError, match="other weights"):
        Front.of(pipeline_folder)


def test_a_model_says_whether_it_has_one(pipeline_folder):
    described = ModelDescription.read(pipeline_folder)
    assert described.front is None
    write_front(pipeline_folder, CONTENT)
    assert described.front.guidance_scale == 2.0
    assert replace(described, folder=pipeline_folder / "nowhere").front is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "must hold a JSON object, not a list"),
        ({}, "plans must be a list of at least one plan, not None"),
        (CONTENT | {"plans": []}, "plans must be a list of at least one plan, not []"),
        (CONTENT | {"plans": "H8"}, "plans must be a list of at least one plan, not 'H8'"),
        (CONTENT | {"plans": ["H8"]}, "a plan of the front must be a JSON object, not 'H8'"),
        (CONTENT | {"plans": [HEUN, HEUN]}, "a plan is named twice in H8, H8"),
        (CONTENT | {"others": [HEUN]}, "a plan is named twice in H1P5R3, H8, H8"),
        (CONTENT | {"others": "H8"}, "plans must be a list of at least one plan, not 'H8'"),
        (CONTENT | {"plans": [{}]}, "like H1P5R3, not None"),
        (CONTENT | {"plans": [HEUN | {"plan": "X"}]}, "plan 'X' is not understood"),
        (
            CONTENT | {"plans": [HEUN | {"predictor_evaluations": 8}]},
            "predictor_evaluations of H8 must be 16, not 8",
        ),
        (
            CONTENT | {"plans": [HEUN | {"refiner_evaluations": False}]},
            "refiner_evaluations of H8 must be 0, not False",
        ),
        (
            CONTENT | {"plans": [HEUN | {"solver_error": float("nan")}]},
            "solver_error of H8 must be a number from 0 to 1000000, not nan",
        ),
        (CONTENT | {"guidance_scale": None}, "guidance_scale must be a number from 0 to 15"),
    ],
)
def test_a_file_that_is_no_front_is_refused_in_a_sentence(tmp_path, content, sentence):
    (tmp_path / "front.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(sentence)) as refusal:
        Front.of(tmp_path)
    assert "front.json" in str(refusal.value) and "\n" not in str(refusal.value)


def test_it_is_read_without_torch():
    program = (
        "import sys; from flowturbo_core.models.catalog import ModelDescription, DEFAULT_MODEL\n"
        "ModelDescription.read(DEFAULT_MODEL).front; print('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout == "False\n", ended.stderr
