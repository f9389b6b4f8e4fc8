"""Text-to-image folders of pickled weights, as many were published, to safetensors; refiners too.

Each pickle is read once, with `weights_only=True`, so that no code in it runs; what comes out is
loaded as any other model is before it takes the name that was asked for.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors.torch import save_file

from flowturbo_core.making.convert_sit import PICKLED, read_pickles
from flowturbo_core.models.catalog import TASKS, TEXTS, read_index
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

    The parts this project uses are taken over, and those alone; weights that are safetensors
    already are linked, where the disk can, and else copied. The index gets `settings` too, such
    as a default plan, and the folder `refiner`, if there is one, takes the place of its own. Raises
    ValueError, naming the file, for a folder that is none of Stable Diffusion's layout, weights
    that are missing or damaged, or an `output` that is there.
    """
    index = read_index(source, *(name for name, task in TASKS.items() if task == TEXTS))
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
        (folder / "model_index.json").write_text(json.dumps(kept | settings, indent=2) + "\n")
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
    """Take a part over, its weights as safetensors: those in full before a variant of them."""
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
