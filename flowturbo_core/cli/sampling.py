"""The commands that make pictures, and list what can."""

import json
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image

from flowturbo_core.checks import brief, whole_number
from flowturbo_core.cli.asking import read_asked, takes_request
from flowturbo_core.cli.shared import (
    Device,
    Dtype,
    Model,
    app,
    device_of,
    print_warnings,
)
from flowturbo_core.data.captions import read_texts
from flowturbo_core.devices import VERSIONS, resolve_dtype
from flowturbo_core.files import check_file, check_folder, written_whole
from flowturbo_core.making.hub import fetch, hub_model
from flowturbo_core.metadata import file_name, png_info, read_png, safe_name
from flowturbo_core.models.catalog import (
    DEFAULT_MODEL,
    DEFAULT_TEXT_MODEL,
    HUB_MODELS,
    ModelDescription,
    bundled_pipelines,
)
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.pipelines.bench import Output
from flowturbo_core.pipelines.loading import load_pipeline
from flowturbo_core.requests import MAX_IMAGES, MAX_SEED, TASKS, Generate, Request, Texts
from flowturbo_core.usage import number

_UNNAMED = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # what no name of a file should have
_LONGEST_NAME = 255  # bytes, of a file on every common disk


@app.command()
def models() -> None:
    """List the models that make pictures: those that ship, and those to fetch from a hub."""
    for name in bundled_pipelines():
        print(f"{name}: pictures of {ModelDescription.read(name).subject.PLURAL}; ships with this")
    for model in HUB_MODELS:
        where = "fetched" if model.is_here else f"{model.gigabytes} GB to download"
        print(f"{model.name}: pictures of {Texts.PLURAL}; {where}; {model.licence}")


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


def sample_by(task: type) -> Callable[..., None]:
    """Return the command that does a task, and prints one JSON object with files and times."""

    @takes_request(task)
    def sample(
        output_dir: Annotated[Path, typer.Option(help="Folder for the PNG files.")],
        asked: dict[str, Any],
        model: Model = DEFAULT_MODEL,
        device: Device = None,
        dtype: Dtype = None,
        latents: Annotated[
            Path | None, typer.Option(help="Start from this noise, (B, C, h, w) in a .npy file.")
        ] = None,
        save_latents: Annotated[
            Path | None, typer.Option(help="Save the final latents to this .npy file.")
        ] = None,
    ) -> None:
        target = device_of(device)
        number_format = resolve_dtype(dtype, target)
        request = read_asked(ModelDescription.read(model), asked, task)
        _check_places(output_dir, save_latents)
        noise = None if latents is None else _read_latents(latents)
        pipeline = load_pipeline(model, target, number_format)
        print_warnings(pipeline.warnings(request))
        output = pipeline.finish(pipeline.job(request, latents=noise), request.plan)
        files = _save(output.images, request, output_dir, has_seed=noise is None)
        if save_latents is not None:
            # To a stream: np.save would add .npy to a name without.
            with written_whole(save_latents) as partial, partial.open("wb") as stream:
                np.save(stream, output.latents.float().cpu().numpy())
        print(json.dumps(_summary(request, output, pipeline) | {"files": files}))

    sample.__doc__ = (
        f"{task.__doc__} The last line printed is one JSON object with files and times."
    )
    return sample


# Generating is the command's first meaning; other tasks are called as they are.
for _task in TASKS.values():
    app.command("sample" if _task is Generate else _task.NAME)(sample_by(_task))


def _check_places(output_dir: Path, save_latents: Path | None) -> None:
    """Refuse places that cannot be written before anything is computed."""
    check_folder(output_dir)
    if save_latents is None:
        return
    check_file(save_latents)
    if save_latents.resolve() in (output_dir.resolve(), *output_dir.resolve().parents):
        raise ValueError(f"--save-latents must be a file of its own, not the folder {output_dir}")


