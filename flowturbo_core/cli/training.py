"""The commands that make models: training, converting, bundling."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flowturbo_core.cli.shared import Device, Dtype, Model, app, device_of
from flowturbo_core.devices import resolve_dtype
from flowturbo_core.files import check_folder
from flowturbo_core.making import bundle
from flowturbo_core.making.class_pictures import write_class_pictures
from flowturbo_core.making.convert_sit import convert_sit
from flowturbo_core.making.convert_text import convert_text_to_image
from flowturbo_core.models.catalog import (
    DEFAULT_MODEL,
    MODELS_FOLDER,
    ModelDescription,
    model_folder,
)
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.training import commands
from flowturbo_core.training.refiner import Pairs
from flowturbo_core.usage import number


class Trainable(StrEnum):
    """What `train` trains, in the order in which they need each other."""

    AUTOENCODER = "autoencoder"
    FLOW = "flow"
    REFINER = "refiner"
    EVALUATOR = "evaluator"
    TEXT_FLOW = "text-flow"
    TEXT_REFINER = "text-refiner"


_TRAINERS = {
    Trainable.FLOW: commands.train_flow,
    Trainable.EVALUATOR: commands.train_evaluator,
    Trainable.TEXT_FLOW: commands.train_text_flow,
}
_REFINER_TRAINERS = {
    Trainable.REFINER: commands.train_refiner,
    Trainable.TEXT_REFINER: commands.train_text_refiner,
}


@app.command()
def train(
    what: Annotated[Trainable, typer.Argument(help="The part to train.")],
    output: Annotated[Path, typer.Option(help="Folder of the run: checkpoint, sheets, model.")],
    recipe: Annotated[str, typer.Option(help="The data, architectures and rates.")] = "postcards",
    init: Annotated[Path | None, typer.Option(help="Model folder to start from.")] = None,
    minutes: Annotated[float | None, typer.Option(help="How long to train.")] = None,
    steps: Annotated[int | None, typer.Option(help="How many steps, instead of minutes.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue the run in --output.")] = False,
    autoencoder: Annotated[
        str, typer.Option(help="Name or folder of the autoencoder (on scenes, all others).")
    ] = "postcards-autoencoder",
    predictor: Annotated[
        Path | None, typer.Option(help="Folder of the predictor to refine (refiners).")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Folder to train on instead of scenes; --predictor is then any model."),
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(help="Their texts: one a line, or .json, .jsonl, .csv, .tsv.")
    ] = None,
    max_dt: Annotated[
        float, typer.Option(parser=number, help="Longest step it learns to refine (refiners).")
    ] = Pairs.max_dt,
    guidance_scale: Annotated[
        float,
        typer.Option(parser=number, help="Guidance it refines at (refiners); 1 is none."),
    ] = Pairs.guidance_scale,
    seed: Annotated[int, typer.Option(help="Of weights, noise and scenes.")] = 0,
    batch_size: Annotated[int | None, typer.Option(help="Default: the recipe's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Default: the recipe's.")] = None,
    num_latents: Annotated[int | None, typer.Option(help="Default: the recipe's.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for encoded scenes.")] = Path("runs/cache"),
    workers: Annotated[int, typer.Option(help="Processes that draw scenes.")] = 1,
    sheet_every: Annotated[int, typer.Option(help="Steps between sample sheets.")] = 1000,
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Compile what is heavy, where possible.")
    ] = True,
    device: Device = None,
) -> None:
    """Train a part of a recipe; the weights end in OUTPUT/model."""
    options = commands.RunOptions(
        output=output,
        init=init,
        minutes=minutes,
        steps=steps,
        resume=resume,
        seed=seed,
        batch_size=batch_size,
        learning_rate=learning_rate,
        num_latents=num_latents,
        cache=cache,
        workers=workers,
        sheet_every=sheet_every,
        compiled=compiled,
        device=device,
    )
    if (pictures or captions) and not (what is Trainable.TEXT_REFINER and pictures and captions):
        raise ValueError("text-refiner alone takes --pictures and --captions, and both of them")
    if what is Trainable.AUTOENCODER:
        commands.train_autoencoder(recipe, options)
    elif what in _TRAINERS:
        _TRAINERS[what](recipe, autoencoder, options)
    elif predictor is None:
        raise ValueError(f"train {what} needs --predictor, the folder of the model it refines")
    elif pictures and captions:
        pairs = Pairs(max_dt, guidance_scale)
        commands.train_refiner_on_pictures(recipe, predictor, pictures, captions, options, pairs)
    else:
        pairs = Pairs(max_dt, guidance_scale)
        _REFINER_TRAINERS[what](recipe, autoencoder, predictor, options, pairs)


class Convertible(StrEnum):
    """The families of released checkpoints that `convert` reads."""

    SIT = "sit"


@app.command()
def convert(
    family: Annotated[Convertible, typer.Argument(help="What kind of checkpoint it is.")],
    predictor: Annotated[Path, typer.Option(help="Released checkpoint of the predictor, .pt.")],
    vae: Annotated[Path, typer.Option(help="Folder of the autoencoder.")],
    num_heads: Annotated[int, typer.Option(help="Attention heads; SiT-XL has 16.")],
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    refiner: Annotated[Path | None, typer.Option(help="Checkpoint of the refiner, .pt.")] = None,
    raw: Annotated[bool, typer.Option(help="Take the raw weights, not the averaged.")] = False,
) -> None:
    """Turn released checkpoints into a model folder."""
    check_folder(output)
    _print_doubts(convert_sit(predictor, vae, num_heads, output, refiner, raw))
    print(f"wrote {output}")


@app.command()
def convert_text(
    folder: Annotated[str, typer.Option(help="Folder of Stable Diffusion's layout, or a name.")],
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    refiner: Annotated[
        Path | None, typer.Option(help="Folder of a trained refiner to put into it.")
    ] = None,
    default_plan: Annotated[str | None, typer.Option(help="The plan where none is given.")] = None,
) -> None:
    """Turn a text-to-image folder's pickled weights into safetensors, or give it a refiner."""
    check_folder(output)
    settings = {} if default_plan is None else {"default_plan": default_plan}
    _print_doubts(convert_text_to_image(model_folder(folder), output, settings, refiner))
    print(f"wrote {output}")


