"""Reading and writing models as diffusers folders: safetensors only, every failure a sentence."""

import copy
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flowturbo_core.checks import brief, in_short, whole_number
from flowturbo_core.files import read_json, write_json

# Of the weights that ship: a repository of small files stays easy to push and to fetch.
_SHIPPED_SHARD_SIZE = "9MB"

WEIGHTS = "diffusion_pytorch_model"  # of a part of diffusers', without the ending
_LFS = b"version https://git-lfs.github.com/spec/"
# What to do about a pickle where no command of this project reads it.
AS_SAFETENSORS = (
    "`safetensors.torch.save_file(torch.load(OLD, weights_only=True), NEW)` makes safetensors of it"
)
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_FLOATING_POINT = ("F64", "F32", "F16", "BF16")
# What the attention of an autoencoder was called before, as in Stable Diffusion's.
_RENAMED = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}

# What a predictor's config says of the autoencoder it was trained on, whatever its class.
_ORIGIN = ("autoencoder_hash", "latents_mean", "latents_std")

Model = TypeVar("Model", bound=ModelMixin)


def save_model(model: ModelMixin, folder: Path, **options: Any) -> None:
    """Save `model` as a diffusers folder, in the number format that it has."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.safetensors*"):  # another number of shards would leave some
        stale.unlink()
    model.save_pretrained(folder, **options)


def save_trained(model: ModelMixin, folder: Path, record: dict[str, Any]) -> None:
    """Save a model as it ships, with the record of its training."""
    save_to_ship(model, folder)
    write_record(record, folder)


def save_to_ship(model: ModelMixin, folder: Path) -> None:
    """Save a model in float16, in small shards."""
    save_model(copy.deepcopy(model).half(), folder, max_shard_size=_SHIPPED_SHARD_SIZE)


def write_record(record: dict[str, Any], folder: Path) -> None:
    """Write the record of a model's training beside its weights."""
    write_json(record, folder / "training.json")


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of a model's training: `runs`, first to last; empty where it has none."""
    file = folder / "training.json"
    return json.loads(file.read_text()) if file.exists() else {"runs": []}


def load_model(
    model_class: type[Model],
    folder: Path,
    advice: str = AS_SAFETENSORS,
) -> Model:
    """Load a `model_class` from a diffusers folder, in float32 and evaluation mode.

    Raises ValueError, naming the file and what is wrong with it: a missing config or shard,
    a truncated or foreign one, parameters that are missing, left over, of another shape or not
    finite; of a pickle, with `advice` what to do.
    """
    model = empty_model(model_class, folder)
    files = safetensors_files(folder, WEIGHTS, advice)
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        found = _shapes_in(file)
        if twice := sorted(found.keys() & shapes.keys()):
            raise ValueError(f"{file} holds {twice[0]}, which another shard holds too")
        shapes |= found
    check_shapes(folder, model, shapes)
    state = {name: tensor for file in files for name, tensor in _tensors_in(file)}
    model.load_state_dict(state, assign=True)
    return model.eval()


def check_finite(file: Path, name: str, tensor: Tensor) -> None:
    """Raise ValueError if a number of a parameter, read from `file`, is none."""
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{file}: {name} holds values that are not finite in float32")


