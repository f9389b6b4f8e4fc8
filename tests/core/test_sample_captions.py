"""`sample-captions`: a picture of each caption, by the name that `fidelity` looks for."""

import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from flowturbo_core.metadata import read_png
from tests.core.pipelines.tiny_text import tiny_text_pipeline

TEXTS = {"b.png": "a red boat", "a.png": "a cat", "c.png": "night, city"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("with_captions") / "tiny"
    tiny_text_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def draw(command_line, folder, tmp_path):
    """Return a function that runs the command on captions, into the folder `out`."""

    def draw(captions, *options):
        return command_line(
            "sample-captions", captions, "--model", folder, "--output-dir", tmp_path / "out",
            "--plan", "H1", "--seed", 5, "--batch-size", 2, "--device", "cpu", *options,
        )  # fmt: skip

    return draw


@pytest.fixture
def by_name(tmp_path):
    file = tmp_path / "captions.json"
    file.write_text(json.dumps(TEXTS))
    return file


def pictures(tmp_path):
    return {file.name: file for file in sorted((tmp_path / "out").iterdir())}


def test_every_caption_has_its_picture_from_a_noise_of_its_own(draw, by_name, tmp_path):
    done = draw(by_name, "--dtype", "float32")
    assert done.code == 0, done.err
    assert done.out.splitlines() == ["2 of 3", "3 of 3"]
    files, pipeline = pictures(tmp_path), tiny_text_pipeline()
    assert list(files) == sorted(TEXTS)
    for k, (name, text) in enumerate(TEXTS.items()):
        (expected,) = pipeline(text, plan="H1", seed=5 + k).images
        difference = np.asarray(Image.open(files[name]), int) - np.asarray(expected, int)
        assert np.abs(difference).max() <= 1
        values = read_png(files[name]).values
        assert (values["prompts"], values["seed"], values["plan"]) == ([text], 5 + k, "H1")


def test_what_is_cut_off_is_said_of_each_caption(draw, by_name, tmp_path):
    by_name.write_text(json.dumps({"a.png": "a red boat " * 6, "b.png": "a cat"}))
    done = draw(by_name)
    assert done.code == 0 and done.err.count("warning: ") == 1 and "left out" in done.err


def test_a_warning_that_holds_for_all_is_said_once(draw, by_name, tmp_path):
    done = draw(by_name, "--guidance-scale", 0)
    assert done.code == 0 and done.err.count("warning: ") == 1
    assert done.err.startswith("warning: at guidance 0 the prompt has no effect; 1 is no guidance")


def test_a_seed_that_does_not_reach_the_last_picture_is_refused_at_once(draw, by_name, tmp_path):
    done = draw(by_name, "--seed", 2**32 - 2)
    assert done.code == 2 and "the first seed of 3 pictures" in done.err
    assert not (tmp_path / "out").exists()


def test_lines_are_numbered(draw, tmp_path):
    (tmp_path / "captions.txt").write_text("a cat\na boat\n")
    assert draw(tmp_path / "captions.txt").code == 0
    assert list(pictures(tmp_path)) == ["000000.png", "000001.png"]


def test_what_is_there_is_not_made_again_and_other_settings_are_refused(draw, by_name, tmp_path):
    assert draw(by_name).code == 0
    made = {name: file.read_bytes() for name, file in pictures(tmp_path).items()}
    kept = pictures(tmp_path)["b.png"].stat().st_mtime_ns
    pictures(tmp_path)["c.png"].unlink()
    assert draw(by_name).code == 0
    assert {name: file.read_bytes() for name, file in pictures(tmp_path).items()} == made
    assert pictures(tmp_path)["b.png"].stat().st_mtime_ns == kept
    refused = draw(by_name, "--guidance-scale", 3)
    assert refused.code == 2 and "was made with other settings; name another folder" in refused.err


def test_a_folder_begun_before_there_were_tasks_is_gone_on_with(draw, by_name, tmp_path):
    assert draw(by_name).code == 0
    for file in pictures(tmp_path).values():
        with Image.open(file) as picture:
            content, info = json.loads(picture.text["flowturbo"]), PngInfo()
            del content["task"]
            info.add_itxt("flowturbo", json.dumps(content))
            picture.save(file, pnginfo=info)
    made = {name: file.read_bytes() for name, file in pictures(tmp_path).items()}
    assert draw(by_name).code == 0
    assert {name: file.read_bytes() for name, file in pictures(tmp_path).items()} == made


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"../a.png": "a cat"}, "'../a.png' must be the name of a .png file"),
        ({"a.jpg": "a cat"}, "'a.jpg' must be the name of a .png file"),
        ({"a.png": " "}, "captions.json, 'a.png': the caption must be a text, not ' '"),
        ({"a.png": 3}, "captions.json, 'a.png': the caption must be a text, not 3"),
        ({}, "holds no captions"),
        ([], "holds no captions"),
        ("a cat", "must hold a JSON object of captions, or a list, not a str"),
        ({"a.png": "a cat", "b.png": "a\0boat"}, "'b.png': the caption holds the control"),
    ],
)
def test_wrong_captions_are_one_sentence(draw, tmp_path, content, sentence):
    file = tmp_path / "captions.json"
    file.write_text(json.dumps(content))
    done = draw(file)
    assert done.code == 2 and done.err.startswith("error: ") and done.err.count("\n") == 1
    assert sentence in done.err
    assert not (tmp_path / "out").exists()


def test_a_model_of_classes_and_a_missing_file_are_refused(command_line, pipeline_folder, tmp_path):
    options = ("--output-dir", tmp_path / "out")
    done = command_line("sample-captions", "x.json", "--model", pipeline_folder, *options)
    assert done.code == 2 and "makes pictures of classes, not of texts" in done.err
