"""The commands that make pictures, and list what can."""

import json
import re
import zipfile
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from flowturbo_core.checks import brief, whole_number
from flowturbo_core.cli.shared import (
    Device,
    Dtype,
    GuidanceScale,
    Model,
    Seed,
    app,
    device_of,
    print_warnings,
    split,
)
from flowturbo_core.data.captions import read_texts
from flowturbo_core.devices import VERSIONS, resolve_dtype
from flowturbo_core.files import check_file, check_folder, written_whole
from flowturbo_core.making.hub import fetch, hub_model
from flowturbo_core.metadata import Settings, TextSettings, safe_name
from flowturbo_core.models.catalog import (
    DEFAULT_MODEL,
    DEFAULT_TEXT_MODEL,
    HUB_MODELS,
    TEXTS,
    ModelDescription,
    bundled_pipelines,
)
from flowturbo_core.pipelines.loading import load_pipeline
from flowturbo_core.requests import MAX_IMAGES, MAX_SEED
from flowturbo_core.usage import number

_UNNAMED = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # what no name of a file should have
_LONGEST_NAME = 255  # bytes, of a file on every common disk


@app.command()
def models() -> None:
    """List the models that make pictures: those that ship, and those to fetch from a hub."""
    for name in bundled_pipelines():
        print(f"{name}: pictures of {ModelDescription.read(name).task}; ships with this")
    for model in HUB_MODELS:
        where = "fetched" if model.is_here else f"{model.gigabytes} GB to download"
        print(f"{model.name}: pictures of {TEXTS}; {where}; {model.licence}")


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="What `models` calls it.")],
    endpoint: Annotated[
        str | None, typer.Option(envvar="HF_ENDPOINT", help="Address of the hub.")
    ] = None,
) -> None:
    """Fetch a text-to-image model of the catalogue from its hub."""
    model = hub_model(name)
    print(f"{model.repository}, {model.licence}")
    for fetched in fetch(model, endpoint):
        print(f"\r{fetched.done / 1e6:,.0f} of {fetched.total / 1e6:,.0f} MB", end="", flush=True)
    print(f"\n{model.name} is in {model.folder}")


