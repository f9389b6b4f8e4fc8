"""LoRA weights (Hu et al., 2106.09685), added to those of a UNet and of a text encoder."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import USE_PEFT_BACKEND, logging
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPTextModel

from flowturbo_core.models.catalog import in_short
from flowturbo_core.models.text_encoder import silent
from flowturbo_core.requests import brief, real_number

_LARGEST_SCALE = 10
_USUAL_NAME = "pytorch_lora_weights.safetensors"
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
    """As much of a diffusers pipeline as its loader of LoRA weights looks at."""

    hf_device_map: Any = {}  # which is how it is told that no part is offloaded

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
    file = _find(folder_or_file)
    scale = real_number("scale", scale, -_LARGEST_SCALE, _LARGEST_SCALE)
    if not USE_PEFT_BACKEND:
        raise ValueError(
            "LoRA weights need the package peft: pip install -r requirements-lora.txt "
            "-c constraints.txt"
        )
    _check_tensors(file)
    loader, trained = _Loader(unet, text_encoder), _trained(unet, text_encoder)
    try:
        with _silent():
            _load(loader, file)
            loader.fuse_lora(lora_scale=scale)
    except Exception as error:  # noqa: BLE001 - foreign files fail in every way there is
        raise ValueError(f"{file} is no LoRA of this model: {in_short(error)}") from error
    finally:
        with _silent():
            loader.unload_lora_weights()  # what was added before stays in the weights
        for parameter in trained:  # peft froze them
            parameter.requires_grad_(True)


def _find(folder_or_file: object) -> Path:
    if not isinstance(folder_or_file, str | Path):
        raise ValueError(f"LoRA weights are a file or a folder, not {brief(folder_or_file)}")
    path = Path(folder_or_file)
    if os.path.isdir(path):  # which takes any text, unlike Path.is_dir
        usual = path / _USUAL_NAME
        found = [usual] if usual.is_file() else sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise ValueError(
                f"{path} holds {len(found)} .safetensors files and no {_USUAL_NAME}; name one file"
            )
        path = found[0]
    if path.suffix != ".safetensors":
        raise ValueError(f"LoRA weights must be a .safetensors file, not {brief(str(path))}")
    if not os.path.isfile(path):
        raise ValueError(f"there is no file {path}")
    return path


def _check_tensors(file: Path) -> None:
    """Raise ValueError for what diffusers would read wrong, or leave out with a warning."""
    try:
        with safe_open(file, "pt") as tensors:
            names = list(tensors.keys())
            if not names:
                raise ValueError(f"{file} holds no tensors")
            for name in names:
                if "dora_scale" in name:
                    raise ValueError(f"{file} holds DoRA weights in kohya's form, {name}")
                if not torch.isfinite(tensors.get_tensor(name)).all():
                    raise ValueError(f"{file}: {name} holds NaN or infinity")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is truncated or damaged: {in_short(error)}") from error


def _trained(*models: nn.Module) -> list[nn.Parameter]:
    return [p for model in models for p in model.parameters() if p.requires_grad]


def _load(loader: _Loader, file: Path) -> None:
    """Load all of a file as adapters beside the weights. Raises ValueError if a part has no place.

    What it raises else is diffusers' and peft's own.
    """
    tensors, alphas, metadata = loader.lora_state_dict(
        str(file.parent),
        weight_name=file.name,
        use_safetensors=True,
        local_files_only=True,
        return_lora_metadata=True,
    )
    tensors = _scaled(tensors, alphas or {})
    parts = {
        "unet": loader.load_lora_into_unet,
        "text_encoder": loader.load_lora_into_text_encoder,
    }
    owners = [name.partition(".")[0] for name in tensors]
    if foreign := sorted(set(owners) - parts.keys()):
        raise ValueError(f"{foreign[0]} is neither the UNet nor the text encoder")
    for part, load in parts.items():
        model, expected = getattr(loader, part), owners.count(part)
        load(
            tensors,
            **{part: model},
            network_alphas=None,
            adapter_name=_ADAPTER,
            metadata=_settings(metadata or {}, part) or None,
        )
        found = sum(f".{_ADAPTER}" in name for name, _ in model.named_parameters())
        if found != expected:
            raise ValueError(f"of {expected} tensors for the {part}, {found} have a place in it")


def _scaled(tensors: dict[str, Tensor], alphas: dict[str, float]) -> dict[str, Tensor]:
    """Return the tensors with the factors alpha / rank in them that kohya's files have apart.

    diffusers takes one for another where a file has several.
    """
    scaled = dict(tensors)
    for name, alpha in alphas.items():
        stem = name.removesuffix(".alpha").removesuffix(".down.weight")
        stem = stem if f"{stem}.down.weight" in tensors else f"{stem}.lora"
        rank = len(tensors[f"{stem}.down.weight"])
        scaled[f"{stem}.up.weight"] = tensors[f"{stem}.up.weight"] * (alpha / rank)
    return scaled


def _settings(metadata: dict[str, Any], part: str) -> dict[str, Any]:
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
