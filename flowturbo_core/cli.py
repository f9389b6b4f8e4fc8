"""The command line: `python -m flowturbo_core --help` lists what it does."""

import json
import os
import warnings
import zipfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import diffusers
import numpy as np
import torch
import typer
from accelerate import PartialState

from flowturbo_core.devices import VERSIONS, describe_device, resolve_device, resolve_dtype
from flowturbo_core.evaluation import evaluate as evaluation
from flowturbo_core.evaluation import fidelity, speed, stability, tuner
from flowturbo_core.evaluation.evaluate import DEFAULT_METRICS
from flowturbo_core.evaluation.parts import Parts
from flowturbo_core.evaluation.refiners import Refiner
from flowturbo_core.evaluation.refiners import compare_refiners as measure_refiners
from flowturbo_core.evaluation.rivals import Rival
from flowturbo_core.evaluation.speed import random_pipeline, write_json
from flowturbo_core.metadata import Settings, safe_name
from flowturbo_core.models import bundle, front
from flowturbo_core.models.catalog import (
    DEFAULT_MODEL,
    MODELS_FOLDER,
    ModelDescription,
    bundled_models,
)
from flowturbo_core.models.class_pictures import write_class_pictures
from flowturbo_core.models.convert import convert_sit
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.plan import MAX_STEPS, SamplePlan, parse_distinct
from flowturbo_core.requests import whole_number
from flowturbo_core.training import commands
from flowturbo_core.training.refiner import Pairs
from flowturbo_core.usage import number, run

app = typer.Typer(add_completion=False, help=__doc__)


Model = Annotated[str, typer.Option(help="A bundled model's name, or a model folder.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: the best here.")]
GuidanceScale = Annotated[float | None, typer.Option(parser=number, help="1 is no guidance.")]
Seed = Annotated[int, typer.Option(parser=number, help="Image k draws its noise from seed + k.")]
Rivals = Annotated[
    str, typer.Option(help="Other solvers on the same model: ab2:9, dpm++:9, unipc:9, fbc:16:0.1.")
]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16, float16; default: the fastest safe one here.")
]


@app.command()
def models() -> None:
    """List the models that ship with the project."""
    print("\n".join(bundled_models()))


@app.command()
def sample(
    output_dir: Annotated[Path, typer.Option(help="Folder for the PNG files.")],
    model: Model = DEFAULT_MODEL,
    plan: Annotated[str | None, typer.Option(help="Such as H8, H1P5R3, [H1P1R1]x3, E25.")] = None,
    class_labels: Annotated[
        str | None, typer.Option(help="Labels or names, separated by commas; default: one of each.")
    ] = None,
    guidance_scale: GuidanceScale = None,
    num_images: Annotated[int, typer.Option(parser=number, help="Images for each label.")] = 1,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    latents: Annotated[
        Path | None, typer.Option(help="Start from this noise, (B, C, h, w) in a .npy file.")
    ] = None,
    save_latents: Annotated[
        Path | None, typer.Option(help="Save the final latents to this .npy file.")
    ] = None,
) -> None:
    """Generate images; the last line printed is one JSON object with files and times."""
    target = resolve_device(device)
    pipeline = ClassConditionalPipeline.from_pretrained(model, target, resolve_dtype(dtype, target))
    labels = pipeline.class_names if class_labels is None else _split(class_labels)
    request = pipeline.request(labels, plan, guidance_scale, num_images, seed)
    noise = None if latents is None else _read_latents(latents)
    _check_folder(output_dir)
    if save_latents is not None:
        if save_latents.is_dir():
            raise ValueError(f"--save-latents must name a file, and {save_latents} is a folder")
        _check_folder(save_latents.parent)
    output = pipeline.finish(pipeline.job(request, latents=noise), request.plan)
    output_dir.mkdir(parents=True, exist_ok=True)
    asked = Settings.of(ModelDescription.read(model).name, request, pipeline.class_names)
    files = []
    for k, image in enumerate(output.images):
        settings = asked.of_picture(k)
        if noise is None:
            name, info = settings.file_name, settings.png_info(VERSIONS)
        else:  # no seed makes this picture again
            name, info = f"{safe_name(settings.class_names[0])}-latents", None
        files.append(str(output_dir / f"{k:03d}-{name}.png"))
        image.save(files[-1], pnginfo=info)
    if save_latents is not None:
        save_latents.parent.mkdir(parents=True, exist_ok=True)
        with save_latents.open("wb") as stream:  # np.save would add .npy to a name without
            np.save(stream, output.latents.float().cpu().numpy())
    summary = {
        "plan": str(request.plan),
        "num_images": len(files),
        "predictor_evaluations": request.plan.predictor_evaluations,
        "refiner_evaluations": request.plan.refiner_evaluations,
        "ms_per_image": round(output.timing.ms_per_image, 3),
        "decode_ms_per_image": round(output.timing.decode_ms_per_image, 3),
        "device": str(pipeline.device),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "files": files,
    }
    print(json.dumps(summary))


