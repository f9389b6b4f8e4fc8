"""`train text-refiner` on with_captions pictures of one's own, for any text-to-image model."""

import json

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch.utils.data import TensorDataset

from flowturbo_core.models.unet import SD_REFINER
from flowturbo_core.pipelines.text_to_image import TextToImagePipeline
from flowturbo_core.training import commands
from flowturbo_core.training.optimization import build_optimizers
from flowturbo_core.training.recipes import get_recipe
from flowturbo_core.training.text import with_captions
from tests.core.pipelines.tiny_text import WINDOW, tiny_text_pipeline, write_sd_folder
from tests.core.training.tiny import assert_refused

CAPTIONS = {"a.png": "a red boat", "b.jpg": "a blue fish at sunset " * 9, "c.png": "night"}


@pytest.fixture
def sd_folder(tmp_path):
    """Return a model without a refiner, as InstaFlow's are published."""
    pipeline = tiny_text_pipeline(with_refiner=False)
    return write_sd_folder(pipeline, tmp_path / "rectified", "RectifiedFlowPipeline")


@pytest.fixture
def own(tmp_path):
    """Return the options that name three pictures of different sizes and their captions."""
    folder, captions = tmp_path / "pictures", tmp_path / "captions.json"
    folder.mkdir()
    for k, name in enumerate(CAPTIONS):
        shape = (20 + 9 * k, 31, 3)
        values = np.random.default_rng(k).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(values).save(folder / name)
    captions.write_text(json.dumps(CAPTIONS))
    return {"--pictures": folder, "--captions": captions}


def words(options):
    return [word for option in options.items() for word in option]


def test_a_published_model_gets_a_refiner(drawn, train, command_line, sd_folder, own, tmp_path):
    done = train("text-refiner", "--steps", 3, "--predictor", sd_folder, *words(own))
    assert done.code == 0, done.err
    assert not drawn  # no scenes
    trained, whole = tmp_path / "text-refiner" / "model", tmp_path / "whole"
    done = command_line(
        "convert-text", "--folder", sd_folder, "--refiner", trained,
        "--default-plan", "H1P1R2", "--output", whole,
    )  # fmt: skip
    assert done.code == 0, done.err
    before, after = (TextToImagePipeline.from_pretrained(its) for its in (sd_folder, whole))
    assert (before.refiner, after.default_plan) == (None, "H1P1R2")
    latents = [p("a boat", plan="H2", output_type="latent").latents for p in (before, after)]
    torch.testing.assert_close(*latents)
    kept = UNet2DConditionModel.from_pretrained(trained).state_dict()
    assert all(torch.equal(kept[n], t) for n, t in after.refiner.unet.state_dict().items())
    done = command_line(
        "sample", "--model", whole, "--prompt", "a boat", "--output-dir", tmp_path / "out"
    )
    assert done.code == 0, done.err
    summary = json.loads(done.out.splitlines()[-1])
    assert (summary["plan"], summary["refiner_evaluations"]) == ("H1P1R2", 4)


def test_it_learns_how_the_models_velocity_changes(drawn, train, sd_folder, own, tmp_path):
    done = train(
        "text-refiner", "--steps", 200, "--predictor", sd_folder, *words(own),
        "--batch-size", 16, "--learning-rate", 0.02, "--max-dt", 0.5,
    )  # fmt: skip
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "text-refiner/log.jsonl").open()]
    assert lines[-1]["loss"] < 0.75 * lines[-1]["unrefined"]


def test_each_picture_has_its_caption_cut_to_the_window():
    pipeline = tiny_text_pipeline()
    data = with_captions(TensorDataset(torch.zeros(3, 4, 8, 8)), list(CAPTIONS.values()), pipeline)
    _, tokens = data[:]
    assert tokens.shape == (3, 1, WINDOW)
    for row, text in zip(tokens[:, 0].long(), CAPTIONS.values(), strict=True):
        assert torch.equal(pipeline.text_encoder(row[None])[0], pipeline.embed([text]))


def test_the_recipe_for_stable_diffusion_is_the_papers():
    recipe = get_recipe("sd-1-5", "text_refiner")
    settings = recipe.text_refiner_training
    assert (settings.batch_size, settings.learning_rate, settings.weight_decay) == (16, 2e-5, 0)
    assert (settings.warmup_steps, settings.max_grad_norm) == (100, 0.01)
    with torch.device("meta"):
        refiner = UNet2DConditionModel(**SD_REFINER)
    (adamw,) = build_optimizers(refiner, settings)
    assert isinstance(adamw, torch.optim.AdamW)
    assert sum(p.numel() for p in adamw.param_groups[0]["params"]) == refiner.num_parameters()


def _no_caption(own):
    own["--captions"].write_text(json.dumps({"a.png": "a boat"}))


def _control_character(own):
    own["--captions"].write_text(json.dumps(CAPTIONS | {"a.png": "a\0boat"}))


def _transparent(own):
    Image.new("RGBA", (9, 9)).save(own["--pictures"] / "a.png")


@pytest.mark.parametrize(
    ("spoil", "options", "named"),
    [
        (_no_caption, (), ["no caption for 2 of the pictures: 'b.jpg', 'c.png'"]),
        (_control_character, (), ["captions.json, 'a.png': the caption", "control character"]),
        (_transparent, (), ["a.png", "transparent"]),
        (lambda own: own.pop("--captions"), (), ["--pictures and --captions"]),
        (lambda own: own.pop("--pictures"), (), ["--pictures and --captions"]),
        (lambda own: None, ("--num-latents", 4), ["num_latents", "1 to 3, not 4"]),
        (lambda own: None, ("--predictor", "nowhere"), ["no model 'nowhere'"]),
        (lambda own: None, ("--predictor", "postcards-sit"), ["ClassConditionalPipeline"]),
        (lambda own: None, ("--recipe", "sd-1-5"), ["refiner", "768", "16"]),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_encoded(
    drawn, train, sd_folder, own, tmp_path, spoil, options, named
):
    spoil(own)
    done = train("text-refiner", "--steps", 1, "--predictor", sd_folder, *words(own), *options)
    assert_refused(done, *named)
    assert not (tmp_path / "cache").exists()


def test_pictures_are_for_text_refiners_alone(drawn, train, own):
    assert_refused(train("flow", "--steps", 1, *words(own)), "text-refiner alone")


@pytest.mark.parametrize(
    ("what", "named"),
    [("flow", "no predictor"), ("text-flow", "no unet"), ("text-refiner", "give --pictures")],
)
def test_a_recipe_trains_what_it_has(drawn, train, sd_folder, what, named):
    done = train(what, "--steps", 1, "--recipe", "sd-1-5", "--predictor", sd_folder)
    assert_refused(done, "sd-1-5", named)


def test_the_sign_of_a_foreign_velocity_is_that_of_its_training(
    drawn, train, sd_folder, own, monkeypatch
):
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    (sd_folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    seen = []

    def objective(pipeline, *_):
        seen.append(pipeline.velocity)
        raise ValueError("that is all")

    monkeypatch.setattr(commands, "TextRefinerObjective", objective)
    train("text-refiner", "--steps", 1, "--predictor", sd_folder, *words(own))
    assert seen == ["noise - data"]
