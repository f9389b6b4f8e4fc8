"""The commands that measure: speed, quality, the plans worth their time, refiners, paths."""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accelerate import PartialState

from flowturbo_core.checks import brief, whole_number
from flowturbo_core.cli.shared import (
    Device,
    Dtype,
    GuidanceScale,
    Model,
    Rivals,
    Seed,
    app,
    device_of,
    print_warnings,
    split,
)
from flowturbo_core.data.postcards.scene import ATTRIBUTES
from flowturbo_core.devices import VERSIONS, describe_device, resolve_dtype
from flowturbo_core.evaluation import fidelity, speed, stability, tuner
from flowturbo_core.evaluation.evaluate import evaluate as measure_plans
from flowturbo_core.evaluation.parts import Parts
from flowturbo_core.evaluation.quality import evaluator_of
from flowturbo_core.evaluation.refiners import Refiner
from flowturbo_core.evaluation.refiners import compare_refiners as measure_refiners
from flowturbo_core.evaluation.rivals import Rival
from flowturbo_core.evaluation.settings import DEFAULT_METRICS, Settings
from flowturbo_core.evaluation.sizes import random_pipeline
from flowturbo_core.files import check_file, write_json
from flowturbo_core.models import front
from flowturbo_core.models.catalog import (
    DEFAULT_MODEL,
    ModelDescription,
)
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.pipelines.loading import load_pipeline
from flowturbo_core.plan import MAX_STEPS, SamplePlan, parse_distinct
from flowturbo_core.usage import number


