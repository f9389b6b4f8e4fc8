"""Evaluating plans: the same noise for all, parts that survive a kill, honest refusals."""

import copy
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from flowturbo_core.data.postcards.captions import prompt
from flowturbo_core.data.postcards.scene import ATTRIBUTES, sample_scene
from flowturbo_core.data.scenes import Scenes
from flowturbo_core.evaluation import evaluate as module
from flowturbo_core.evaluation.evaluate import Settings, evaluate, evaluator_of, weights_of
from flowturbo_core.evaluation.parts import Parts
from flowturbo_core.evaluation.solver_error import (
    Reference,
    ends,
    solve_reference,
    solver_errors,
)
from flowturbo_core.models.autoencoder import (
    PixelUnshuffleAutoencoderKL,
    autoencoder_hash,
    decode_latents,
    reconstruct,
)
from flowturbo_core.models.catalog import model_folder
from flowturbo_core.models.evaluator import PostcardsEvaluator
from flowturbo_core.models.storage import load_model
from flowturbo_core.plan import SamplePlan
from tests.conftest import randomize, tiny_pipeline
from tests.demo.conftest import free_port, make_pipeline, make_text_pipeline

SETTINGS = Settings(
    "tiny", "weights", ("H2", "H1P1R1"), 6, ("frechet", "accuracy"), 1.5, 3, 4, "cpu", "float32"
)


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch):
    """Compare with eight scenes instead of ten thousand."""
    monkeypatch.setattr(module, "REFERENCE_SCENES", 8)


@pytest.fixture(scope="module")
def postcards():
    return make_pipeline()


@pytest.fixture(scope="module")
def evaluator():
    return randomize(PostcardsEvaluator(widths=(8,) * 5, feature_size=4), 5, scale=0.3)


def run(pipeline, evaluator, parts, **changes):
    return evaluate(pipeline, replace(SETTINGS, **changes), Parts(parts), evaluator)


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
    monkeypatch.setattr(module, "solve_reference", lambda *asked: solution)
    monkeypatch.setattr(module, "ends", lambda p, plan, *asked: torch.full((64, 8, 16, 16), 1e-2))
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
    scenes = [sample_scene(module._CLASS_SEED + k, "train") for k in range(24)]
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


def test_other_weights_have_another_hash(postcards, evaluator):
    others = copy.deepcopy(postcards)
    assert weights_of(postcards, evaluator) == weights_of(others, evaluator)
    with torch.no_grad():
        others.refiner.pos_embed[0, 0, 0] += 1
    released = copy.deepcopy(postcards)
    released.refiner.register_to_config(variant="released")
    models = (postcards, others, released)
    hashes = {weights_of(model, evaluator) for model in models} | {weights_of(postcards)}
    assert len(hashes) == 4


def test_no_plan_always_runs_first(postcards, tmp_path, monkeypatch):
    order = []

    def finish(pipeline, job, plan, output_type):
        order.append(str(plan))
        return real(pipeline, job, plan, output_type)

    real = module.finish
    monkeypatch.setattr(module, "finish", finish)
    run(postcards, None, tmp_path / "parts", batch_size=2)
    assert order == ["H2", "H1P1R1", "H1P1R1", "H2", "H2", "H1P1R1"]


def test_accuracy_precision_and_recall_are_of_what_was_told(postcards, tmp_path, monkeypatch):
    labels = [sample_scene(module._CLASS_SEED + k).label for k in range(6)]
    subjects = torch.tensor(labels[:5] + [(labels[5] + 1) % 17])  # the last one is mistaken
    told = torch.stack([subjects, *[torch.zeros(6, dtype=torch.long)] * 3], dim=1)
    told_in_turn = iter([told[:4], told[4:]])
    near = torch.linspace(0, 1, 8)[:, None].repeat(1, 4)
    features = iter([near[:1].repeat(4, 1), near[:1].repeat(2, 1)])  # one point, again and again
    monkeypatch.setattr(module, "_look", lambda *_: (next(features), next(told_in_turn)))
    first = torch.arange(8)[:, None].repeat(1, 4)

    def scenes(*asked, split, reconstructed):
        count = asked[-1]
        away = 5 if reconstructed else 0
        return (near + away)[:count], torch.zeros_like(first)[:count], first[:count]

    monkeypatch.setattr(module, "_scenes", scenes)
    content = run(postcards, "an evaluator", tmp_path / "parts", plans=("H2",))
    (row,) = content["rows"]
    assert row["class_accuracy"] == pytest.approx(5 / 6)
    # All that was drawn is among the scenes, of which it covers one.
    assert row["precision"] == 1 and row["recall"] == pytest.approx(1 / 6)
    reconstructed = content["floor"]["reconstructed"]
    assert reconstructed["class_accuracy"] == pytest.approx(1 / 6)
    assert reconstructed["precision"] == 0
    drawn = content["floor"]["drawn"]
    assert drawn["precision"] == 1 and drawn["frechet_distance"] < reconstructed["frechet_distance"]


