"""Fetches text-to-image models of the catalogue from their hub, when somebody asks for one.

Files are kept beside the model's place until all have arrived, so that a fetch that broke off does
not fetch whole files again. Then pickles are turned into safetensors, and the model is loaded once
before it takes its name.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from errno import ENOSPC
from functools import partial
from json import JSONDecodeError
from pathlib import Path
from threading import Thread
from typing import Any

from flowturbo_core.checks import brief, in_short
from flowturbo_core.files import check_user_cache
from flowturbo_core.models.catalog import HUB_MODELS, HubModel

# The weights of each part in full, as safetensors and as a pickle; variants of fewer bits, or
# without averaging, have a name between these two parts.
_DIFFUSERS = (
    r"diffusion_pytorch_model(-\d{5}-of-\d{5})?\.safetensors",
    r"diffusion_pytorch_model\.bin",
)
_PARTS = {
    "unet": _DIFFUSERS,
    "vae": _DIFFUSERS,
    "text_encoder": (r"model\.safetensors", r"pytorch_model\.bin"),
    "tokenizer": (),
}
_SETTINGS = (".json", ".txt")
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

    Weights as safetensors where a part has them, else as pickles. Raises ValueError for a
    repository that lacks some.
    """
    wanted = {name: size for name, size in sizes.items() if name == "model_index.json"}
    for part, forms in _PARTS.items():
        files = {name: size for name, size in sizes.items() if Path(name).parent == Path(part)}
        wanted |= {name: size for name, size in files.items() if Path(name).suffix in _SETTINGS}
        found = ([n for n in files if re.fullmatch(form, Path(n).name)] for form in forms)
        weights = next(filter(None, found), [])
        if forms and not weights:
            raise ValueError(f"it has no weights of the {part}")
        wanted |= {name: files[name] for name in weights}
    return wanted


def fetch(model: HubModel, endpoint: str | None = None) -> Iterator[Fetched]:
    """Fetch a model into `model.folder`; yield, now and then, how much has arrived.

    `endpoint` is the hub's address, where it is not Hugging Face's. Raises ValueError, in one
    sentence, if that fails, or another program is at it.
    """
    from filelock import FileLock, Timeout  # only here: with the hub, a second to import

    models = model.folder.parent
    try:
        check_user_cache()
        models.mkdir(parents=True, exist_ok=True)
        with FileLock(models / f".{model.name}.lock", timeout=0):
            if not model.is_here:
                yield from _fetch(model, models / f".{model.name}.partial", endpoint)
    except Timeout as error:
        raise ValueError(f"{model.name} is being fetched by another program") from error
    except Exception as error:  # a network, a hub and a disk fail in every way there is
        raise ValueError(f"{model.name} could not be fetched: {_reason(error, model)}") from error


def _reason(error: Exception, model: HubModel) -> str:
    """Return in one sentence why a fetch failed."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return f"{model.repository} is open only to those whom its owners let in"
    if isinstance(error, RepositoryNotFoundError):
        return f"the hub has no {model.repository} that is open to all"
    if isinstance(error, HfHubHTTPError):
        return f"the hub answered {error.response.status_code} {error.response.reason_phrase}"
    # By their name: which library they are of depends on the version of huggingface_hub.
    if "NetworkError" in [kind.__name__ for kind in type(error).__mro__]:
        return f"there is no connection to the hub ({in_short(error)})"
    if isinstance(error, JSONDecodeError):
        return "what answers at the hub's address is no hub"
    if isinstance(error, OSError) and error.errno == ENOSPC:
        return "the disk is full"
    return in_short(error)


def _fetch(model: HubModel, arrived: Path, endpoint: str | None) -> Iterator[Fetched]:
    from huggingface_hub import HfApi, snapshot_download
    from tqdm import tqdm

    class Silent(tqdm):
        """A progress bar that nobody sees."""

        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options | {"disable": True})

    for stale in (*arrived.rglob("*.incomplete"), *arrived.parent.glob(f"{_scratch(model)}*")):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    about = HfApi(endpoint, token=False).model_info(model.repository, files_metadata=True)
    files = wanted_files({file.rfilename: file.size or 0 for file in about.siblings or []})
    total = sum(files.values())
    _check_disk(files, arrived)
    arriving = _begin(
        partial(
            snapshot_download,
            model.repository,
            revision=about.sha,
            local_dir=arrived,
            allow_patterns=list(files),
            endpoint=endpoint,
            token=False,
            tqdm_class=Silent,
        )
    )
    done = 0
    while not arriving.done():
        # Never less than before: a file is seen under neither name while it takes its own.
        done = max(done, min(_bytes_in(arrived), total))
        yield Fetched(done, total)
        wait([arriving], _LOOK_AGAIN_S)
    arriving.result()
    yield Fetched(total, total)
    _settle(model, arrived)


def _check_disk(files: Mapping[str, int], arrived: Path) -> None:
    """Raise ValueError where the disk has no room for what is to come, and for turning it."""
    pickled = sum(size for name, size in files.items() if name.endswith(".bin"))
    needed = sum(files.values()) + pickled - _bytes_in(arrived)
    free = shutil.disk_usage(arrived.parent).free
    if needed > free:
        raise ValueError(f"it takes {needed / 1e9:.1f} GB, and the disk has {free / 1e9:.1f} left")


def _begin(work: Callable[[], object]) -> Future:
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
    from flowturbo_core.making.convert_text import convert_text_to_image  # imports torch

    settings = {
        "velocity": "data - noise",  # as InstaFlow's, and their folders do not say it
        "default_plan": model.default_plan,
        "default_guidance_scale": model.default_guidance_scale,
    }
    with tempfile.TemporaryDirectory(dir=arrived.parent, prefix=_scratch(model)) as scratch:
        converted = Path(scratch) / model.name
        convert_text_to_image(arrived, converted, settings)
        converted.rename(model.folder)
    shutil.rmtree(arrived)


def _scratch(model: HubModel) -> str:
    """Return the beginning of the names of folders that a killed fetch may leave."""
    return f".{model.name}.scratch"


def _bytes_in(folder: Path) -> int:
    """Return the size of all files, also of those that are still arriving."""
    sizes = 0
    for file in folder.rglob("*"):
        try:
            sizes += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:  # it took its name just now
            continue
    return sizes
