"""Pickled text-to-image folders, as InstaFlow's are published, to safetensors."""

import json
import os
import re
import shutil

import pytest
import torch

from flowturbo_core.making.convert_text import convert_text_to_image
from flowturbo_core.pipelines.text_to_image import TextToImagePipeline
from tests.core.pipelines.tiny_text import tiny_text_pipeline
from tests.local_hub import publish


@pytest.fixture(scope="module")
def _published(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("published") / "pickled")


@pytest.fixture
def pickled(_published, tmp_path):
    """Return a folder of pickled weights, a copy that the test may spoil."""
    return shutil.copytree(_published, tmp_path / "pickled")


def test_the_command_writes_a_model_that_makes_the_same_pictures(command_line, pickled, tmp_path):
    output = tmp_path / "new" / "safe"
    done = command_line("convert-text", "--folder", pickled, "--output", output)
    assert done.code == 0, done.err
    assert not list(output.rglob("*.bin")) and len(list(output.rglob("*.safetensors"))) == 3
    assert not (output / "safety_checker").exists()
    expected, found = (
        p("a boat", plan="H2", seed=1, output_type="latent").latents
        for p in (tiny_text_pipeline(), TextToImagePipeline.from_pretrained(output))
    )
    torch.testing.assert_close(found, expected)
    pictures = tmp_path / "out"
    done = command_line(
        "sample", "--model", output, "--prompt", "a boat", "--plan", "H1", "--output-dir", pictures
    )
    assert done.code == 0 and len(list(pictures.glob("*.png"))) == 1


def test_its_settings_go_into_the_index(pickled, tmp_path):
    convert_text_to_image(pickled, tmp_path / "safe", {"default_plan": "E1"})
    index = json.loads((tmp_path / "safe" / "model_index.json").read_text())
    assert index["default_plan"] == "E1" and index["_class_name"] == "RectifiedFlowPipeline"


class Malicious:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch harmed",)


def no_part(folder):
    shutil.rmtree(folder / "unet")


def no_weights(folder):
    (folder / "vae" / "diffusion_pytorch_model.bin").unlink()


def cut(folder):
    file = folder / "unet" / "diffusion_pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:1000])


def with_code(folder):
    torch.save({"weight": Malicious()}, folder / "unet" / "diffusion_pytorch_model.bin")


def another_model(folder):
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (no_part, "unet"),
        (no_weights, r"there is no file .*vae.diffusion_pytorch_model\.safetensors"),
        (cut, r"diffusion_pytorch_model\.bin is (truncated|refused)"),
        (
            with_code,
            r"is refused: it is not .*, it wants to run .*system",
        ),
        (another_model, "describes 'FluxPipeline', not a"),
    ],
)
def test_what_cannot_be_converted_leaves_nothing(pickled, tmp_path, monkeypatch, spoil, sentence):
    monkeypatch.chdir(tmp_path)
    spoil(pickled)
    with pytest.raises(ValueError, match=sentence):
        convert_text_to_image(pickled, tmp_path / "new" / "safe")
    assert not (tmp_path / "harmed").exists()
    assert not list(tmp_path.glob("new/*"))


@pytest.mark.parametrize(
    ("refiner", "plan", "sentence"),
    [
        ("nowhere", "H8", "{0}/nowhere is not the folder of a refiner: it has no config.json"),
        ("pickled/unet", "H8", "the refiner takes 4 channels"),
        ("pickled/vae", "H8", "{0}/pickled/vae/config.json describes a 'AutoencoderKL', not a"),
        (None, "R9", "{0}/pickled: .*R9"),
    ],
)
def test_a_refiner_or_plan_that_does_not_fit_is_refused_by_what_was_given(
    command_line, pickled, tmp_path, refiner, plan, sentence
):
    given = () if refiner is None else ("--refiner", tmp_path / refiner)
    done = command_line(
        "convert-text", "--folder", pickled, "--output", tmp_path / "new", *given,
        "--default-plan", plan,
    )  # fmt: skip
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert re.search(sentence.format(tmp_path), done.err), done.err
    assert "/tmp" not in done.err.replace(str(tmp_path), "")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_there_is_not_written_over(pickled, tmp_path):
    (tmp_path / "safe").mkdir()
    with pytest.raises(ValueError, match="is there already"):
        convert_text_to_image(pickled, tmp_path / "safe")
