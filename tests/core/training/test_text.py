"""`train text-flow` and `text-refiner`: losses written out again, from nothing to pictures."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils.data import TensorDataset
from transformers import CLIPTextConfig, CLIPTextModel

from flowturbo_core.data.postcards.captions import prompt
from flowturbo_core.data.postcards.scene import sample_scene
from flowturbo_core.models import catalog
from flowturbo_core.models.autoencoder import autoencoder_hash
from flowturbo_core.models.storage import load_model, read_record
from flowturbo_core.models.text_encoder import tokens_of
from flowturbo_core.pipelines.text_to_image import TextToImagePipeline
from flowturbo_core.training.recipes import get_recipe
from flowturbo_core.training.refiner import Pairs
from flowturbo_core.training.text import (
    PROMPTS_PER_SCENE,
    TextFlowObjective,
    TextRefinerObjective,
    prompts,
    train_tokenizer,
    with_prompts,
)
from tests.conftest import tiny_vae
from tests.core.training.tiny import assert_refused


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(prompts(0, 40), 32)


def make_pipeline(recipe, tokenizer):
    torch.manual_seed(1)
    config = CLIPTextConfig(
        **recipe.text_encoder,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return TextToImagePipeline(
        UNet2DConditionModel(**recipe.unet),
        tiny_vae(),
        CLIPTextModel(config),
        tokenizer,
        UNet2DConditionModel(**recipe.text_refiner),
    )


@pytest.fixture
def pipeline(drawn, tokenizer):
    return make_pipeline(get_recipe("tiny", "unet"), tokenizer)


def batch(tokenizer, count=12):
    latents = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    return list(with_prompts(TensorDataset(latents), 5, tokenizer)[:])


def embedded(pipeline, tokens):
    return pipeline.text_encoder(input_ids=tokens.long())[0]


def given(pipeline, tokens, generator):
    """Draw one prompt a scene, and which are dropped, in the objectives' order; embed them."""
    choice = torch.randint(PROMPTS_PER_SCENE, (len(tokens),), generator=generator)
    lost = torch.rand(len(tokens), generator=generator) < 0.1
    nothing = tokens_of([""], pipeline.tokenizer, 32)[0]
    chosen = [nothing if lost[k] else tokens[k, choice[k]] for k in range(len(tokens))]
    return embedded(pipeline, torch.stack([row.long() for row in chosen]))


def test_half_of_a_scenes_prompts_are_any_and_half_say_where_its_subject_is(tokenizer):
    _, tokens = batch(tokenizer, 16)
    for k in range(16):
        scene = sample_scene(5 + k)
        made = [prompt(scene, PROMPTS_PER_SCENE * scene.seed + n) for n in range(8)]
        placed = [its for its in made if "position" in its.named]
        assert all(scene.position for _ in placed)
        texts = [its.text for its in made[:4]]
        texts += [((placed or made) * 4)[n].text for n in range(4)]
        assert torch.equal(tokens[k].long(), tokens_of(texts, tokenizer, 32))


def test_the_flow_loss_equals_a_straight_line_version(pipeline, tokenizer):
    latents, tokens = batch(tokenizer)
    objective = TextFlowObjective(pipeline, None)
    found = objective([latents, tokens], torch.Generator().manual_seed(3))["loss"]

    generator, x1 = torch.Generator().manual_seed(3), latents.float()
    logistic = 1 / (1 + torch.exp(-torch.randn(len(x1), generator=generator)))
    early = torch.rand(len(x1), generator=generator) ** 3
    t = torch.stack([(early if k % 2 else logistic)[k] for k in range(len(x1))])
    x0 = torch.randn(x1.shape, generator=generator)
    texts = given(pipeline, tokens, generator)
    total = 0.0
    for k in range(len(x1)):
        x_t = (1 - t[k]) * x0[k] + t[k] * x1[k]
        v = pipeline.unet(x_t[None], 1000 * (1 - t[k]), texts[k : k + 1]).sample[0]
        total = total + ((v - (x1[k] - x0[k])) ** 2).mean()
    torch.testing.assert_close(found, total / len(x1), rtol=1e-5, atol=0)


def test_unet_and_text_encoder_are_trained_together(pipeline, tokenizer):
    objective = TextFlowObjective(pipeline, None)
    objective(batch(tokenizer), torch.Generator().manual_seed(3))["loss"].backward()
    moved = {name.split(".")[1] for name, p in objective.named_parameters() if p.grad is not None}
    assert moved == {"unet", "text_encoder"}
    assert not any("vae" in name for name, _ in objective.named_parameters())


