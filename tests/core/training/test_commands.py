"""`train autoencoder|flow|refiner`, one after the other, on a tiny recipe and quick scenes."""

import json

import pytest
import torch

from flowturbo_core.data import scenes
from flowturbo_core.data.postcards.scene import CLASSES
from flowturbo_core.models import catalog
from flowturbo_core.models.autoencoder import (
    PixelUnshuffleAutoencoderKL,
    autoencoder_hash,
    latent_statistics,
)
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.models.storage import load_model, read_record, save_model
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.training.recipes import get_recipe
from tests.conftest import tiny_pixel_vae
from tests.core.training.tiny import assert_refused


def test_from_nothing_to_pictures(drawn, train, command_line, monkeypatch, tmp_path):
    done = train("autoencoder", "--steps", 3)
    assert done.code == 0, done.err
    vae_folder = tmp_path / "autoencoder" / "model"
    vae = load_model(PixelUnshuffleAutoencoderKL, vae_folder)
    mean, std = latent_statistics(vae)
    assert mean.shape == std.shape == (1, 4, 1, 1) and std.min() > 0
    record = json.loads((vae_folder / "training.json").read_text())
    assert record["unseen"]["psnr_db"] > 0

    done = train("flow", "--steps", 3, "--autoencoder", vae_folder)
    assert done.code == 0, done.err
    predictor_folder = tmp_path / "flow" / "model"
    predictor = load_model(SiTPredictor, predictor_folder)
    assert predictor.config.num_classes == len(CLASSES)
    assert predictor.config.autoencoder_hash == autoencoder_hash(vae)
    assert predictor.config.latents_mean == pytest.approx(mean.flatten().tolist())

    done = train(
        "refiner", "--steps", 3, "--autoencoder", vae_folder, "--predictor", predictor_folder,
        "--max-dt", 0.2, "--guidance-scale", 1.5,
    )  # fmt: skip
    assert done.code == 0, done.err
    refiner = load_model(SiTRefiner, tmp_path / "refiner" / "model")
    assert refiner.config.variant == "consistent"
    (run,) = read_record(tmp_path / "refiner" / "model")["runs"]
    assert (run["max_dt"], run["guidance_scale"]) == (0.2, 1.5)

    made = ClassConditionalPipeline(predictor, vae, CLASSES, refiner)([0, "background"], "H1P1R1")
    assert [image.size for image in made.images] == [(32, 32)] * 2
    for part in ("autoencoder", "flow", "refiner"):
        assert (tmp_path / part / "sheets" / "final.png").is_file()

    catalogue = tmp_path / "catalogue"
    done = command_line(
        "bundle", "--autoencoder", vae_folder, "--predictor", predictor_folder,
        "--refiner", tmp_path / "refiner" / "model", "--output", catalogue,
    )  # fmt: skip
    assert done.code == 0, done.err
    monkeypatch.setattr(catalog, "MODELS_FOLDER", catalogue)
    bundled = ClassConditionalPipeline.from_pretrained("postcards-sit")
    assert bundled.class_names == list(CLASSES)
    again = bundled([0, "background"], "H1P1R1")
    assert [a.tobytes() for a in again.images] == [m.tobytes() for m in made.images]
    assert (
        str(record["unseen"]["psnr_db"])
        in (catalogue / "postcards-autoencoder" / "README.md").read_text()
    )

    # Nothing is trained on what is measured and shown, and nothing is shown that was trained on.
    trained = {seed for seed in drawn if seed < scenes.SHEET_SEED}
    assert trained == set(range(20))


def test_a_run_goes_on_from_weights_and_from_a_checkpoint(drawn, train, tmp_path):
    vae = tmp_path / "vae"
    save_model(tiny_pixel_vae(), vae)
    assert train("flow", "--steps", 2, "--autoencoder", vae).code == 0
    again = train("flow", "--steps", 4, "--autoencoder", vae, "--resume")
    assert again.code == 0, again.err
    first = tmp_path / "flow" / "model"
    done = train(
        "flow", "--steps", 1, "--autoencoder", vae, "--init", first, "--seed", 1,
        "--batch-size", 2, output=tmp_path / "second",
    )  # fmt: skip
    assert done.code == 0, done.err
    runs = json.loads((tmp_path / "second" / "model" / "training.json").read_text())["runs"]
    assert [(run["steps"], run["images_seen"]) for run in runs] == [(4, 16), (1, 2)]
    assert runs[1]["settings"]["seed"] == 1
    # Another seed trains on other scenes.
    assert len(set(drawn)) == 40


@pytest.fixture
def vae_folder(tmp_path):
    save_model(tiny_pixel_vae(), tmp_path / "vae")
    return tmp_path / "vae"