def _print_doubts(pipeline: FlowPipeline) -> None:
    for doubt in pipeline.doubts:
        print(f"warning: {doubt}", file=sys.stderr)


@app.command()
def class_pictures(
    model: Model = DEFAULT_MODEL, device: Device = None, dtype: Dtype = None
) -> None:
    """Let a model make the picture of each of its classes that the page shows to choose by."""
    target = device_of(device)
    number_format = resolve_dtype(dtype, target)
    description = ModelDescription.read(model)
    check_folder(description.folder)
    pipeline = ClassConditionalPipeline.from_pretrained(model, target, number_format)
    print(f"wrote {write_class_pictures(pipeline, description.folder).file}")


@app.command("bundle")
def bundle_models(
    autoencoder: Annotated[Path, typer.Option(help="Trained autoencoder, a model folder.")],
    predictor: Annotated[Path, typer.Option(help="Trained predictor, a model folder.")],
    refiner: Annotated[Path, typer.Option(help="Trained refiner, a model folder.")],
    default_plan: Annotated[str, typer.Option(help="The plan where none is given.")] = "H1P5R4",
    default_guidance_scale: Annotated[float, typer.Option(help="Where none is given.")] = 1.5,
    output: Annotated[Path, typer.Option(help="Folder of the catalogue.")] = MODELS_FOLDER,
) -> None:
    """Make the bundled models, with their cards, out of finished trainings."""
    settings = {"default_plan": default_plan, "default_guidance_scale": default_guidance_scale}
    check_folder(output)
    bundle.bundle_postcards(autoencoder, predictor, refiner, output, settings)


@app.command()
def bundle_text(
    predictor: Annotated[Path, typer.Option(help="Trained UNet, text encoder and tokenizer.")],
    refiner: Annotated[Path, typer.Option(help="Trained refiner, a model folder.")],
    default_plan: Annotated[str, typer.Option(help="The plan where none is given.")] = "H1P6R3",
    default_guidance_scale: Annotated[float, typer.Option(help="Where none is given.")] = 1.5,
    output: Annotated[Path, typer.Option(help="Folder of the catalogue.")] = MODELS_FOLDER,
) -> None:
    """Make the bundled text-to-image model, with its card, out of finished trainings."""
    settings = {"default_plan": default_plan, "default_guidance_scale": default_guidance_scale}
    check_folder(output)
    bundle.bundle_text(predictor, refiner, output, settings)


@app.command()
def bundle_evaluator(
    evaluator: Annotated[Path, typer.Option(help="Trained evaluator, a model folder.")],
    output: Annotated[Path, typer.Option(help="Folder of the catalogue.")] = MODELS_FOLDER,
) -> None:
    """Make the bundled evaluator, with its card, out of a finished training."""
    check_folder(output)
    bundle.bundle_evaluator(evaluator, output)
