"""The command line: pictures and one JSON line, or one sentence and exit code 2."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowturbo_core.cli import measuring, sampling
from flowturbo_core.metadata import Written, read_png
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.pictures import picture_hash
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.requests import Classes, Edit, Generate, Inpaint
from tests.conftest import tiny_pipeline

ROOT = Path(__file__).parents[2]


def shell(*arguments):
    """Run the command line as a person does."""
    return subprocess.run(
        [sys.executable, "-m", "flowturbo_core", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=200,
    )


@pytest.fixture
def sample(command_line, pipeline_folder, tmp_path):
    """Return a function that runs `sample` on a tiny model on the CPU in float32."""

    def run(*options):
        base = ("--model", pipeline_folder, "--output-dir", tmp_path / "out")
        return command_line("sample", *base, "--device", "cpu", "--dtype", "float32", *options)

    run.output = tmp_path / "out"
    return run


def test_sampling_in_a_shell(pipeline_folder, tmp_path):
    done = shell(
        "sample", "--model", pipeline_folder, "--plan", "H1P2R1", "--class-labels", "0,1,2",
        "--guidance-scale", "1.5", "--seed", "7", "--device", "cpu", "--dtype", "float32",
        "--output-dir", tmp_path / "out", "--save-latents", tmp_path / "latents.npy",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    files = [Path(file) for file in summary.pop("files")]
    times = summary.pop("ms_per_image"), summary.pop("decode_ms_per_image")
    assert summary == {
        "plan": "H1P2R1",
        "num_images": 3,
        "predictor_evaluations": 4,
        "refiner_evaluations": 2,
        "device": "cpu",
        "dtype": "float32",
    }
    assert times[0] > times[1] > 0
    assert sorted((tmp_path / "out").iterdir()) == sorted(files)
    # The same pictures, in the same order, as from Python.
    expected = ClassConditionalPipeline.from_pretrained(pipeline_folder)(
        [0, 1, 2], "H1P2R1", 1.5, seed=7
    )
    latents = np.load(tmp_path / "latents.npy")
    np.testing.assert_allclose(latents, expected.latents.numpy(), rtol=0, atol=1e-4)
    for file, image in zip(files, expected.images, strict=True):
        with Image.open(file) as picture:
            assert picture.format == "PNG"
            difference = np.asarray(picture).astype(int) - np.asarray(image)
        assert abs(difference).max() <= 1


@pytest.mark.slow
def test_a_mistake_in_a_shell_is_one_line_and_exit_code_2(tmp_path):
    done = shell("sample", "--model", tmp_path / "nowhere", "--output-dir", tmp_path / "out")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "nowhere") in done.stderr


@pytest.mark.parametrize("command", ["sample", "bench", "evaluate", "straightness"])
def test_guidance_of_zero_is_warned_of(command, command_line, pipeline_folder, tmp_path):
    options = {
        "sample": ("--output-dir", tmp_path / "out", "--plan", "E1"),
        "bench": ("--json", tmp_path / "b.json", "--plans", "E1", "--repeats", 1),
        "evaluate": ("--json", tmp_path / "e.json", "--plans", "E1", "--metrics", "speed"),
        "straightness": ("--json", tmp_path / "s.json", "--num-steps", 2),
    }[command]
    done = command_line(command, "--model", pipeline_folder, "--guidance-scale", 0, *options)
    said = "warning: at guidance 0 the class has no effect; 1 is no guidance"
    assert done.err.count(said) == 1 and done.err.startswith(said)


def test_every_option_has_a_default(command_line, pipeline_folder, tmp_path):
    done = command_line("sample", "--model", pipeline_folder, "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err
    summary = json.loads(done.out.splitlines()[-1])
    assert summary["plan"] == "H1P2R1"  # the model's
    assert summary["num_images"] == 3  # one of each class


def test_several_images_a_label(sample):
    done = sample("--class-labels", "subject 2,0", "--num-images", 2, "--seed", 5, "--plan", "E1")
    summary = json.loads(done.out.splitlines()[-1])
    names = [Path(file).name for file in summary["files"]]
    assert summary["num_images"] == len(set(names)) == 4
    for name, subject, seed in zip(names, (2, 2, 0, 0), (5, 6, 7, 8), strict=True):
        assert f"subject-{subject}" in name and f"seed{seed}" in name


def test_a_picture_carries_what_makes_it_again(sample, tmp_path):
    done = sample("--class-labels", "2,1", "--seed", 5, "--plan", "H1P1")
    first, second = json.loads(done.out.splitlines()[-1])["files"]
    written = read_png(second)
    values = {
        "class_names": ["subject 1"], "plan": "H1P1", "guidance_scale": 1.5, "num_images": 1,
        "seed": 6,
    }  # fmt: skip
    assert written == Written(Classes, Generate, "tiny", values)
    again = sample(
        "--class-labels", values["class_names"][0], "--plan", values["plan"],
        "--guidance-scale", values["guidance_scale"], "--seed", values["seed"],
        "--output-dir", tmp_path / "again",
    )  # fmt: skip
    (remade,) = json.loads(again.out.splitlines()[-1])["files"]
    assert np.array_equal(Image.open(second), Image.open(remade))
    assert read_png(first).values["seed"] == 5


def test_pictures_of_classes(command_line, pipeline_folder):
    done = command_line("class-pictures", "--model", pipeline_folder, "--device", "cpu")
    assert done.code == 0, done.err
    assert (pipeline_folder / "classes.webp").stat().st_size > 100


def test_latents_go_in_and_come_out(sample, tmp_path, pipeline):
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "in.npy", noise.numpy())
    done = sample(
        "--class-labels", "0,1", "--latents", tmp_path / "in.npy", "--plan", "H2",
        "--save-latents", tmp_path / "new" / "out.npy",
    )  # fmt: skip
    assert done.code == 0, done.err
    expected = pipeline([0, 1], "H2", latents=noise, output_type="latent").latents
    found = np.load(tmp_path / "new" / "out.npy")
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)


def test_latents_of_another_number_format_are_noise_too(sample, tmp_path):
    noise = np.random.default_rng(0).standard_normal((1, 4, 8, 8))
    for dtype in ("float64", "float16"):
        np.save(tmp_path / "in.npy", noise.astype(dtype))
        done = sample("--class-labels", "0", "--latents", tmp_path / "in.npy", "--plan", "E1")
        assert done.code == 0, done.err


def assert_refused(done, output, *named):
    assert done.code == 2, done.out
    assert done.out == ""
    assert len(done.err.strip().splitlines()) == 1, done.err
    for part in named:
        assert part in done.err
    assert not output.exists()


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--plan", "H8X2", "H8X2"),
        ("--plan", "R3", "R3"),
        ("--plan", "", "plan"),
        ("--plan", "H101", "101"),
        ("--plan", "H" + "9" * 500, "plan"),
        ("--device", "cuda:99", "cuda:99"),
        ("--device", "gpu", "gpu"),
        ("--dtype", "float64", "float64"),
        ("--class-labels", "0,3", "3"),
        ("--class-labels", "-1", "-1"),
        ("--class-labels", "nan", "nan"),
        ("--class-labels", "dog", "dog"),
        ("--class-labels", "", "class"),
        ("--class-labels", " , ,", "class"),
        ("--guidance-scale", "nan", "nan"),
        ("--guidance-scale", "inf", "inf"),
        ("--guidance-scale", "-1", "-1"),
        ("--guidance-scale", "1e300", "1e+300"),
        ("--guidance-scale", "strong", "strong"),
        ("--num-images", "0", "0"),
        ("--num-images", "-2", "-2"),
        ("--num-images", "100000", "100000"),
        ("--num-images", "1.5", "1.5"),
        ("--num-images", "nan", "nan"),
        ("--seed", "-1", "-1"),
        ("--seed", "1" + "0" * 400, "1000"),
        ("--seed", "0.5", "0.5"),
        ("--seed", "inf", "inf"),
        ("--model", "no-such-model", "no-such-model"),
    ],
)
def test_a_wrong_value_is_one_sentence_and_exit_code_2(sample, option, value, named):
    assert_refused(sample(option, value), sample.output, named)


def saved(array):
    def write(file):
        np.save(file, array, allow_pickle=True)

    return write


def zeros(shape, **changes):
    array = np.zeros(shape, **changes)
    return saved(array)


LATENTS_FILES = {
    "missing": lambda file: None,
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("noise"),
    "the start of a zip": lambda file: file.write_bytes(b"PK\x03\x04 and no more"),
    "an archive of arrays": lambda file: np.savez(file.open("wb"), latents=np.zeros(3)),
    "a header that lies": lambda file: file.write_bytes(
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, "
        b"'shape': (1000000000, 1000000, 8, 8), }".ljust(127)
        + b"\n"
    ),
    "objects": saved(np.array([{"a": 1}], dtype=object)),
    "text in an array": saved(np.array(["noise"])),
    "complex numbers": zeros((1, 4, 8, 8), dtype=np.complex64),
    "another shape": zeros((1, 4, 8, 9)),
    "another batch": zeros((2, 4, 8, 8)),
    "no shape": zeros(()),
    "NaN": saved(np.full((1, 4, 8, 8), np.nan, dtype=np.float32)),
    "infinity": saved(np.full((1, 4, 8, 8), np.inf, dtype=np.float32)),
}


@pytest.mark.parametrize("kind", LATENTS_FILES)
def test_a_wrong_file_of_latents_is_refused(sample, tmp_path, kind):
    file = tmp_path / "in.npy"
    LATENTS_FILES[kind](file)
    assert_refused(sample("--class-labels", "0", "--latents", file), sample.output)


def test_a_plan_with_refiner_steps_needs_a_refiner(command_line, tmp_path):
    tiny_pipeline(with_refiner=False).save_pretrained(tmp_path / "plain")
    done = command_line(
        "sample", "--model", tmp_path / "plain", "--plan", "H1R1", "--output-dir", tmp_path / "out"
    )
    assert_refused(done, tmp_path / "out", "H1R1", "refiner")


def test_a_model_that_overflows_is_one_sentence_not_a_black_picture(command_line, tmp_path):
    broken = tiny_pipeline()
    with torch.no_grad():
        broken.predictor.final_layer.linear.bias += 1e6
    broken.save_pretrained(tmp_path / "broken")
    done = command_line(
        "sample", "--model", tmp_path / "broken", "--dtype", "float16", "--device", "cpu",
        "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert_refused(done, tmp_path / "out", "float16")


def test_a_class_name_cannot_leave_the_output_folder(command_line, pipeline_folder, tmp_path):
    # Class names come with a model folder, perhaps a stranger's.
    index = json.loads((pipeline_folder / "model_index.json").read_text())
    index["class_names"] = ["../../escaped", "a/b", "c"]
    (pipeline_folder / "model_index.json").write_text(json.dumps(index))
    output = tmp_path / "deep" / "out"
    done = command_line(
        "sample", "--model", pipeline_folder, "--plan", "E1", "--output-dir", output
    )
    assert done.code == 0, done.err
    assert len(list(output.iterdir())) == 3
    assert not list(tmp_path.glob("*escaped*"))


def test_models_lists_the_catalogue(command_line):
    done = command_line("models")
    assert done.code == 0
    from flowturbo_core.models.catalog import HUB_MODELS

    classes, texts, *remote = done.out.splitlines()
    assert classes.startswith("postcards-sit: pictures of classes")
    assert texts.startswith("postcards-t2i: pictures of texts")
    for model, line in zip(HUB_MODELS, remote, strict=True):
        assert line.startswith(f"{model.name}: pictures of texts") and model.licence in line


def test_a_download_that_cannot_be_is_one_sentence(command_line, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unknown = command_line("download", "what")
    assert unknown.code == 2 and "has no model 'what' on a hub; it has" in unknown.err
    silent = command_line("download", "2-rectified-flow", "--endpoint", "http://127.0.0.1:9")
    assert silent.code == 2
    assert re.fullmatch("error: 2-rectified-flow could not be fetched: [^\n]+\n", silent.err)


@pytest.mark.parametrize(
    "options", [("train", "x" * 10**5, "--output", "a"), ("sample", "--output-dir", "x" * 10**5)]
)
def test_a_complaint_does_not_repeat_a_megabyte(command_line, options):
    done = command_line(*options)
    assert done.code == 2 and done.err.count("\n") == 1 and len(done.err) < 2100


def test_a_number_of_thousands_of_digits_is_told_as_it_was_written(command_line, tmp_path):
    done = command_line("sample", "--seed", "9" * 5000, "--output-dir", tmp_path)
    assert done.code == 2 and "not '9999" in done.err and len(done.err) < 200


def test_latents_are_a_file_of_their_own(command_line, pipeline_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "load_pipeline", None)  # it would be called
    folder = tmp_path / "new"
    done = command_line(
        "sample", "--model", pipeline_folder, "--output-dir", folder, "--save-latents", folder
    )
    assert done.code == 2
    assert done.err == (
        f"error: --save-latents must be a file of its own, not the folder {folder}\n"
    )


@pytest.mark.parametrize("command", ["sample", "train", "convert"])
def test_every_command_explains_itself(command_line, command):
    done = command_line(command, "--help")
    assert done.code == 0
    assert "Usage" in done.out


@pytest.mark.parametrize(
    "options",
    [
        ("sample", "--class-labels", "0", "--output-dir", "PLACE"),
        ("sample", "--class-labels", "0", "--output-dir", "fine", "--save-latents", "PLACE"),
        ("bench", "--plans", "E1", "--json", "PLACE"),
        ("evaluate", "--plans", "E1", "--json", "PLACE"),
        ("tune", "--output", "PLACE"),
        ("compare-refiners", "--refiners", "x", "--json", "PLACE"),
        ("straightness", "--json", "PLACE"),
        ("straightness", "--json", "fine.json", "--plot", "PLACE"),
        ("fidelity", "--generated", "x", "--json", "PLACE"),
        ("train", "flow", "--steps", "1", "--output", "PLACE"),
        ("train", "flow", "--steps", "1", "--output", "fine", "--cache", "PLACE"),
        ("convert", "sit", "--predictor=x", "--vae=x", "--num-heads=1", "--output", "PLACE"),
        ("convert-text", "--folder", "postcards-t2i", "--output", "PLACE"),
        ("bundle", "--autoencoder", "x", "--predictor", "x", "--refiner", "x", "--output", "PLACE"),
        ("bundle-evaluator", "--evaluator", "x", "--output", "PLACE"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_unwritable_place_is_refused_before_anything_is_loaded(
    command_line, tmp_path, monkeypatch, options
):
    def load(*arguments, **options):
        raise AssertionError("something was loaded first")

    for module in (measuring, sampling):
        monkeypatch.setattr(module, "load_pipeline", load)
    monkeypatch.setattr("flowturbo_core.training.commands.load_model", load)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").touch()
    done = command_line(*(o.replace("PLACE", "a file/below.png") for o in options))
    assert done.code == 2 and "a file is a file" in done.err, done.err
    assert len(done.err.splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a file"]


@pytest.mark.parametrize("option", [("--device", "gpu"), ("--dtype", "float64")])
@pytest.mark.parametrize(
    "command",
    [
        ("sample", "--output-dir", "out"),
        ("bench", "--plans", "E1", "--json", "b.json"),
        ("evaluate", "--plans", "E1", "--json", "e.json"),
        ("tune", "--output", "f.json"),
        ("class-pictures",),
    ],
    ids=lambda words: words[0],
)
def test_a_wrong_device_or_format_is_told_before_a_model_is_loaded(
    command_line, tmp_path, monkeypatch, command, option
):
    def load(*arguments, **options):
        raise AssertionError("a model was loaded first")

    for module in (measuring, sampling):
        monkeypatch.setattr(module, "load_pipeline", load)
    monkeypatch.setattr(ClassConditionalPipeline, "from_pretrained", load)
    monkeypatch.chdir(tmp_path)
    done = command_line(*command, *option)
    assert done.code == 2 and option[1] in done.err and not list(tmp_path.iterdir())


def test_a_user_without_a_home_needs_one_for_downloads_alone(command_line, tmp_path, monkeypatch):
    def nobody(number):
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert command_line("models").code == 0
    assert ModelDescription.read("postcards-sit").front is not None
    done = command_line("download", "2-rectified-flow")
    assert done.code == 2 and "no home folder to keep it in" in done.err
    assert "XDG_CACHE_HOME" in done.err and done.err.count("\n") == 1
    monkeypatch.setattr("os.access", lambda *arguments: False)
    done = command_line("tune", "--device", "cpu")
    assert done.code == 2 and "no home folder" in done.err and "name an --output" in done.err


@pytest.fixture
def work_on(command_line, pipeline_folder, tmp_path):
    """Return a function that runs a task's command on a picture of 40 x 30, with a mask beside."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    mask = Image.new("L", (40, 30))
    mask.paste(255, (12, 8, 25, 20))
    mask.save(tmp_path / "mask.png")

    def run(command, *options):
        return command_line(
            command, "--model", pipeline_folder, "--image", tmp_path / "picture.png",
            "--class-labels", "2", "--device", "cpu", "--dtype", "float32",
            "--output-dir", tmp_path / "out", *options,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("method", ["sdedit", "flowedit", "flowalign"])
def test_a_picture_is_edited(work_on, tmp_path, method):
    done = work_on(
        "edit", "--method", method, "--source-prompt", "subject 0", "--strength", 0.6,
        "--plan", "H1P2", "--num-images", 2, "--seed", 7,
    )  # fmt: skip
    assert done.code == 0, done.err
    summary = json.loads(done.out.splitlines()[-1])
    assert (summary["plan"], summary["num_images"]) == ("H1P2", 2)
    assert [Path(file).parent for file in summary["files"]] == [tmp_path / "out"] * 2
    for k, file in enumerate(summary["files"]):
        assert Image.open(file).size == (16, 16)
        written = read_png(file)
        picture = picture_hash(Image.open(tmp_path / "picture.png"))
        assert (written.task, written.model) == (Edit, "tiny")
        assert written.values["picture"] == picture and written.values["method"] == method
        assert written.values["source"] == "subject 0" and written.values["seed"] == 7 + k


def test_a_hole_of_a_picture_is_painted(work_on, tmp_path):
    mask = tmp_path / "mask.png"
    done = work_on("inpaint", "--mask", mask, "--plan", "H1P1R1", "--seed", 3)
    assert done.code == 0, done.err
    summary = json.loads(done.out.splitlines()[-1])
    (file,) = summary["files"]
    assert (summary["plan"], summary["refiner_evaluations"]) == ("H1P1R1", 2)
    assert read_png(file).task is Inpaint
    outside = np.asarray(Image.open(mask)) == 0
    original, found = (np.asarray(Image.open(its)) for its in (tmp_path / "picture.png", file))
    assert np.array_equal(found[outside], original[outside])
    assert not np.array_equal(found, original)


@pytest.mark.parametrize(
    ("command", "options", "named"),
    [
        ("edit", ("--strength", "nan"), "strength must be a number from 0 to 1, not nan"),
        ("edit", ("--strength", "2"), "strength must be a number from 0 to 1, not 2"),
        ("edit", ("--method", "euler"), "method must be one of sdedit, flowedit, flowalign"),
        ("edit", ("--image", "nowhere.png"), "the picture 'nowhere.png' is no file"),
        ("edit", ("--image", "https://example.org/a.png"), "is an address, and none is opened"),
        ("edit", (), "flowedit needs the source"),
        ("edit", ("--source-prompt", "0", "--plan", "H1R1"), "which flowedit cannot take"),
        ("edit", ("--source-prompt", "dog"), "class 'dog' is not known"),
        ("inpaint", ("--mask", "nowhere.png"), "the mask 'nowhere.png' is no file"),
        ("inpaint", (), "mask"),
    ],
    ids=str,
)
def test_wrong_work_on_a_picture_is_refused(work_on, tmp_path, command, options, named):
    assert_refused(work_on(command, *options), tmp_path / "out", named)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("edit", ("image", "method", "source-prompt", "prompt", "strength", "plan", "seed")),
        ("inpaint", ("image", "mask", "prompt", "strength", "plan", "seed", "output-dir")),
    ],
)
def test_the_help_of_work_on_a_picture_names_its_options(command_line, command, options):
    done = command_line(command, "--help")
    assert done.code == 0, done.err
    for option in options:
        assert re.search(rf"--{option}\b", done.out), option