def predictor_of_another_autoencoder(folder):
    other = tiny_pixel_vae(seed=9)
    save_model(
        SiTPredictor(
            **get_recipe("tiny", "predictor").predictor,
            num_classes=len(CLASSES),
            autoencoder_hash=autoencoder_hash(other),
        ),
        folder,
    )
    return folder


WRONG_RUNS = {
    "no budget": (),
    "two budgets": ("--steps", 3, "--minutes", 1),
    "no steps": ("--steps", 0),
    "NaN minutes": ("--minutes", "nan"),
    "no images": ("--steps", 1, "--batch-size", 0),
    "a negative batch": ("--steps", 1, "--batch-size", -4),
    "a rate of NaN": ("--steps", 1, "--learning-rate", "nan"),
    "no latents": ("--steps", 1, "--num-latents", 0),
    "negative latents": ("--steps", 1, "--num-latents", -5),
    "no sheets ever": ("--steps", 1, "--sheet-every", 0),
    "negative workers": ("--steps", 1, "--workers", -1),
    "a negative seed": ("--steps", 1, "--seed", -1, "--workers", 1),
    # 200 times ten million scenes is where those begin that are only ever shown and measured on.
    "a seed that reaches the unseen scenes": ("--steps", 1, "--seed", 200),
    "nothing to resume": ("--steps", 1, "--resume"),
    "an unknown device": ("--steps", 1, "--device", "cuda:99"),
    "no such weights": ("--steps", 1, "--init", "no-such-folder"),
    "no such autoencoder": ("--steps", 1, "--autoencoder", "no-such-model"),
    "an unknown recipe": ("--steps", 1, "--recipe", "no-such-recipe"),
}


@pytest.mark.parametrize("name", WRONG_RUNS)
def test_a_wrong_run_is_refused_before_scenes_are_drawn(drawn, train, vae_folder, name):
    # Drawing and encoding the scenes of a recipe takes many minutes.
    done = train("flow", "--autoencoder", vae_folder, *WRONG_RUNS[name])
    assert_refused(done)
    assert not drawn


def test_a_run_that_exists_is_refused_before_scenes_are_drawn(drawn, train, vae_folder, tmp_path):
    assert train("flow", "--steps", 1, "--autoencoder", vae_folder).code == 0
    drawn.clear()
    done = train("flow", "--steps", 1, "--autoencoder", vae_folder, "--num-latents", 7)
    assert_refused(done, tmp_path / "flow", "--resume")
    assert not drawn


@pytest.mark.parametrize("what", ["flow", "refiner"])
def test_the_autoencoder_must_be_the_predictors(drawn, train, vae_folder, tmp_path, what):
    other = predictor_of_another_autoencoder(tmp_path / "other")
    option = "--init" if what == "flow" else "--predictor"
    done = train(what, "--steps", 1, "--autoencoder", vae_folder, option, other)
    assert_refused(done, "autoencoder")
    assert not drawn


def test_a_refiner_needs_a_predictor(drawn, train, vae_folder):
    done = train("refiner", "--steps", 1, "--autoencoder", vae_folder)
    assert_refused(done, "--predictor")


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--max-dt", 0, "max_dt must be a number from 0.001 to 1, not 0"),
        ("--max-dt", "nan", "max_dt must be a number"),
        ("--guidance-scale", 16, "guidance_scale must be a number from 0 to 15, not 16"),
    ],
)
def test_pairs_that_are_none_are_refused(drawn, train, vae_folder, option, value, sentence):
    done = train(
        "refiner", "--steps", 1, "--autoencoder", vae_folder, "--predictor", "x", option, value
    )
    assert_refused(done, sentence)
    assert not drawn


def test_weights_to_start_an_autoencoder_from_must_be_there(drawn, train, tmp_path):
    done = train("autoencoder", "--steps", 1, "--init", tmp_path / "nowhere")
    assert_refused(done, tmp_path / "nowhere")
    assert not drawn


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'postcard'.*postcards"):
        get_recipe("postcard", "predictor")


def test_the_bundled_recipe_fits_together():
    # The parts of a recipe must go together, and with the sizes that ship: 128 px, 64 tokens.
    recipe = get_recipe("postcards", "predictor")
    vae = PixelUnshuffleAutoencoderKL(**recipe.autoencoder)
    predictor = SiTPredictor(**recipe.predictor, num_classes=len(CLASSES))
    refiner = SiTRefiner(**recipe.refiner, num_classes=len(CLASSES))
    pipeline = ClassConditionalPipeline(predictor, vae.eval(), CLASSES, refiner)
    assert predictor.pos_embed.shape[1] == 64
    assert pipeline([0], "H1P1R1").images[0].size == (128, 128)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (refiner, predictor)]
    assert sizes[0] / sizes[1] < 0.12
    with torch.no_grad():
        assert vae.encode(torch.zeros(1, 3, 128, 128)).latent_dist.mean.shape[-1] == 16
