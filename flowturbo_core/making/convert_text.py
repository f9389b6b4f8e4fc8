"""Turns text-to-image folders of pickled weights into safetensors, and gives them refiners.

Each pickle is read once, with `weights_only=True`, so that no code in it runs. The copy is loaded,
as any other model is, before it takes the name that was asked for.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors.torch import save_file

from flowturbo_core.files import write_json
from flowturbo_core.making.convert_sit import PICKLED, read_pickles
from flowturbo_core.models.catalog import PIPELINES, read_index
from flowturbo_core.models.storage import (
    WEIGHTS,
    has_whole_weights,
    require_here,
    weight_files,
)
from flowturbo_core.models.text_encoder import POSITIONS, PREFIX
from flowturbo_core.models.text_encoder import WEIGHTS as TEXT_WEIGHTS
from flowturbo_core.pipelines.convention import SCHEDULER
from flowturbo_core.pipelines.text_to_image import TextToImagePipeline
from flowturbo_core.requests import Texts

# What the weights of each part are called, without their ending.
_WEIGHTS = {"unet": WEIGHTS, "refiner": WEIGHTS, "vae": WEIGHTS, "text_encoder": TEXT_WEIGHTS}

_PASSED_OVER = (POSITIONS, f"{PREFIX}{POSITIONS}")  # whole numbers, which are no weights


def convert_text_to_image(
    source: Path,
    output: Path,
    settings: Mapping[str, Any] = MappingProxyType({}),
    refiner: Path | None = None,
) -> TextToImagePipeline:
    """Write a copy of the folder `source` whose weights are safetensors, and load it.

    The copy has only the parts that this project uses. Weights that are safetensors already are
    linked if the disk can, or else copied. The index gets `settings`, such as a default plan. The
    folder `refiner` replaces the refiner of `source`. Raises ValueError, naming the file, if
    `source` has not Stable Diffusion's layout, if weights are missing or damaged, or if `output`
    exists.
    """
    index = read_index(source, *(name for name, subject in PIPELINES.items() if subject is Texts))
    if output.exists():
        raise ValueError(f"{output} is there already; --output must be a new folder")
    if refiner is not None and not (refiner / "config.json").is_file():
        raise ValueError(f"{refiner} is not the folder of a refiner: it has no config.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        folder = Path(scratch) / output.name
        folder.mkdir()
        # The scheduler says what the UNet's output is.
        parts = {*TextToImagePipeline.PART_CLASSES, SCHEDULER}
        known = {*parts, *TextToImagePipeline.SETTINGS}
        kept = {
            name: value for name, value in index.items() if name in known or name.startswith("_")
        }
        sources = {name: source / name for name in parts}
        if refiner is not None:
            kept["refiner"] = ["diffusers", "UNet2DConditionModel"]
            sources["refiner"] = refiner
        for name in kept.keys() & sources.keys():
            if sources[name].is_dir():
                _convert_part(sources[name], folder / name, _WEIGHTS.get(name))
        write_json(kept | settings, folder / "model_index.json")
        try:
            pipeline = TextToImagePipeline.from_pretrained(folder)
        except ValueError as error:  # names parts of the copy, which nobody will find
            sentence = str(error)
            for name, origin in (sources | {"": source}).items():
                sentence = sentence.replace(str(folder / name), str(origin))
            raise ValueError(sentence) from error
        folder.rename(output)
    return pipeline


def _convert_part(source: Path, folder: Path, stem: str | None) -> None:
    """Copy a part with safetensors; full weights are preferred to a variant of them."""
    folder.mkdir()
    for file in source.iterdir():
        is_setting = file.suffix in (".json", ".txt") and ".index." not in file.name
        if is_setting and file.is_file() and not file.name.startswith("."):
            shutil.copy2(file, folder / file.name)
    if stem is None:
        return
    files = weight_files(source, stem)
    is_whole = has_whole_weights(source, stem)
    has_more = any(has_whole_weights(source, name, "bin") for name in PICKLED)
    if files and (is_whole or not has_more):
        for file in (*files, *source.glob(f"{stem}.safetensors.index*.json")):
            require_here(file)
            _link(file, folder / file.name)
    elif tensors := read_pickles(source, _PASSED_OVER):
        # A copy of each: a pickle may hold two names of one tensor, which safetensors do not.
        copies = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        save_file(copies, folder / f"{stem}.safetensors", metadata={"format": "pt"})


def _link(file: Path, target: Path) -> None:
    """Give a large file a second name."""
    try:
        os.link(file.resolve(), target)
    except OSError:
        shutil.copy2(file, target)
