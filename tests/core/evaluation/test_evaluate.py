"""Evaluating plans: the same noise for all, parts that survive a kill, honest refusals."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from flowturbo_core.data.postcards.captions import prompt
from flowturbo_core.data.postcards.scene import ATTRIBUTES, sample_scene
from flowturbo_core.evaluation import evaluate as module
from flowturbo_core.evaluation import quality, solutions
from flowturbo_core.evaluation.parts import Parts
from flowturbo_core.evaluation.quality import evaluator_of
from flowturbo_core.evaluation.solver_error import Reference
from flowturbo_core.models.autoencoder import PixelUnshuffleAutoencoderKL, autoencoder_hash
from flowturbo_core.models.catalog import model_folder
from flowturbo_core.models.evaluator import PostcardsEvaluator
from flowturbo_core.models.storage import load_model
from tests.conftest import tiny_pipeline
from tests.core.evaluation.evaluating import SETTINGS, run
from tests.demo.conftest import free_port, make_text_pipeline


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch):
    """Compare with eight scenes instead of ten thousand."""
    monkeypatch.setattr(quality, "REFERENCE_SCENES", 8)


def comparable(content):
    """Return what must not depend on how often a run was interrupted: all but the times."""
    timed = ("ms_per_image", "decode_ms_per_image", "ratio")
    rows = [{k: v for k, v in row.items() if k not in timed} for row in content["rows"]]
    return rows, content["floor"]


def test_rows_hold_what_was_asked(postcards, evaluator, tmp_path):
    content = run(postcards, evaluator, tmp_path / "parts")
    assert [row["plan"] for row in content["rows"]] == ["H2", "H1P1R1"]
    for row in (*content["rows"], *content["floor"].values()):
        low, high = row["frechet_distance_interval"]
        assert low < row["frechet_distance"] < high
        assert 0 <= row["class_accuracy"] <= 1
        assert 0 <= row["precision"] <= 1 and 0 <= row["recall"] <= 1
    first, second = content["rows"]
    assert first["ratio"] == 1
    (pair,) = content["pairs"]  # what refines and what does not
    assert (pair["plan"], pair["other"]) == ("H1P1R1", "H2")
    assert pair["frechet_distance_difference"] == pytest.approx(
        second["frechet_distance"] - first["frechet_distance"]
    )
    low, high = pair["frechet_distance_difference_interval"]
    assert low < pair["frechet_distance_difference"] < high
    assert pair["time"] == pytest.approx(second["ratio"], abs=1e-3)
    assert (second["predictor_evaluations"], second["refiner_evaluations"]) == (3, 2)
    assert (content["model"], content["dtype"], content["num_samples"]) == ("tiny", "float32", 6)
    assert content["versions"]["torch"] == torch.__version__


def test_one_plan_among_others_is_judged_as_alone(postcards, evaluator, tmp_path):
    together = run(postcards, evaluator, tmp_path / "a")["rows"][1]
    alone = run(postcards, evaluator, tmp_path / "b", plans=("H1P1R1",))["rows"][0]
    assert together["frechet_distance"] == pytest.approx(alone["frechet_distance"], rel=1e-5)


@pytest.mark.parametrize("lifetime", [1, 2, 3, 5])
def test_a_run_that_was_killed_goes_on(postcards, evaluator, tmp_path, monkeypatch, lifetime):
    solution = Reference(torch.zeros(64, 8, 16, 16), (100,) * 64)
    monkeypatch.setattr(solutions, "solve_reference", lambda *asked: solution)
    end = torch.full((64, 8, 16, 16), 1e-2)
    monkeypatch.setattr(solutions, "ends", lambda *asked: end)
    asked = {"metrics": ("frechet", "accuracy", "solver")}
    save, saved = Parts.save, []
    monkeypatch.setattr(Parts, "save", lambda p, n, arrays: saved.append(n) or save(p, n, arrays))
    whole, everything = run(postcards, evaluator, tmp_path / "whole", **asked), [*saved]
    assert everything[:2] == [0, 1] and len(everything) == 6  # scenes, the reference, two plans

    def killed(parts, number, arrays):
        if len(saved) == lifetime:
            raise KeyboardInterrupt
        saved.append(number)
        save(parts, number, arrays)

    saved.clear()
    parts = tmp_path / "parts"
    monkeypatch.setattr(Parts, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run(postcards, evaluator, parts, **asked)
    monkeypatch.setattr(Parts, "save", lambda p, n, arrays: saved.append(n) or save(p, n, arrays))
    assert comparable(run(postcards, evaluator, parts, **asked)) == comparable(whole)
    assert saved == everything  # nothing was done again


def test_a_part_that_was_damaged_is_done_again(postcards, evaluator, tmp_path):
    whole = run(postcards, evaluator, tmp_path / "parts")
    for damage in (lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"PK half"):
        part = tmp_path / "parts" / "000001.npz"
        part.write_bytes(damage(part.read_bytes()))
        assert comparable(run(postcards, evaluator, tmp_path / "parts")) == comparable(whole)


def test_texts_are_judged_by_what_they_name(evaluator, tmp_path):
    texts = make_text_pipeline()
    content = run(texts, evaluator, tmp_path / "parts", plans=("H2",), num_samples=24)
    (row,) = content["rows"]
    scenes = [sample_scene(quality.ASKED_SEED + k, "train") for k in range(24)]
    made = [prompt(scene, scene.seed) for scene in scenes]
    told = []
    for start in range(0, 24, 4):  # the batches of the run, so that rounding is the same
        asked = [its.text for its in made[start : start + 4]]
        seen = texts(asked, plan="H2", guidance_scale=1.5, seed=3 + start, output_type="pt").images
        logits = evaluator.logits(evaluator(2 * seen.float() - 1))
        told += [
            {name: names[int(logits[name][k].argmax())] for name, names in ATTRIBUTES.items()}
            for k in range(4)
        ]
    for name in ATTRIBUTES:
        right = [
            its[name] == getattr(scene, name)
            for its, scene, said in zip(told, scenes, made, strict=True)
            if name in said.named and getattr(scene, name) is not None
        ]
        assert row[f"{name}_accuracy"] == pytest.approx(sum(right) / len(right))
    assert "class_accuracy" not in row and row["frechet_distance"] > 0


def test_what_draws_on_the_bundled_autoencoder_can_be_judged():
    texts = make_text_pipeline()
    assert evaluator_of(texts) is None  # of another autoencoder
    shared = load_model(PixelUnshuffleAutoencoderKL, model_folder("postcards-autoencoder"))
    texts.unet.register_to_config(autoencoder_hash=autoencoder_hash(shared))
    assert isinstance(evaluator_of(texts), PostcardsEvaluator)


def test_parts_of_another_run_are_refused(postcards, evaluator, tmp_path):
    parts = tmp_path / "parts"
    run(postcards, evaluator, parts)
    for changes in ({"seed": 4}, {"weights": "others"}, {"plans": ("H2",)}):
        (name,) = changes
        with pytest.raises(ValueError, match=rf"holds a run with other settings \({name}\)"):
            run(postcards, evaluator, parts, **changes)
    assert json.loads((parts / "settings.json").read_text())["seed"] == 3


def test_times_of_another_machine_are_not_mixed_with(postcards, evaluator, tmp_path, monkeypatch):
    run(postcards, evaluator, tmp_path / "parts")
    monkeypatch.setattr(module, "describe_device", lambda device: "a faster one")
    with pytest.raises(ValueError, match=r"other settings \(machine\)"):
        run(postcards, evaluator, tmp_path / "parts")


def test_a_folder_that_no_run_made_stays_as_it_is(postcards, evaluator, tmp_path):
    precious = tmp_path / "parts" / "precious.txt"
    precious.parent.mkdir()
    precious.write_text("mine")
    with pytest.raises(ValueError, match="holds precious.txt, which no run left there"):
        run(postcards, evaluator, precious.parent)
    Parts(precious.parent).remove()
    assert [file.name for file in precious.parent.iterdir()] == ["precious.txt"]
    run(postcards, evaluator, tmp_path / "others")
    (tmp_path / "others" / "notes.txt").write_text("mine")
    Parts(tmp_path / "others").remove()
    assert [file.name for file in (tmp_path / "others").iterdir()] == ["notes.txt"]


def test_no_plan_always_runs_first(postcards, tmp_path, monkeypatch):
    order = []

    def finish(pipeline, job, plan, output_type):
        order.append(str(plan))
        return real(pipeline, job, plan, output_type)

    real = module.finish
    monkeypatch.setattr(module, "finish", finish)
    run(postcards, None, tmp_path / "parts", batch_size=2)
    assert order == ["H2", "H1P1R1", "H1P1R1", "H2", "H2", "H1P1R1"]


def test_the_scenes_asked_for_are_of_the_split(postcards):
    labels, wanted = module._ask(postcards, "held_out", 0, 40)
    scenes = [sample_scene(quality.ASKED_SEED + k, "held_out") for k in range(40)]
    assert labels == [scene.label for scene in scenes] == [row[0] for row in wanted]
    assert labels != module._ask(postcards, "train", 0, 40)[0]
    with pytest.raises(ValueError, match="scenes 'test' is not one of train, held_out, all"):
        replace(SETTINGS, scenes="test")


def test_where_nothing_is_judged_a_few_batches_are_enough(pipeline, tmp_path):
    content = run(pipeline, None, tmp_path / "p", metrics=("solver",), num_samples=40, batch_size=2)
    assert [row["num_samples"] for row in content["rows"]] == [8, 8]


def test_a_refiner_that_is_not_there_is_noticed_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="no refiner"):
        run(tiny_pipeline(with_refiner=False), None, tmp_path / "parts")
    assert not (tmp_path / "parts").exists()


def test_the_command_line(command_line, pipeline_folder, tmp_path):
    file = tmp_path / "new" / "evaluation.json"
    options = ("--model", pipeline_folder, "--device", "cpu", "--dtype", "float32", "--json", file)
    done = command_line("evaluate", "--plans", "H2,H1P1R1", "--num-samples", "5.0", *options)
    assert done.code == 0, done.err
    assert [row["plan"] for row in json.loads(file.read_text())["rows"]] == ["H2", "H1P1R1"]
    assert "solver_error" in done.out.splitlines()[-1]
    assert [f.name for f in file.parent.iterdir()] == [file.name]
    for wrong in (
        ("--num-samples", 1),
        ("--num-samples", "nan"),
        ("--plans", "H2,H2"),
        ("--metrics", "beauty"),
        ("--metrics", "frechet"),  # which needs what can judge this model's pictures
        ("--json", tmp_path),
        ("--json", file / "beneath.json"),
    ):
        refused = command_line("evaluate", "--plans", "H2", *options, *wrong)
        assert refused.code == 2 and refused.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_processes_share_the_batches(pipeline_folder, tmp_path):
    file = tmp_path / "evaluation.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port",
            str(free_port()), "-m", "flowturbo_core", "evaluate", "--model", pipeline_folder,
            "--plans", "H1", "--num-samples", "6", "--batch-size", "1", "--device", "cpu",
            "--metrics", "solver", "--json", file,
        ],
        capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for number in range(1, 5):
        assert done.stdout.count(f"batch {number} of 4") == 1
    assert json.loads(file.read_text())["num_processes"] == 2