def test_the_floor_is_of_other_scenes_through_the_autoencoder(postcards, evaluator):
    ours = module._scenes(postcards, evaluator, 7, 5, split="train", reconstructed=True)
    images, labels = Scenes(7)[range(5)]
    seen = reconstruct(postcards.vae, images.float() / 127.5 - 1)
    torch.testing.assert_close(ours[0], module._look(evaluator, seen)[0])
    assert torch.equal(ours[2][:, 0], labels)
    seeds = sorted((module._REFERENCE_SEED, module._FLOOR_SEED, module._CLASS_SEED))
    assert all(b - a >= 1_000_000 for a, b in zip(seeds, seeds[1:], strict=False))


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


def test_pairs_say_on_how_many_noises_a_plan_is_nearer(pipeline, tmp_path):
    asked = {"plans": ("H2", "H1P1R1"), "metrics": ("solver",)}
    content = run(pipeline, None, tmp_path / "parts", **asked)
    (pair,) = content["pairs"]
    exact = solve_reference(pipeline, 1.5, 3).latents
    heun, refined = (
        solver_errors(ends(pipeline, SamplePlan(blocks), 1.5, 3), exact) for blocks in ("HH", "HPR")
    )
    assert pair["nearer"] == pytest.approx(float((refined < heun).double().mean()))


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


def test_postcards_alone_have_an_evaluator(pipeline, postcards):
    assert evaluator_of(pipeline) is None
    assert isinstance(evaluator_of(postcards), PostcardsEvaluator)


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


def test_the_scenes_asked_for_are_of_the_split(postcards):
    labels, wanted = module._asked(postcards, "held_out", 0, 40)
    scenes = [sample_scene(module._CLASS_SEED + k, "held_out") for k in range(40)]
    assert labels == [scene.label for scene in scenes] == [row[0] for row in wanted]
    assert labels != module._asked(postcards, "train", 0, 40)[0]
    with pytest.raises(ValueError, match="scenes 'test' is not one of train, held_out, all"):
        replace(SETTINGS, scenes="test")


def test_where_nothing_is_judged_a_few_batches_are_enough(pipeline, tmp_path):
    content = run(pipeline, None, tmp_path / "p", metrics=("solver",), num_samples=40, batch_size=2)
    assert [row["num_samples"] for row in content["rows"]] == [8, 8]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_samples": 1}, "num_samples must be a whole number from 2"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1"),
        ({"plans": ()}, "at least one plan"),
        ({"plans": ("H8", "H8")}, "a plan is named twice in H8, H8"),
        ({"metrics": ("beauty",)}, "'beauty': choose from frechet, accuracy, solver"),
        ({"metrics": ()}, "choose from"),
        ({"seed": 2**32 - 63}, "the first seed of 6 samples must be a whole number from 0 to"),
        ({"plans": ("H8",), "rivals": ("ab2:2", "ab2:2")}, "a rival is named twice"),
    ],
)
def test_settings_that_cannot_be(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(SETTINGS, **changes)


def test_numbers_may_be_written_as_floats():
    settings = replace(SETTINGS, num_samples=6.0, batch_size=4.0)
    assert settings == SETTINGS and isinstance(settings.num_samples, int)


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


def test_images_reach_the_evaluator_on_their_scale(postcards, evaluator, tmp_path, monkeypatch):
    seen, look = [], module._look
    monkeypatch.setattr(module, "_look", lambda e, images: seen.append(images) or look(e, images))
    run(postcards, evaluator, tmp_path / "parts")
    values = np.concatenate([images.numpy().ravel() for images in seen])
    assert -1.001 <= values.min() < -0.5 and 0.5 < values.max() <= 1.001