@pytest.mark.parametrize("pairs", [Pairs(), Pairs(0.3, 1.5)])
def test_the_refiner_loss_equals_equation_13(pipeline, tokenizer, pairs):
    latents, tokens = batch(tokenizer)
    refiner, unet = pipeline.refiner.unet, pipeline.unet
    objective = TextRefinerObjective(pipeline, None, pairs)
    found = objective([latents, tokens], torch.Generator().manual_seed(4))["loss"]

    generator, x1 = torch.Generator().manual_seed(4), latents.float()
    texts = given(pipeline, tokens, generator)
    nothing = embedded(pipeline, tokens_of([""], tokenizer, 32))
    dt = pairs.max_dt * (1 - torch.rand(len(x1), generator=generator))
    t = torch.rand(len(x1), generator=generator) * (1 - dt)
    x0 = torch.randn(x1.shape, generator=generator)

    def guided(network, x, time, text):
        of_text, of_none = (network(x, 1000 * (1 - time), e).sample for e in (text, nothing))
        return of_none + pairs.guidance_scale * (of_text - of_none)

    total = 0.0
    for k in range(len(x1)):
        text, end = texts[k : k + 1], t[k] + dt[k]
        x_t = ((1 - t[k]) * x0[k] + t[k] * x1[k])[None]
        v = guided(unet, x_t, t[k], text)
        x_next = x_t + dt[k] * v
        target = guided(unet, x_next, end, text) - v
        offset = guided(refiner, torch.cat([x_next, v], 1), end, text)
        total = total + ((offset - target) ** 2).mean()
    torch.testing.assert_close(found, total / len(x1), rtol=1e-4, atol=0)
    found.backward()
    trained = {name.split(".")[0] for name, p in objective.named_parameters() if p.grad is not None}
    assert trained == {"model"} and refiner.conv_in.weight.grad is not None
    assert all(p.grad is None for p in (*unet.parameters(), *pipeline.text_encoder.parameters()))


def test_from_nothing_to_pictures_of_texts(drawn, train, command_line, monkeypatch, tmp_path):
    catalogue = tmp_path / "catalogue"
    vae = catalogue / "postcards-autoencoder"
    assert train("autoencoder", "--steps", 2).code == 0
    catalogue.mkdir()
    (tmp_path / "autoencoder" / "model").rename(vae)

    done = train("text-flow", "--steps", 2, "--autoencoder", vae)
    assert done.code == 0, done.err
    predictor = tmp_path / "text-flow" / "model"
    done = train(
        "text-flow", "--steps", 1, "--autoencoder", vae, "--init", predictor, "--seed", 1,
        output=tmp_path / "more",
    )  # fmt: skip
    assert done.code == 0, done.err
    predictor = tmp_path / "more" / "model"
    assert [run["steps"] for run in read_record(predictor)["runs"]] == [2, 1]
    done = train(
        "text-refiner", "--steps", 2, "--autoencoder", vae, "--predictor", predictor,
        "--max-dt", 0.2,
    )  # fmt: skip
    assert done.code == 0, done.err
    refiner = tmp_path / "text-refiner" / "model"
    assert read_record(refiner)["runs"][0]["max_dt"] == 0.2

    monkeypatch.setattr(catalog, "MODELS_FOLDER", catalogue)
    done = command_line(
        "bundle-text", "--predictor", predictor, "--refiner", refiner, "--output", catalogue
    )
    assert done.code == 0, done.err
    made = TextToImagePipeline.from_pretrained("postcards-t2i")
    assert made.default_plan == "H1P6R3"
    assert made.unet.config.autoencoder_hash == autoencoder_hash(made.vae)
    assert not (catalogue / "postcards-t2i" / "vae").exists()
    card = (catalogue / "postcards-t2i" / "README.md").read_text()
    assert "train text-flow" in card and "train text-refiner" in card
    done = command_line(
        "sample", "--model", "postcards-t2i", "--plan", "H1P1R1", "--prompt", "a red boat",
        "--output-dir", tmp_path / "pictures", "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert made("a red boat", "H1P1R1").images[0].size == (32, 32)
    done = train(
        "text-flow", "--steps", 1, "--autoencoder", vae, "--init", catalogue / "postcards-t2i",
        output=tmp_path / "again",
    )  # fmt: skip
    assert done.code == 0, done.err
    runs = read_record(tmp_path / "again" / "model")["runs"]
    assert [run["steps"] for run in runs] == [2, 1, 1]


@pytest.mark.parametrize("what", ["text-flow", "text-refiner"])
def test_a_unet_of_another_autoencoder_is_refused(drawn, train, what, tmp_path):
    assert train("autoencoder", "--steps", 2).code == 0
    vae = tmp_path / "autoencoder" / "model"
    assert train("text-flow", "--steps", 1, "--autoencoder", vae, output=tmp_path / "a").code == 0
    unet = load_model(UNet2DConditionModel, tmp_path / "a" / "model" / "unet")
    unet.register_to_config(autoencoder_hash="0" * 64)
    unet.save_config(tmp_path / "a" / "model" / "unet")
    drawn.clear()
    option = "--init" if what == "text-flow" else "--predictor"
    done = train(what, "--steps", 1, "--autoencoder", vae, option, tmp_path / "a" / "model",
                 "--num-latents", 9, output=tmp_path / "b")  # fmt: skip
    assert_refused(done, "autoencoder")
    assert not drawn


def test_the_bundled_recipe_fits_together(tokenizer):
    recipe = get_recipe("postcards", "unet")
    unet, refiner = (UNet2DConditionModel(**c) for c in (recipe.unet, recipe.text_refiner))
    sizes = [model.num_parameters() for model in (refiner, unet)]
    assert 4e6 < sizes[1] < 7e6 and sizes[0] / sizes[1] < 0.12
    assert (unet.config.sample_size, unet.config.in_channels) == (16, 8)
