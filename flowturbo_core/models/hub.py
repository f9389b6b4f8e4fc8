"""Fetching the text-to-image models of the catalogue from their hub, when somebody asks for one.

What arrives is kept beside its place until all of it is there, so that a fetch that broke off goes
on where it was; then it is turned into safetensors and loaded once, before it takes its name.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread

from flowturbo_core.models.catalog import HUB_MODELS, HubModel, in_short
from flowturbo_core.requests import brief

_PARTS = ("unet", "vae", "text_encoder", "tokenizer")
_SETTINGS = (".json", ".txt")
# The weights in full: not the variants of fewer bits or without averaging, which have a name
# between these two parts.
_SAFE = re.compile(r"(diffusion_pytorch_model|model)(-\d{5}-of-\d{5})?\.safetensors")
_PICKLED = re.compile(r"(diffusion_pytorch_model|pytorch_model)\.bin")
_LOOK_AGAIN_S = 0.5


@dataclass(frozen=True)
class Fetched:
    """How much of a model has arrived, in bytes."""

    done: int
    total: int


def hub_model(name: str) -> HubModel:
    """Return the model of that name. Raises ValueError, naming those that a hub has."""
    for model in HUB_MODELS:
        if model.name == name:
            return model
    names = ", ".join(model.name for model in HUB_MODELS)
    raise ValueError(f"the catalogue has no model {brief(name)} on a hub; it has {names}")


def wanted_files(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return those of a repository's files, with their sizes, that this project reads.

    Weights as safetensors where a part has them, else as pickles.
    """
    wanted = {}
    for part in _PARTS:
        files = {name: size for name, size in sizes.items() if Path(name).parent == Path(part)}
        safe = [name for name in files if _SAFE.fullmatch(Path(name).name)]
        pickled = [name for name in files if _PICKLED.fullmatch(Path(name).name)]
        settings = [name for name in files if Path(name).suffix in _SETTINGS]
        wanted |= {name: files[name] for name in (*settings, *(safe or pickled))}
    index = {name: size for name, size in sizes.items() if name == "model_index.json"}
    return index | wanted


def fetch(model: HubModel, endpoint: str | None = None) -> Iterator[Fetched]:
    """Fetch a model into `model.folder`; yield, now and then, how much has arrived.

    `endpoint` is the hub's address, where it is not Hugging Face's. Raises ValueError, in one
    sentence, if that fails; what arrived stays for the next time.
    """
    from huggingface_hub import HfApi, snapshot_download  # only here: it takes a second to import

    if model.is_here:
        return
    arrived = model.folder.with_name(f".{model.name}.partial")
    try:
        arrived.mkdir(parents=True, exist_ok=True)
        about = HfApi(endpoint).model_info(model.repository, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in about.siblings or []}
        files = wanted_files(sizes)
        total = sum(files.values())
        arriving = _begun(
            partial(
                snapshot_download,
                model.repository,
                revision=about.sha,
                local_dir=arrived,
                allow_patterns=list(files),
                endpoint=endpoint,
            )
        )
        while not arriving.done():
            yield Fetched(min(_bytes_in(arrived), total), total)
            wait([arriving], _LOOK_AGAIN_S)
        arriving.result()
        yield Fetched(total, total)
        _settle(model, arrived)
    except Exception as error:  # a network, a hub and a disk fail in every way there is
        raise ValueError(f"{model.name} could not be fetched: {in_short(error)}") from error


def _begun(work: Callable[[], object]) -> Future:
    """Begin work on a thread that does not outlive the program."""
    future: Future = Future()

    def settle() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # for whoever asks for the result
            future.set_exception(error)

    Thread(target=settle, name="fetching", daemon=True).start()
    return future


def _settle(model: HubModel, arrived: Path) -> None:
    """Turn what arrived into a model folder of its own."""
    from flowturbo_core.models.convert_text import convert_text_to_image  # imports torch

    settings = {
        "default_plan": model.default_plan,
        "default_guidance_scale": model.default_guidance_scale,
    }
    convert_text_to_image(arrived, model.folder, settings)
    shutil.rmtree(arrived)


def _bytes_in(folder: Path) -> int:
    """Return the size of all files, those included that are still arriving."""
    sizes = 0
    for file in folder.rglob("*"):
        try:
            sizes += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:  # it took its name just now
            continue
    return sizes