def _save(
    images: Sequence[Image.Image], request: Request, folder: Path, has_seed: bool
) -> list[str]:
    """Write images, with the request that makes each again if their noise has a seed."""
    files = []
    for k, image in enumerate(images):
        own, info = request.of_picture(k), None
        name = f"{safe_name(own.subject.things[0])}-latents"
        if has_seed:
            name, info = file_name(own), png_info(own, VERSIONS)
        file = folder / f"{k:03d}-{name}.png"
        with written_whole(file) as partial:
            image.save(partial, "PNG", pnginfo=info)
        files.append(str(file))
    return files


def _summary(request: Request, output: Output, pipeline: FlowPipeline) -> dict[str, Any]:
    return {
        "plan": str(request.plan),
        "num_images": len(output.images),
        "predictor_evaluations": request.plan.predictor_evaluations,
        "refiner_evaluations": request.plan.refiner_evaluations,
        "ms_per_image": round(output.timing.ms_per_image, 3),
        "decode_ms_per_image": round(output.timing.decode_ms_per_image, 3),
        "device": str(pipeline.device),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
    }


@app.command()
@takes_request(Generate, "plan", "guidance_scale", "height", "width", "seed")
def sample_captions(
    captions: Annotated[
        Path, typer.Argument(help="Texts: one a line, or .json, .jsonl, .csv, .tsv.")
    ],
    output_dir: Annotated[Path, typer.Option(help="Folder for the PNG files.")],
    asked: dict[str, Any],
    model: Model = DEFAULT_TEXT_MODEL,
    batch_size: Annotated[int, typer.Option(parser=number, help="Images made together.")] = 8,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Make one picture of each caption, for `fidelity`; a run that was killed goes on."""
    target = device_of(device)
    number_format = resolve_dtype(dtype, target)
    description = ModelDescription.read(model)
    if description.subject is not Texts:
        raise ValueError(
            f"{description.name} makes pictures of {description.subject.PLURAL}, not of texts"
        )
    batch_size = whole_number("batch_size", batch_size, 1, MAX_IMAGES)
    wanted = list(captions_in(captions).items())
    seed = asked.get("seed", 0)
    whole_number(f"the first seed of {len(wanted)} pictures", seed, 0, MAX_SEED - len(wanted) + 1)
    check_folder(output_dir)
    batches, said = [], set()
    for first in range(0, len(wanted), batch_size):  # what is there and differs is refused first
        batch = wanted[first : first + batch_size]
        texts = {"prompts": [text for _, text in batch], "seed": seed + first}
        request = Request.read(description, {**asked, **texts})
        each = [(output_dir / name, request.of_picture(k)) for k, (name, _) in enumerate(batch)]
        batches.append((request, each, [_is_made(*item) for item in each]))
    pipeline = load_pipeline(model, target, number_format)
    done = 0
    for request, each, are_made in batches:
        print_warnings(pipeline.warnings(request), said)
        if not all(are_made):
            images = pipeline.finish(pipeline.job(request), request.plan).images
            for image, (file, own) in zip(images, each, strict=True):
                with written_whole(file) as partial:
                    image.save(partial, "PNG", pnginfo=png_info(own, VERSIONS))
        done += len(each)
        print(f"{done} of {len(wanted)}", flush=True)


def captions_in(file: Path) -> dict[str, str]:
    """Return the text of each picture in a file of captions, by the name of the picture's file.

    Where the file names none, the first text is that of 000000.png: see `read_texts`. Raises
    ValueError, naming the file, for anything else.
    """
    captions = {}
    for k, item in enumerate(read_texts(file)):
        name = f"{k:06d}.png" if item.name is None else item.name
        is_plain = Path(name).name == name and Path(name).suffix == ".png"
        if not is_plain or _UNNAMED.search(name) or len(name.encode()) > _LONGEST_NAME:
            raise ValueError(f"{file}: {brief(name)} must be the name of a .png file")
        captions[name] = item.text
    return captions


def _is_made(file: Path, request: Request) -> bool:
    """Tell whether a picture is there; raises ValueError if it is there of other settings."""
    if not file.exists():
        return False
    there = read_png(file)
    own = request.model, type(request.task), request.json_values()
    if (there.model, there.task, there.values) != own:
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
