"""LoRA weights (Hu et al., 2106.09685), added to those of a UNet and of a text encoder."""

import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import USE_PEFT_BACKEND, logging
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPTextModel

from flowturbo_core.checks import brief, in_short, real_number
from flowturbo_core.files import read_json
from flowturbo_core.models.storage import AS_SAFETENSORS, require_here
from flowturbo_core.models.text_encoder import silent

_LARGEST_SCALE = 10
_USUAL_NAME = "pytorch_lora_weights.safetensors"
_PEFT_NAME = "adapter_model.safetensors"
_PEFT_PREFIX, _OLD_TEXT_PREFIX = "base_model.model.", "text_model."
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_FLOAT8 = (
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
)
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, *_FLOAT8)
# Other weights than LoRA's, by a part of their names; other models' LoRAs, by how they begin.
_OTHER_KINDS = {
    "dora_scale": "DoRA weights in kohya's form",
    "hada_": "LoHa weights",
    "lokr_": "LoKr weights",
    "oft_": "OFT weights",
    "ia3_": "IA3 weights",
    "on_input": "IA3 weights",
    "emb_params": "a textual inversion",
}
_OTHER_MODELS = {
    "lora_te2_": "one with two text encoders, as SDXL",
    "text_encoder_2.": "one with two text encoders, as SDXL",
    "lora_unet_input_blocks_": "one whose UNet has input_blocks, as SDXL",
    "lora_unet_double_blocks_": "a transformer, as FLUX",
    "lora_unet_joint_blocks_": "a transformer, as Stable Diffusion 3",
    "lora_transformer_": "a transformer",
    "transformer.": "a transformer, as FLUX or Stable Diffusion 3",
    "diffusion_model.": "one whose network is a diffusion_model",
}
_ADAPTER = "added"
# Of peft's settings. Others would change the base weights, or train along whole layers.
_SETTINGS = (
    "alpha_pattern",
    "exclude_modules",
    "lora_alpha",
    "r",
    "rank_pattern",
    "target_modules",
    "use_dora",
    "use_rslora",
)


class _Loader(StableDiffusionLoraLoaderMixin):
    """The parts of a diffusers pipeline that its loader of LoRA weights needs."""

    hf_device_map: Any = {}  # no part is offloaded

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel):
        self.unet, self.text_encoder = unet, text_encoder


def add_lora(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    folder_or_file: str | Path,
    scale: float = 1.0,
) -> None:
    """Add LoRA weights, times `scale`, to the weights of both models, for good.

    Raises ValueError, naming the file, if it cannot be read or does not fit: both models are then
    as they were.
    """
    files = _find(folder_or_file)
    scale = real_number("scale", scale, -_LARGEST_SCALE, _LARGEST_SCALE)
    if not USE_PEFT_BACKEND:
        raise ValueError(
            "LoRA weights need the package peft: pip install -r requirements-lora.txt "
            "-c constraints.txt"
        )
    models = {"unet": unet, "text_encoder": text_encoder}
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, Any] = {}
    for file in files:
        found, settings = _read(file, models)
        tensors |= found
        metadata |= settings
    loader, trained = _Loader(unet, text_encoder), _list_trained(unet, text_encoder)
    try:
        with _silent():
            _load(loader, tensors, metadata)
            loader.fuse_lora(lora_scale=scale)
    except KeyError as error:  # half of a pair
        raise ValueError(
            f"{files[0]} is no LoRA of this model: it lacks {brief(str(error.args[0]))}"
        ) from error
    except Exception as error:  # noqa: BLE001 - foreign files fail in every way there is
        raise ValueError(f"{files[0]} is no LoRA of this model: {in_short(error)}") from error
    finally:
        with _silent():
            loader.unload_lora_weights()  # what was added before stays in the weights
        for parameter in trained:  # peft froze them
            parameter.requires_grad_(True)