def check_shapes(
    source: Path, model: torch.nn.Module, found: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise ValueError unless `found`, read from `source`, has the names and shapes of `model`."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for problem, names in (
        ("lacks", expected.keys() - found.keys()),
        ("has the unknown", found.keys() - expected.keys()),
    ):
        if names:
            raise ValueError(f"{source} {problem} {', '.join(sorted(names)[:5])[:300]}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise ValueError(f"{source}: {name} is {found[name]}, expected {shape}")


def named_class(folder: Path) -> str:
    """Return the class that a model folder's config names, without importing anything."""
    name = read_json(folder / "config.json").get("_class_name")
    if not isinstance(name, str):
        raise ValueError(f"{folder / 'config.json'} names no class: _class_name is {brief(name)}")
    return name


def empty_model(model_class: type[Model], folder: Path) -> Model:
    """Build what the config describes with no memory for its weights, which may not fit."""
    file, name = folder / "config.json", named_class(folder)
    if name != model_class.__name__:
        raise ValueError(f"{file} describes a {brief(name)}, not a {model_class.__name__}")
    config = read_json(file)
    try:
        whole_number("layers_per_block", config.get("layers_per_block", 1), 1, 64)
        origin = {key: config.pop(key) for key in _ORIGIN if key in config}
        if origin.keys() <= inspect.signature(model_class.__init__).parameters.keys():
            config |= origin
            origin = {}
        with torch.device("meta"):
            model = model_class.from_config(config)
        model.register_to_config(**origin)
        return model
    except Exception as error:  # noqa: BLE001 - wrong values fail in every way there is
        raise ValueError(f"{file} describes no {name}: {in_short(error)}") from error


def has_whole_weights(folder: Path, stem: str, ending: str = "safetensors") -> bool:
    """Tell whether a folder has a part's weights under their plain name, not only a variant's."""
    names = (f"{stem}.{ending}", f"{stem}.{ending}.index.json")
    return any((folder / name).is_file() for name in names)


def weight_files(folder: Path, stem: str, ending: str = "safetensors") -> list[Path]:
    """Return the files of a part's weights: one or, by their index, several.

    They are `stem.ending`, or a variant of it that stands alone, such as `stem.fp16.ending`; none
    where there are none. Raises ValueError for several variants, and for an index that is none.
    """
    # Which parameter an index says is where does not matter: what counts is what shards hold.
    index, file = folder / f"{stem}.{ending}.index.json", folder / f"{stem}.{ending}"
    if index.is_file():
        return _shards(index, ending)
    if file.is_file():
        return [file]
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"{stem}.*")):
        variant = re.escape(f"{stem}.") + r"([\w-]+)" + re.escape(f".{ending}")
        indexed = re.escape(f"{stem}.{ending}.index.") + r"([\w-]+)\.json"
        if match := re.fullmatch(indexed, path.name):
            found[match[1]] = _shards(path, ending)
        elif (match := re.fullmatch(variant, path.name)) and not _SHARD.search(path.name):
            found.setdefault(match[1], [path])
    if len(found) > 1:
        raise ValueError(
            f"{folder} has {file.name} in {len(found)} variants, {', '.join(sorted(found))}: "
            f"rename the one to use to {file.name}"
        )
    shards = [path.name for path in sorted(folder.glob(f"{stem}*")) if _SHARD.search(path.name)]
    if not found and any(name.endswith(f".{ending}") for name in shards):
        raise ValueError(f"{folder} has the shard {shards[0]}, and lacks {index.name}")
    return next(iter(found.values()), [])


def _shards(index: Path, ending: str) -> list[Path]:
    shards = read_json(index).get("weight_map")
    names = list(shards.values()) if isinstance(shards, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ValueError(f"{index} has no weight_map from parameters to files beside it")
    if foreign := sorted(name for name in names if not name.endswith(f".{ending}")):
        raise ValueError(f"{index} names {foreign[0]}, and its shards must be .{ending} files")
    return [index.parent / name for name in sorted(set(names))]


def safetensors_files(folder: Path, stem: str, advice: str) -> list[Path]:
    """Return the files of a part's weights, all there, and all safetensors.

    Raises ValueError where one is not; beside a pickle, with `advice`, what converts that.
    """
    files = weight_files(folder, stem) or [folder / f"{stem}.safetensors"]
    for file in files:
        _require(file, advice)
    return files


def is_pointer(file: Path) -> bool:
    """Tell whether a file only stands for one, until Git LFS fetches that."""
    with file.open("rb") as stream:
        return stream.read(len(_LFS)) == _LFS


def require_here(file: Path) -> None:
    """Raise ValueError if there is no such file, or it only stands for one."""
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    if is_pointer(file):
        raise ValueError(f"{file} is not here yet, but on Git LFS: git lfs pull")


def _require(file: Path, advice: str) -> None:
    pickles = (
        []
        if file.is_file()
        else sorted(
            path.name
            for kind in _PICKLES
            for path in file.parent.glob(f"*{kind}")
            if not path.name.startswith(".")  # macOS writes ._x.bin of an x.bin
        )
    )
    if pickles:
        raise ValueError(
            f"{file.parent} has {pickles[0]}, a pickle, which could run code: {advice}"
        )
    require_here(file)


def _shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    shapes = {}
    try:
        with safe_open(file, "pt") as shard:
            for name in shard.keys():  # noqa: SIM118 - it is no mapping
                tensor = shard.get_slice(name)
                if tensor.get_dtype() not in _FLOATING_POINT:
                    raise ValueError(
                        f"{file}: {name} is {tensor.get_dtype()}, not one of "
                        f"{', '.join(_FLOATING_POINT)}"
                    )
                shapes[current_name(name)] = tuple(tensor.get_shape())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is truncated or damaged: {in_short(error)}") from error
    return shapes


def _tensors_in(file: Path) -> Iterable[tuple[str, Tensor]]:
    with safe_open(file, "pt") as shard:
        for name in shard.keys():  # noqa: SIM118 - it is no mapping
            # A copy, as what is read may be a window onto the file, which can change.
            tensor = shard.get_tensor(name).to(torch.float32, copy=True)
            check_finite(file, name, tensor)
            yield current_name(name), tensor


def current_name(name: str) -> str:
    """Return what a parameter is called today."""
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name
