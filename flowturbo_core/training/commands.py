"""Runs a training of each part: it puts the models and the data of a recipe together."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.data import TensorDataset
from transformers import CLIPTextConfig, CLIPTextModel

from flowturbo_core.checks import brief, whole_number
from flowturbo_core.data.captions import read_captions
from flowturbo_core.data.folders import Squares
from flowturbo_core.data.postcards.scene import CLASSES
from flowturbo_core.data.scenes import SHEET_SEED
from flowturbo_core.devices import resolve_device
from flowturbo_core.files import check_folder
from flowturbo_core.models.autoencoder import (
    PixelUnshuffleAutoencoderKL,
    autoencoder_hash,
    downsampling_factor,
    latent_statistics,
)
from flowturbo_core.models.catalog import model_folder, read_index
from flowturbo_core.models.evaluator import PostcardsEvaluator
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.models.storage import Model, load_model, read_record
from flowturbo_core.models.text_encoder import load_text_encoder, load_tokenizer
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.pipelines.convention import VELOCITY, read_convention
from flowturbo_core.pipelines.text_to_image import TextToImagePipeline
from flowturbo_core.training.autoencoder import AutoencoderObjective
from flowturbo_core.training.evaluator import EvaluatorObjective
from flowturbo_core.training.flow import FlowObjective
from flowturbo_core.training.latents import encode_once, encode_scenes
from flowturbo_core.training.loop import Budget, Objective, check_run, fit
from flowturbo_core.training.optimization import Hyperparameters
from flowturbo_core.training.recipes import get_recipe
from flowturbo_core.training.refiner import Pairs, RefinerObjective
from flowturbo_core.training.text import (
    TextFlowObjective,
    TextRefinerObjective,
    prompts,
    train_tokenizer,
    with_captions,
    with_prompts,
)

# Every seed has a stretch of the endless scenes, so a run with another seed continues on scenes
# that the model has never seen.
SCENES_PER_SEED = 10_000_000
_TOKENIZED_SCENES = 20_000  # whose prompts hold every word many times
_PIXELS_ENCODED = 2**20  # of pictures together: four of 512 x 512
_SHOWN = 4  # captions whose pictures are on the sheets


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What a person says about one run, beside the recipe. None leaves the recipe's value."""

    output: Path
    init: Path | None = None
    minutes: float | None = None
    steps: int | None = None
    resume: bool = False
    seed: int = 0
    batch_size: int | None = None
    learning_rate: float | None = None
    num_latents: int | None = None
    cache: Path = Path("runs/cache")
    workers: int = 1
    sheet_every: int = 1000
    device: str | None = None
    compiled: bool = True


def train_autoencoder(recipe_name: str, options: RunOptions) -> dict[str, Any]:
    """Train the recipe's autoencoder; the model folder is `options.output / "model"`."""
    recipe = get_recipe(recipe_name, "autoencoder")
    _check(options, recipe.autoencoder_training)
    model = _start(PixelUnshuffleAutoencoderKL, recipe.autoencoder, options)
    objective = AutoencoderObjective(model, first_seed=options.seed * SCENES_PER_SEED)
    return _run(objective, recipe.autoencoder_training, options, options.workers)


def train_flow(recipe_name: str, autoencoder: str, options: RunOptions) -> dict[str, Any]:
    """Train the recipe's predictor on the latents of `autoencoder`, a name or a folder."""
    recipe = get_recipe(recipe_name, "predictor")
    _check(options, recipe.predictor_training)
    vae = load_model(PixelUnshuffleAutoencoderKL, model_folder(autoencoder))
    config = recipe.predictor | {"num_classes": len(CLASSES)} | _origin(vae)
    model = _start(SiTPredictor, config, options)
    ClassConditionalPipeline(model, vae, CLASSES)  # refuses another autoencoder's predictor
    data = _latents(vae, recipe.num_latents, options)
    return _run(FlowObjective(model, data, vae, CLASSES), recipe.predictor_training, options)