@app.command()
def bench(
    plans: Annotated[str, typer.Option(help="Plans to time, separated by commas.")],
    json_file: Annotated[Path, typer.Option("--json", help="File for the measurements.")],
    model: Model = DEFAULT_MODEL,
    architecture: Annotated[
        str | None,
        typer.Option(help="Time random weights of this size: sit-xl-2, ..., or sd-1-5."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images made together.")] = 8,
    repeats: Annotated[int, typer.Option(help="Rounds through all plans.")] = 7,
    guidance_scale: GuidanceScale = None,
    modes: Annotated[str, typer.Option(help="eager, compiled, or both.")] = "eager",
    rivals: Rivals = "",
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Time plans against each other, in turn within one run."""
    check_file(json_file)
    target = device_of(device)
    number_format = resolve_dtype(dtype, target)
    if architecture is None:
        pipeline = load_pipeline(model, target, number_format)
    else:
        pipeline = random_pipeline(architecture, target, number_format)
    print_warnings(pipeline.warnings(pipeline.example_request(1, guidance_scale)))
    result = {"model": architecture or model} | speed.bench(
        pipeline, split(plans), batch_size, repeats, guidance_scale, split(modes), split(rivals)
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
    scenes: Annotated[
        str, typer.Option(help="What is asked for: train, held_out or all of the combinations.")
    ] = "train",
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Measure what plans' pictures are worth and cost; a run that was killed goes on."""
    check_file(json_file)
    target = device_of(device)
    shared = PartialState(cpu=target.type == "cpu")
    if target.type != "cpu" and device in (None, target.type):
        target = shared.device  # each process has a GPU of its own
    number_format = resolve_dtype(dtype, target)
    pipeline = load_pipeline(model, target, number_format)
    request = pipeline.example_request(1, guidance_scale, seed)
    print_warnings(pipeline.warnings(request))
    evaluator = evaluator_of(pipeline)
    settings = Settings.of(
        pipeline,
        evaluator,
        model=ModelDescription.read(model).name,
        plans=tuple(str(SamplePlan.parse(plan)) for plan in split(plans)),
        num_samples=num_samples,
        metrics=tuple(split(metrics)),
        guidance_scale=request.guidance_scale,
        seed=request.seed,
        batch_size=batch_size,
        rivals=tuple(str(Rival.parse(rival)) for rival in split(rivals)),
        scenes=scenes,
    )
    if evaluator is None:
        if "solver" not in settings.metrics:
            raise ValueError(f"nothing here can judge the pictures of {settings.model}")
        print("nothing here can judge these pictures: only solver error and time are measured")
    parts = Parts(json_file.with_name(json_file.name + ".parts"))
    exact = _in_float32(pipeline, model)
    result = measure_plans(pipeline, settings, parts, evaluator, exact)
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
    target = device_of(device)
    number_format = resolve_dtype(dtype, target)
    folder = ModelDescription.read(model).folder
    file = front.writable_front_file(folder) if output is None else output
    check_file(file)
    pipeline = load_pipeline(model, target, number_format)
    request = pipeline.example_request(1, guidance_scale, seed)
    print_warnings(pipeline.warnings(request))
    parts = Parts(file.with_name(file.name + ".parts"))
    content = {"model": folder.resolve().name} | tuner.tune(
        pipeline,
        request.guidance_scale,
        request.seed,
        budget_ms,
        num_samples,
        batch_size,
        parts,
        _in_float32(pipeline, model),
    )
    content["weights"] = front.weights_hash(folder)
    write_json(content, file)
    parts.remove()
    cached, beside = front.front_files(folder)
    # One found when the folder was not to be written would be preferred to it.
    if file == beside and cached.is_file():
        cached.unlink()
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
        str | None,
        typer.Option(
            help="Of fid, isc, precision, recall and clip; default: all but clip, as far as the "
            "reference allows."
        ),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(help="For clip: a line for each picture, or .json, .jsonl, .csv, .tsv."),
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
    check_file(json_file)
    target = device_of(device)
    chosen = fidelity.default_metrics(reference) if metrics is None else split(metrics)
    if metrics is None and (left := [m for m in fidelity.DEFAULT_METRICS if m not in chosen]):
        print(f"{reference} holds no pictures: {', '.join(left)} cannot be computed")
    content = fidelity.fidelity(generated, reference, chosen, target, captions, clip, inception)
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
    check_file(json_file)
    target = device_of(device)
    pipeline = load_pipeline(model, target)
    request = pipeline.example_request(1, guidance_scale, seed)
    print_warnings(pipeline.warnings(request))
    asked = (request.guidance_scale, request.seed)
    rows = measure_refiners(
        pipeline, [Refiner.parse(text) for text in split(refiners)], parse_distinct(split(plans)),
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
    target = device_of(device)
    num_steps = whole_number("num_steps", num_steps, 2, MAX_STEPS)
    for file in filter(None, (json_file, plot)):
        check_file(file)
    if plot is not None and (plot.suffix not in (".png", ".svg", ".pdf") or plot == json_file):
        raise ValueError(
            f"--plot must be a file of its own that ends in .png, .svg or .pdf, not "
            f"{brief(plot.name)}"
        )
    # In float32, as the solver error: a curvature is a difference, of which rounding is a part.
    pipeline = load_pipeline(model, target)
    request = pipeline.example_request(1, guidance_scale, seed)
    print_warnings(pipeline.warnings(request))
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
        stability.plot(content, content["model"], plot)
    print(
        f"S(Z) {content['straightness']:.5g}, "
        f"{content['straightness_per_dimension']:.5g} a dimension"
    )


def _in_float32(pipeline: FlowPipeline, model: str) -> FlowPipeline:
    """Return the model with its weights as they are stored, not as another format rounds them."""
    if pipeline.dtype == torch.float32:
        return pipeline
    return load_pipeline(model, pipeline.device)


def _print_rows(rows: list[dict[str, Any]]) -> None:
    names = ("frechet_distance", *(f"{name}_accuracy" for name in ("class", *ATTRIBUTES)))
    names += ("solver_error", "ms_per_image", "ratio")
    for row in rows:
        print(f"{row['plan']:12}" + "".join(f"  {n} {row[n]:.4g}" for n in names if n in row))