def _find(folder_or_file: object) -> list[Path]:
    """Return the file of a LoRA, or both files if peft wrote one for each model."""
    if not isinstance(folder_or_file, str | Path):
        raise ValueError(f"LoRA weights are a file or a folder, not {brief(folder_or_file)}")
    path = Path(os.path.expanduser(folder_or_file))
    if os.path.isdir(path):  # which takes any text, unlike Path.is_dir
        parts = [path / part / _PEFT_NAME for part in ("unet", "text_encoder")]
        if here := [file for file in parts if file.is_file()]:
            return here
        path = _only_file(path)
    if path.suffix in _PICKLES and os.path.isfile(path):
        raise ValueError(
            f"LoRA weights must be a .safetensors file, and {path} is a pickle, which could run "
            f"code: {AS_SAFETENSORS}"
        )
    if path.suffix != ".safetensors":
        raise ValueError(f"LoRA weights must be a .safetensors file, not {brief(str(path))}")
    if not os.path.isfile(path):
        raise ValueError(f"there is no file {path}")
    require_here(path)
    return [path]


def _only_file(folder: Path) -> Path:
    for name in (_USUAL_NAME, _PEFT_NAME):
        if (folder / name).is_file():
            return folder / name
    # macOS writes ._x of an x.
    files = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".")]
    found = [file for file in files if file.suffix == ".safetensors"]
    pickles = [file for file in files if file.suffix in _PICKLES]
    if not found and len(pickles) == 1:
        return pickles[0]
    if len(found) != 1:
        raise ValueError(
            f"{folder} holds {len(found)} .safetensors files and no {_USUAL_NAME}; name one file"
        )
    return found[0]