class Trainable(StrEnum):
    """What `train` trains, in the order in which they need each other."""

    AUTOENCODER = "autoencoder"
    FLOW = "flow"
    REFINER = "refiner"
    EVALUATOR = "evaluator"
    TEXT_FLOW = "text-flow"
    TEXT_REFINER = "text-refiner"


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
        str, typer.Option(help="Name or folder of the autoencoder (all others).")
    ] = "postcards-autoencoder",
    predictor: Annotated[
        Path | None, typer.Option(help="Folder of the predictor to refine (refiners).")
    ] = None,
    max_dt: Annotated[
        float, typer.Option(parser=number, help="Longest step it learns to refine (refiners).")
    ] = Pairs.max_dt,
    guidance_scale: Annotated[
        float, typer.Option(parser=number, help="Guidance it learns to refine at (refiners).")
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
    if what is Trainable.AUTOENCODER:
        commands.train_autoencoder(recipe, options)
    elif what is Trainable.FLOW:
        commands.train_flow(recipe, autoencoder, options)
    elif what is Trainable.EVALUATOR:
        commands.train_evaluator(recipe, autoencoder, options)
    elif what is Trainable.TEXT_FLOW:
        commands.train_text_flow(recipe, autoencoder, options)
    elif predictor is None:
        raise ValueError(f"train {what} needs --predictor, the folder of the model it refines")
    else:
        is_text = what is Trainable.TEXT_REFINER
        train_it = commands.train_text_refiner if is_text else commands.train_refiner
        train_it(recipe, autoencoder, predictor, options, Pairs(max_dt, guidance_scale))


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
    convert_sit(predictor, vae, num_heads, output, refiner, raw)
    print(f"wrote {output}")


@app.command()
def class_pictures(
    model: Model = DEFAULT_MODEL, device: Device = None, dtype: Dtype = None
) -> None:
    """Let a model make the picture of each of its classes that the page shows to choose by."""
    target = resolve_device(device)
    description = ModelDescription.read(model)
    pipeline = ClassConditionalPipeline.from_pretrained(model, target, resolve_dtype(dtype, target))
    print(f"wrote {write_class_pictures(pipeline, description.folder).file}")


@app.command("bundle")
def bundle_models(
    autoencoder: Annotated[Path, typer.Option(help="Trained autoencoder, a model folder.")],
    predictor: Annotated[Path, typer.Option(help="Trained predictor, a model folder.")],
    refiner: Annotated[Path, typer.Option(help="Trained refiner, a model folder.")],
    default_plan: Annotated[str, typer.Option(help="The plan where none is given.")] = "H1P5R3",
    default_guidance_scale: Annotated[float, typer.Option(help="Where none is given.")] = 1.5,
    output: Annotated[Path, typer.Option(help="Folder of the catalogue.")] = MODELS_FOLDER,
) -> None:
    """Make the bundled models, with their cards, out of finished trainings."""
    settings = {"default_plan": default_plan, "default_guidance_scale": default_guidance_scale}
    bundle.bundle_postcards(autoencoder, predictor, refiner, output, settings)


@app.command()
def bundle_evaluator(
    evaluator: Annotated[Path, typer.Option(help="Trained evaluator, a model folder.")],
    output: Annotated[Path, typer.Option(help="Folder of the catalogue.")] = MODELS_FOLDER,
) -> None:
    """Make the bundled evaluator, with its card, out of a finished training."""
    bundle.bundle_evaluator(evaluator, output)


@app.command()
def bench(
    plans: Annotated[str, typer.Option(help="Plans to time, separated by commas.")],
    json_file: Annotated[Path, typer.Option("--json", help="File for the measurements.")],
    model: Model = DEFAULT_MODEL,
    architecture: Annotated[
        str | None, typer.Option(help="Time random weights of this size, such as sit-xl-2.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images made together.")] = 8,
    repeats: Annotated[int, typer.Option(help="Rounds through all plans.")] = 7,
    guidance_scale: Annotated[float | None, typer.Option(help="1 is no guidance.")] = None,
    modes: Annotated[str, typer.Option(help="eager, compiled, or both.")] = "eager",
    rivals: Rivals = "",
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Time plans against each other, in turn within one run."""
    _check_file(json_file)
    target = resolve_device(device)
    number_format = resolve_dtype(dtype, target)
    if architecture is None:
        pipeline = ClassConditionalPipeline.from_pretrained(model, target, number_format)
    else:
        pipeline = random_pipeline(architecture, target, number_format)
    result = {"model": architecture or model} | speed.bench(
        pipeline, _split(plans), batch_size, repeats, guidance_scale, _split(modes), _split(rivals)
    )
    write_json(result, json_file)
    for note in result["notes"]:
        print(note)
    for row in result["rows"]:
        print(
            f"{row['plan']:12} {row['mode']:8} {row['ms_per_image']:10.2f} ms/img  "
            f"ratio {row['ratio']:.3f}"
        )


@app.command()
def evaluate(
    plans: Annotated[str, typer.Option(help="Plans to compare, separated by commas.")],
    json_file: Annotated[Path, typer.Option("--json", help="File for the measurements.")],
    model: Model = DEFAULT_MODEL,
    num_samples: Annotated[int, typer.Option(parser=number, help="Images of each plan.")] = 2000,
    metrics: Annotated[
        str,
        typer.Option(
            help="Of frechet, accuracy, solver, and reference, which checks solver's with half "
            "its steps; the time is always taken."
        ),
    ] = ",".join(DEFAULT_METRICS),
    guidance_scale: GuidanceScale = None,
    seed: Seed = 0,
    batch_size: Annotated[int, typer.Option(parser=number, help="Images made together.")] = 8,
    rivals: Rivals = "",
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Measure what plans' pictures are worth and cost; a run that was killed goes on."""
    _check_file(json_file)
    target = resolve_device(device)
    shared = PartialState(cpu=target.type == "cpu")
    if device is None:  # each process has a device of its own
        target = shared.device
    number_format = resolve_dtype(dtype, target)
    pipeline = ClassConditionalPipeline.from_pretrained(model, target, number_format)
    request = pipeline.request([0], None, guidance_scale, 1, seed)
    evaluator = evaluation.evaluator_of(pipeline)
    settings = evaluation.Settings(
        ModelDescription.read(model).name,
        evaluation.weights_of(pipeline, evaluator),
        tuple(str(SamplePlan.parse(plan)) for plan in _split(plans)),
        num_samples,
        tuple(_split(metrics)),
        request.guidance_scale,
        request.seed,
        batch_size,
        target.type,
        str(number_format).removeprefix("torch."),
        tuple(str(Rival.parse(rival)) for rival in _split(rivals)),
    )
    if evaluator is None:
        if "solver" not in settings.metrics:
            raise ValueError(f"nothing here can judge the pictures of {settings.model}")
        print("nothing here can judge these pictures: only solver error and time are measured")
    parts = Parts(json_file.with_name(json_file.name + ".parts"))
    result = evaluation.evaluate(pipeline, settings, parts, evaluator)
    if result is None:  # on every process but the first
        return
    write_json(result, json_file)
    parts.remove()
    _print_rows(result["rows"])


@app.command()
def tune(
    model: Model = DEFAULT_MODEL,
    budget_ms: Annotated[
        float | None,
        typer.Option(parser=number, help="Milliseconds an image; default: what H8 takes."),
    ] = None,
    guidance_scale: GuidanceScale = None,
    num_samples: Annotated[
        int, typer.Option(parser=number, help="Images of each plan that confirm the front.")
    ] = 200,
    seed: Seed = 0,
    batch_size: Annotated[int, typer.Option(parser=number, help="Images made together.")] = 4,
    output: Annotated[
        Path | None,
        typer.Option(
            help="File to write; default: front.json in the model's folder, or in the user's cache."
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Find the plans that are worth their time here; the page then offers them by milliseconds."""
    target = resolve_device(device)
    folder = ModelDescription.read(model).folder
    file = front.writable_front_file(folder) if output is None else output
    _check_file(file)
    pipeline = ClassConditionalPipeline.from_pretrained(model, target, resolve_dtype(dtype, target))
    request = pipeline.request([0], None, guidance_scale, 1, seed)
    parts = Parts(file.with_name(file.name + ".parts"))
    content = {"model": folder.resolve().name} | tuner.tune(
        pipeline,
        request.guidance_scale,
        request.seed,
        budget_ms,
        num_samples,
        batch_size,
        parts,
    )
    write_json(content, file)
    parts.remove()
    print(f"wrote {file}")
    _print_rows(content["plans"])


@app.command("fidelity")
def measure_fidelity(
    generated: Annotated[Path, typer.Option(help="Folder of pictures, or a .npz file of them.")],
    json_file: Annotated[Path, typer.Option("--json", help="File for the measurements.")],
    reference: Annotated[
        Path | None, typer.Option(help="Folder, or .npz file as ADM's, to compare with.")
    ] = None,
    metrics: Annotated[
        str, typer.Option(help="Of fid, isc, precision, recall and clip.")
    ] = "fid,isc,precision,recall",
    captions: Annotated[
        Path | None, typer.Option(help="For clip: JSON by file name, or a line for each picture.")
    ] = None,
    clip: Annotated[
        str, typer.Option(help="CLIP model: a folder, or a name on the Hugging Face hub.")
    ] = fidelity.CLIP,
    inception: Annotated[
        Path | None, typer.Option(help="File of Inception's weights; default: downloaded once.")
    ] = None,
    device: Device = None,
) -> None:
    """Measure pictures by the networks that papers use; needs requirements-eval.txt."""
    _check_file(json_file)
    target = resolve_device(device)
    content = fidelity.fidelity(
        generated, reference, _split(metrics), target, captions, clip, inception
    )
    write_json(content, json_file)
    for name in ("fid", "inception_score", "precision", "recall", "clip_score"):
        if name in content:
            print(f"{name:16} {content[name]:.4f}")


@app.command()
def compare_refiners(
    refiners: Annotated[
        str, typer.Option(help="Folders of refiners, separated by commas; FOLDER:released too.")
    ],
    json_file: Annotated[Path, typer.Option("--json", help="File for the measurements.")],
    plans: Annotated[str, typer.Option(help="Plans with R, separated by commas.")] = "H1P5R3",
    model: Model = DEFAULT_MODEL,
    guidance_scale: GuidanceScale = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Measure what refiners of one predictor are worth, beside none: the solver error."""
    _check_file(json_file)
    target = resolve_device(device)
    pipeline = ClassConditionalPipeline.from_pretrained(model, target)
    request = pipeline.request([0], None, guidance_scale, 1, seed)
    asked = (request.guidance_scale, request.seed)
    rows = measure_refiners(
        pipeline, [Refiner.parse(text) for text in _split(refiners)], parse_distinct(_split(plans)),
        *asked,
    )  # fmt: skip
    content = {
        "rows": rows,
        "model": ModelDescription.read(model).name,
        "guidance_scale": asked[0],
        "seed": asked[1],
        "machine": describe_device(target),
        "versions": VERSIONS,
    }
    write_json(content, json_file)
    for row in rows:
        print(
            f"{row['plan']:10} {row['solver_error']:.4f} {row['difference']:+.4f} {row['refiner']}"
        )


@app.command()
def straightness(
    json_file: Annotated[Path, typer.Option("--json", help="File for the measurements.")],
    model: Model = DEFAULT_MODEL,
    guidance_scale: GuidanceScale = None,
    num_steps: Annotated[int, typer.Option(parser=number, help="Heun steps to follow by.")] = 32,
    seed: Seed = 0,
    plot: Annotated[
        Path | None, typer.Option(help="File for the plot, .png, .svg or .pdf.")
    ] = None,
    device: Device = None,
) -> None:
    """Measure how sharply paths bend, and how far they are from straight, S(Z)."""
    target = resolve_device(device)
    num_steps = whole_number("num_steps", num_steps, 2, MAX_STEPS)
    for file in filter(None, (json_file, plot)):
        _check_file(file)
    if plot is not None and (plot.suffix not in (".png", ".svg", ".pdf") or plot == json_file):
        raise ValueError(
            f"--plot must be a file of its own that ends in .png, .svg or .pdf, not {plot.name!r}"
        )
    # In float32, as the solver error: a curvature is a difference, of which rounding is a part.
    pipeline = ClassConditionalPipeline.from_pretrained(model, target)
    request = pipeline.request([0], None, guidance_scale, 1, seed)
    asked = (request.guidance_scale, request.seed)
    content = {
        "model": ModelDescription.read(model).name,
        "guidance_scale": asked[0],
        "seed": asked[1],
        **stability.describe(stability.follow(pipeline, *asked, num_steps)),
        "machine": describe_device(target),
        "versions": VERSIONS,
    }
    write_json(content, json_file)
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        stability.plot(content, content["model"], plot)
    print(
        f"S(Z) {content['straightness']:.5g}, "
        f"{content['straightness_per_dimension']:.5g} a dimension"
    )


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _print_rows(rows: list[dict[str, Any]]) -> None:
    named = ("frechet_distance", "class_accuracy", "solver_error", "ms_per_image", "ratio")
    for row in rows:
        print(f"{row['plan']:12}" + "".join(f"  {n} {row[n]:.4g}" for n in named if n in row))


def _check_file(file: Path) -> None:
    """Refuse what cannot be written as a file, before anything is computed for it."""
    if file.is_dir() or not file.name:
        raise ValueError(f"{file} is a folder; name a file")
    _check_folder(file.parent)
    existing = next(path for path in file.absolute().parents if path.exists())
    if not os.access(existing, os.W_OK):
        raise ValueError(f"{file} cannot be written: {existing} does not allow it")


def _check_folder(folder: Path) -> None:
    """Refuse what cannot become a folder, before anything is computed for it."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"{folder} cannot be a folder: {existing} is a file")


def _read_latents(file: Path) -> torch.Tensor:
    try:
        array = np.load(file, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise TypeError("it is an archive of several")
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    except (OSError, ValueError, TypeError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} holds no array of latents: {error}") from error


def main() -> None:
    """Run the command line; a mistake of the caller is one sentence and exit code 2."""
    # A person reads one sentence: what libraries say of the same mistake would drown it.
    diffusers.utils.logging.set_verbosity(diffusers.utils.logging.CRITICAL)
    warnings.simplefilter("ignore")
    run(app)