@app.command()
def sample(
    output_dir: Annotated[Path, typer.Option(help="Folder for the PNG files.")],
    model: Model = DEFAULT_MODEL,
    plan: Annotated[str | None, typer.Option(help="Such as H8, H1P5R3, [H1P1R1]x3, E25.")] = None,
    class_labels: Annotated[
        str | None, typer.Option(help="Labels or names, separated by commas; default: one of each.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="What to show; again for each further text.")
    ] = None,
    negative_prompt: Annotated[str, typer.Option(help="What to lead away from.")] = "",
    guidance_scale: GuidanceScale = None,
    num_images: Annotated[
        int, typer.Option(parser=number, help="Images for each label or prompt.")
    ] = 1,
    seed: Seed = 0,
    height: Annotated[int | None, typer.Option(parser=number, help="Pixels (texts).")] = None,
    width: Annotated[int | None, typer.Option(parser=number, help="Pixels (texts).")] = None,
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
    target = device_of(device)
    number_format = resolve_dtype(dtype, target)
    description = ModelDescription.read(model)
    of_texts = {"prompt": prompt, "negative_prompt": negative_prompt or None}
    of_texts |= {"height": height, "width": width}
    asked_of_texts = {name: value for name, value in of_texts.items() if value is not None}
    if description.task == TEXTS:
        if class_labels is not None:
            raise ValueError(f"{description.name} takes a --prompt, not class labels")
        if prompt is None:
            raise ValueError(f"{description.name} needs a --prompt: what should it show?")
        things = asked_of_texts
    else:
        if asked_of_texts:
            option = next(iter(asked_of_texts)).replace("_", "-")
            raise ValueError(f"{description.name} takes --class-labels, not --{option}")
        names = description.class_names if class_labels is None else split(class_labels)
        things = {"class_labels": names}
    check_folder(output_dir)
    if save_latents is not None:
        check_file(save_latents)
        if save_latents.resolve() in (output_dir.resolve(), *output_dir.resolve().parents):
            raise ValueError(
                f"--save-latents must be a file of its own, not the folder {output_dir}"
            )
    pipeline = load_pipeline(model, target, number_format)
    request = pipeline.request(
        **things, plan=plan, guidance_scale=guidance_scale, num_images=num_images, seed=seed
    )
    if description.task == TEXTS:
        asked = TextSettings.of(description.name, request)
    else:
        asked = Settings.of(description.name, request, description.class_names)
    print_warnings(pipeline.warnings(request))
    noise = None if latents is None else _read_latents(latents)
    output = pipeline.finish(pipeline.job(request, latents=noise), request.plan)
    files = []
    for k, image in enumerate(output.images):
        settings = asked.of_picture(k)
        if noise is None:
            name, info = settings.file_name, settings.png_info(VERSIONS)
        else:  # no seed makes this picture again
            name, info = f"{safe_name(settings.things[0])}-latents", None
        file = output_dir / f"{k:03d}-{name}.png"
        with written_whole(file) as partial:
            image.save(partial, "PNG", pnginfo=info)
        files.append(str(file))
    if save_latents is not None:
        # To a stream: np.save would add .npy to a name without.
        with written_whole(save_latents) as partial, partial.open("wb") as stream:
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


@app.command()
def sample_captions(
    captions: Annotated[
        Path, typer.Argument(help="Texts: one a line, or .json, .jsonl, .csv, .tsv.")
    ],
    output_dir: Annotated[Path, typer.Option(help="Folder for the PNG files.")],
    model: Model = DEFAULT_TEXT_MODEL,
    plan: Annotated[str | None, typer.Option(help="Such as H8, H1P6R3, E25.")] = None,
    guidance_scale: GuidanceScale = None,
    seed: Seed = 0,
    height: Annotated[int | None, typer.Option(parser=number, help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(parser=number, help="Pixels.")] = None,
    batch_size: Annotated[int, typer.Option(parser=number, help="Images made together.")] = 8,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Make one picture of each caption, for `fidelity`; a run that was killed goes on."""
    target = device_of(device)
    number_format = resolve_dtype(dtype, target)
    description = ModelDescription.read(model)
    if description.task != TEXTS:
        raise ValueError(f"{description.name} makes pictures of {description.task}, not of texts")
    batch_size = whole_number("batch_size", batch_size, 1, MAX_IMAGES)
    wanted = list(captions_in(captions).items())
    whole_number(f"the first seed of {len(wanted)} pictures", seed, 0, MAX_SEED - len(wanted) + 1)
    check_folder(output_dir)
    pipeline = load_pipeline(model, target, number_format)
    batches, said = [], set()
    for first in range(0, len(wanted), batch_size):  # what is there and differs is refused first
        batch = wanted[first : first + batch_size]
        request = pipeline.request(
            [text for _, text in batch],
            plan=plan,
            guidance_scale=guidance_scale,
            seed=seed + first,
            height=height,
            width=width,
        )
        asked = TextSettings.of(description.name, request)
        each = [(output_dir / name, asked.of_picture(k)) for k, (name, _) in enumerate(batch)]
        batches.append((request, each, [_is_made(*its) for its in each]))
    done = 0
    for request, each, are_made in batches:
        print_warnings(pipeline.warnings(request), said)
        if not all(are_made):
            images = pipeline.finish(pipeline.job(request), request.plan).images
            for image, (file, its) in zip(images, each, strict=True):
                with written_whole(file) as partial:
                    image.save(partial, "PNG", pnginfo=its.png_info(VERSIONS))
        done += len(each)
        print(f"{done} of {len(wanted)}", flush=True)


def captions_in(file: Path) -> dict[str, str]:
    """Return the text of each picture in a file of captions, by the name of the picture's file.

    Where the file names none, the first text is that of 000000.png: see `read_texts`. Raises
    ValueError, naming the file, for anything else.
    """
    captions = {}
    for k, its in enumerate(read_texts(file)):
        name = f"{k:06d}.png" if its.name is None else its.name
        is_plain = Path(name).name == name and Path(name).suffix == ".png"
        if not is_plain or _UNNAMED.search(name) or len(name.encode()) > _LONGEST_NAME:
            raise ValueError(f"{file}: {brief(name)} must be the name of a .png file")
        captions[name] = its.text
    return captions


def _is_made(file: Path, settings: TextSettings) -> bool:
    """Tell whether a picture is there; raises ValueError if it is there of other settings."""
    if not file.exists():
        return False
    if TextSettings.from_png(file) != settings:
        raise ValueError(f"{file} was made with other settings; name another folder")
    return True


def _read_latents(file: Path) -> torch.Tensor:
    try:
        array = np.load(file, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise TypeError("it is an archive of several")
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    except (OSError, ValueError, TypeError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} holds no array of latents: {error}") from error