def _read(file: Path, models: Mapping[str, nn.Module]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a file by diffusers' names, and the settings that read them.

    Raises ValueError, naming the file, for what diffusers would read wrong, or leave out with a
    warning.
    """
    try:
        with safe_open(file, "pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            header = stored.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is truncated or damaged: {in_short(error)}") from error
    _check_names(file, tensors)
    is_narrow = any(tensor.dtype in _FLOAT8 for tensor in tensors.values())
    if is_narrow and (scales := [name for name in tensors if "scale" in name]):
        raise ValueError(f"{file} holds float8 weights with scales, {scales[0]}, not plain ones")
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATS and tensor.ndim:  # an alpha may be a whole number
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"{file}: {name} is {kind}, and not of floating-point numbers")
    # Of float8, torch has no arithmetic.
    tensors = {n: t.float() if t.dtype in _FLOAT8 else t for n, t in tensors.items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{file}: {name} holds NaN or infinity")
    if all(name.startswith(_PEFT_PREFIX) for name in tensors):
        return _from_peft(file, tensors, models)
    try:
        metadata = json.loads(header.get(LORA_ADAPTER_METADATA_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: its settings are no JSON: {in_short(error)}") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{file}: its settings must be a JSON object, not {brief(metadata)}")
    return tensors, metadata


def _check_names(file: Path, names: Iterable[str]) -> None:
    """Raise ValueError, saying what it is, if a file holds no LoRA of a Stable Diffusion 1."""
    names = list(names)
    if not names:
        raise ValueError(f"{file} holds no tensors")
    for part, kind in _OTHER_KINDS.items():
        if named := [name for name in names if part in name]:
            raise ValueError(f"{file} holds {kind}, {named[0]}; only LoRA weights are read")
    for start, family in _OTHER_MODELS.items():
        if named := [name for name in names if name.startswith(start)]:
            raise ValueError(f"{file} was made for another model, {family}: it holds {named[0]}")


def _from_peft(
    file: Path, tensors: Mapping[str, Tensor], models: Mapping[str, nn.Module]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `_read` does, of a file by peft itself, which has its settings beside it."""
    config = read_json(file.with_name("adapter_config.json"))
    if (kind := config.get("peft_type", "LORA")) != "LORA":
        raise ValueError(f"{file} holds weights of the kind {brief(kind)}; only LoRA's are read")
    paths = {
        name: name.removeprefix(_PEFT_PREFIX).removeprefix(_OLD_TEXT_PREFIX) for name in tensors
    }
    owners = {
        part
        for part, model in models.items()
        if all(
            path.partition(".lora_")[0] in dict(model.named_modules()) for path in paths.values()
        )
    }
    if len(owners) != 1:
        raise ValueError(
            f"{file} is no LoRA of this model: neither its UNet nor its text encoder has all the "
            f"layers that it names, such as {next(iter(paths.values()))}"
        )
    (part,) = owners
    named = {f"{part}.{path}": tensors[name] for name, path in paths.items()}
    return named, {f"{part}.{name}": v for name, v in config.items() if v is not None}


def _list_trained(*models: nn.Module) -> list[nn.Parameter]:
    return [p for model in models for p in model.parameters() if p.requires_grad]


def _load(loader: _Loader, tensors: dict[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Load all tensors as adapters beside the weights. Raises ValueError if a part has no place.

    What it raises else is diffusers' and peft's own.
    """
    tensors, alphas = loader.lora_state_dict(tensors)
    tensors = _scale(tensors, alphas or {})
    # transformers puts a magnitude of DoRA's into its place only under its whole name.
    tensors = {
        re.sub(r"^text_encoder\..*lora_magnitude_vector$", r"\g<0>.weight", name): tensor
        for name, tensor in tensors.items()
    }
    parts = {
        "unet": loader.load_lora_into_unet,
        "text_encoder": loader.load_lora_into_text_encoder,
    }
    owners = [name.partition(".")[0] for name in tensors]
    if foreign := sorted(set(owners) - parts.keys()):
        raise ValueError(f"{foreign[0]} is neither the UNet nor the text encoder")
    for part, load in parts.items():
        model = getattr(loader, part)
        _check_widths(part, model, tensors)
        load(
            tensors,
            **{part: model},
            network_alphas=None,
            adapter_name=_ADAPTER,
            metadata=_settings(metadata, part) or None,
        )
        # By their values: a name that nobody knows may leave a place as it was drawn.
        stored = (t for n, t in tensors.items() if n.startswith(f"{part}."))
        given = Counter(_bytes_of(tensor.to(model.dtype)) for tensor in stored)
        added = (p for n, p in model.named_parameters() if f".{_ADAPTER}" in n)
        placed = Counter(_bytes_of(parameter.to(model.dtype)) for parameter in added)
        if given != placed:
            raise ValueError(
                f"of {given.total()} tensors for the {part}, {(given & placed).total()} have one "
                f"of its {placed.total()} places"
            )


def _check_widths(part: str, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError, naming it, for a layer that takes more or fewer values than the model's."""
    for name, tensor in tensors.items():
        owner, _, path = name.partition(".")
        layer = re.sub(r"\.lora(_A|\.down|_linear_layer\.down)\.weight$", "", path)
        module = dict(model.named_modules()).get(layer) if owner == part and layer != path else None
        weight = getattr(module, "weight", None)
        if weight is not None and weight.ndim == 2 and weight.shape[1] != tensor.shape[1]:
            raise ValueError(
                f"its {layer} takes {tensor.shape[1]} values, and this {part}'s takes "
                f"{weight.shape[1]}"
            )


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _scale(tensors: dict[str, Tensor], alphas: dict[str, float]) -> dict[str, Tensor]:
    """Return the tensors times alpha / rank, a factor that kohya's files keep apart.

    diffusers confuses these factors where a file has several.
    """
    scaled = dict(tensors)
    for name, alpha in alphas.items():
        stem = name.removesuffix(".alpha").removesuffix(".down.weight")
        stem = stem if f"{stem}.down.weight" in tensors else f"{stem}.lora"
        rank = len(tensors[f"{stem}.down.weight"])
        scaled[f"{stem}.up.weight"] = tensors[f"{stem}.up.weight"] * (alpha / rank)
    return scaled


def _settings(metadata: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return what a file says of how its tensors for `part` are to be read, and nothing else."""
    method = metadata.get(f"{part}.init_lora_weights", True)
    if method not in (True, False, None, "gaussian"):
        raise ValueError(f"its weights belong to others, made by {brief(method)}")
    known = {f"{part}.{name}" for name in _SETTINGS}
    return {name: value for name, value in metadata.items() if name in known}


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the libraries' warnings from the terminal: what is wrong is raised."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with silent(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message=".*did not match any targeted module")
            yield
    finally:
        logging.set_verbosity(level)