def train_refiner(
    recipe_name: str,
    autoencoder: str,
    predictor: Path,
    options: RunOptions,
    pairs: Pairs,
) -> dict[str, Any]:
    """Train the recipe's refiner for `predictor`, a model folder."""
    recipe = get_recipe(recipe_name, "refiner")
    _check(options, recipe.refiner_training)
    vae = load_model(PixelUnshuffleAutoencoderKL, model_folder(autoencoder))
    model = _start(SiTRefiner, recipe.refiner | {"num_classes": len(CLASSES)}, options)
    refined = load_model(SiTPredictor, predictor)
    ClassConditionalPipeline(refined, vae, CLASSES, model)  # refuses parts that do not fit
    data = _latents(vae, recipe.num_latents, options)
    objective = RefinerObjective(model, refined, data, vae, CLASSES, pairs)
    return _run(objective, recipe.refiner_training, options)


def train_text_flow(recipe_name: str, autoencoder: str, options: RunOptions) -> dict[str, Any]:
    """Train the recipe's UNet and text encoder on the latents of `autoencoder`, and prompts."""
    recipe = get_recipe(recipe_name, "unet")
    _check(options, recipe.text_training)
    vae = load_model(PixelUnshuffleAutoencoderKL, model_folder(autoencoder))
    torch.manual_seed(options.seed)
    if options.init is None:
        length = recipe.text_encoder["max_position_embeddings"]
        # Always of the same scenes, so that every run of a recipe has the same tokens.
        tokenizer = train_tokenizer(prompts(0, _TOKENIZED_SCENES), length)
        config = CLIPTextConfig(
            **recipe.text_encoder,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        unet = UNet2DConditionModel(**recipe.unet)
        unet.register_to_config(**_origin(vae))
        pipeline = TextToImagePipeline(unet, vae, CLIPTextModel(config), tokenizer)
    else:
        pipeline = _text_pipeline(options.init, vae)
        if pipeline.velocity != VELOCITY:
            raise ValueError(
                f"{options.init} predicts {pipeline.velocity}, and what is trained on here must "
                f"predict {VELOCITY}"
            )
    data = _prompted_latents(pipeline, recipe.num_latents, options)
    return _run(TextFlowObjective(pipeline, data), recipe.text_training, options)


def train_text_refiner(
    recipe_name: str, autoencoder: str, predictor: Path, options: RunOptions, pairs: Pairs
) -> dict[str, Any]:
    """Train the recipe's refiner for `predictor`, the folder of a trained UNet and its texts."""
    recipe = get_recipe(recipe_name, "text_refiner")
    if recipe.num_latents is None:
        raise ValueError(
            f"recipe {brief(recipe_name)} has no scenes: give --pictures and their --captions"
        )
    _check(options, recipe.text_refiner_training)
    vae = load_model(PixelUnshuffleAutoencoderKL, model_folder(autoencoder))
    refiner = _start(UNet2DConditionModel, recipe.text_refiner, options)
    pipeline = _text_pipeline(predictor, vae, refiner)
    data = _prompted_latents(pipeline, recipe.num_latents, options)
    objective = TextRefinerObjective(pipeline, data, pairs)
    return _run(objective, recipe.text_refiner_training, options)


def train_refiner_on_pictures(
    recipe_name: str,
    predictor: str | Path,
    pictures: Path,
    captions: Path,
    options: RunOptions,
    pairs: Pairs,
) -> dict[str, Any]:
    """Train the recipe's refiner of any text-to-image model on pictures and captions of one's own.

    `predictor` is the name or the folder of a model. Its autoencoder encodes the middle square of
    each picture in the folder `pictures`, at the size that the model was trained on. `captions` is
    the file of their texts (`read_captions`).
    """
    recipe = get_recipe(recipe_name, "text_refiner")
    _check(options, recipe.text_refiner_training)
    refiner = _start(UNet2DConditionModel, recipe.text_refiner, options)
    model = TextToImagePipeline.from_pretrained(predictor)
    pipeline = TextToImagePipeline(
        model.unet, model.vae, model.text_encoder, model.tokenizer, refiner, velocity=model.velocity
    )
    side = pipeline.latent_shape[-1] * downsampling_factor(pipeline.vae)
    squares = Squares(pictures, side)
    names = [file.name for file in squares.files]
    texts = read_captions(captions, pictures, names, len(names))
    pipeline.request(texts[:_SHOWN])  # refuses now what no sheet could show later
    count = len(names) if options.num_latents is None else options.num_latents
    whole_number("num_latents", count, 1, len(names))
    data = encode_once(
        pipeline.vae.to(resolve_device(options.device)),
        squares,
        count,
        [squares.origin],
        options.cache,
        options.workers,
        max(1, _PIXELS_ENCODED // side**2),
        squares.origin_of,
    )
    data = with_captions(data, texts[:count], pipeline)
    objective = TextRefinerObjective(pipeline, data, pairs, texts[:_SHOWN])
    return _run(objective, recipe.text_refiner_training, options)


def _text_pipeline(
    folder: Path, vae: AutoencoderKL, refiner: UNet2DConditionModel | None = None
) -> TextToImagePipeline:
    """Return the trained parts in `folder`, around `vae`; refuses parts that do not fit."""
    folder = model_folder(folder)  # which may be the name of one
    is_whole = (folder / "model_index.json").is_file()  # else a run of this project left the parts
    index = read_index(folder, *TextToImagePipeline.INDEX_CLASSES) if is_whole else {}
    return TextToImagePipeline(
        load_model(UNet2DConditionModel, folder / "unet"),
        vae,
        load_text_encoder(folder / "text_encoder"),
        load_tokenizer(folder / "tokenizer"),
        refiner,
        velocity=read_convention(folder, index).velocity,
    )


def train_evaluator(recipe_name: str, autoencoder: str, options: RunOptions) -> dict[str, Any]:
    """Train the recipe's evaluator on scenes, half of them through `autoencoder`."""
    recipe = get_recipe(recipe_name, "evaluator")
    _check(options, recipe.evaluator_training)
    vae = load_model(PixelUnshuffleAutoencoderKL, model_folder(autoencoder))
    model = _start(PostcardsEvaluator, recipe.evaluator, options)
    vae = vae.to(resolve_device(options.device))
    objective = EvaluatorObjective(model, vae, options.seed * SCENES_PER_SEED)
    return _run(objective, recipe.evaluator_training, options, options.workers)


def _origin(vae: AutoencoderKL) -> dict[str, Any]:
    """Return what a predictor's config says of the autoencoder whose latents it is trained on."""
    mean, std = (s.flatten().tolist() for s in latent_statistics(vae))
    return {"latents_mean": mean, "latents_std": std, "autoencoder_hash": autoencoder_hash(vae)}


def _start(model_class: type[Model], config: dict[str, Any], options: RunOptions) -> Model:
    """Return the model a run starts from: `options.init`, or new weights drawn from its seed."""
    torch.manual_seed(options.seed)
    if options.init is None:
        return model_class(**config)
    return load_model(model_class, options.init).train()


def _latents(vae: AutoencoderKL, recipe_count: int, options: RunOptions) -> TensorDataset:
    return encode_scenes(
        vae.to(resolve_device(options.device)),
        options.seed * SCENES_PER_SEED,
        recipe_count if options.num_latents is None else options.num_latents,
        options.cache,
        options.workers,
    )


def _prompted_latents(
    pipeline: TextToImagePipeline, recipe_count: int, options: RunOptions
) -> TensorDataset:
    data = _latents(pipeline.vae, recipe_count, options)
    first_seed = options.seed * SCENES_PER_SEED
    return with_prompts(data, first_seed, pipeline.tokenizer, options.workers)


def _settings(settings: Hyperparameters, options: RunOptions) -> Hyperparameters:
    overrides = {"batch_size": options.batch_size, "learning_rate": options.learning_rate}
    given = {name: value for name, value in overrides.items() if value is not None}
    return dataclasses.replace(settings, seed=options.seed, **given)


def _check(options: RunOptions, settings: Hyperparameters) -> None:
    """Refuse wrong options before anything is drawn, encoded or computed."""
    Budget(options.minutes, options.steps)
    # Further seeds would reach the scenes that are only ever shown and measured on.
    whole_number("seed", options.seed, 0, SHEET_SEED // SCENES_PER_SEED - 1)
    whole_number("workers", options.workers, 0, 256)
    if options.num_latents is not None:
        whole_number("num_latents", options.num_latents, 1, SCENES_PER_SEED)
    resolve_device(options.device)
    check_run(_settings(settings, options), options.output, options.resume, options.sheet_every)
    check_folder(options.cache)


def _run(
    objective: Objective, settings: Hyperparameters, options: RunOptions, workers: int = 0
) -> dict[str, Any]:
    return fit(
        objective,
        _settings(settings, options),
        Budget(options.minutes, options.steps),
        options.output,
        resume=options.resume,
        workers=workers,
        sheet_every=options.sheet_every,
        device=options.device,
        compiled=options.compiled,
        earlier_runs=[] if options.init is None else read_record(options.init)["runs"],
    )
