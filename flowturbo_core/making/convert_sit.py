"""Turns released SiT and FlowTurbo checkpoints into model folders.

A released file is a pickle. It is read once, here, with `weights_only=True`, so that no code in
it runs. Its names and shapes are checked before anything is written.
"""

import argparse
import math
import pickle
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from flowturbo_core.checks import brief, in_short
from flowturbo_core.models.autoencoder import (
    PixelUnshuffleAutoencoderKL,
    autoencoder_hash,
    latent_statistics,
)
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.models.storage import (
    WEIGHTS,
    check_finite,
    check_shapes,
    current_name,
    empty_model,
    load_model,
    named_class,
    require_here,
    weight_files,
)
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.pipelines.convention import require_no_noise_predictor

RELEASED_GUIDED_CHANNELS = 3  # of four: see guidance.PartialGuidance

# The names under which trainings nest averaged weights and trained ones, and the greatest depth.
_AVERAGED = ("ema", "params_ema", "model_ema", "ema_model", "ema_state_dict")
_AS_TRAINED = ("model", "state_dict", "model_state_dict", "params", "module")
_DEEPEST = 4
# What DataParallel, torch.compile and Lightning put before every name, in any order; and what
# torch's AveragedModel adds.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_AVERAGES_COUNTED = "n_averaged"
# What a part's pickles are called, without their ending.
PICKLED = (WEIGHTS, "pytorch_model")


def convert_sit(
    predictor_file: Path,
    vae_folder: Path,
    num_heads: int,
    output: Path,
    refiner_file: Path | None = None,
    raw: bool = False,
) -> ClassConditionalPipeline:
    """Write a `ClassConditionalPipeline` folder from released checkpoints, and return it.

    The shapes tell depth, width, patch size, latent size and the number of classes, but not the
    number of heads. A training checkpoint (a dict with `ema` and `model`) gives its averaged
    weights, or with `raw` the others.

    The `doubts` of the pipeline are what one evaluation makes doubtful. Raises ValueError, naming
    the file, for anything but a whole SiT checkpoint, such as a DiT's, and for an output folder
    that is not empty.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} holds something already; --output must be a new folder")
    vae = _load_autoencoder(vae_folder)
    mean, std = (s.flatten().tolist() for s in latent_statistics(vae))
    trained_on = {
        "guided_channels": RELEASED_GUIDED_CHANNELS,
        "latents_mean": mean,
        "latents_std": std,
        "autoencoder_hash": autoencoder_hash(vae),
    }
    predictor = _convert(predictor_file, SiTPredictor, num_heads, raw, 1, trained_on)
    refiner = None
    if refiner_file is not None:
        refiner = _convert(refiner_file, SiTRefiner, num_heads, raw, 2, {"variant": "released"})
    names = [f"class {k}" for k in range(predictor.config.num_classes)]
    pipeline = ClassConditionalPipeline(
        predictor, vae, names, refiner, "H8" if refiner is None else "H1P5R3"
    )
    require_no_noise_predictor(
        predictor_file, predictor, pipeline.latent_shape, pipeline.no_condition()
    )
    pipeline.doubts = pipeline.measure_doubts()
    pipeline.save_pretrained(output)
    return pipeline


def _load_autoencoder(folder: Path) -> AutoencoderKL:
    """Load an autoencoder from its folder, of safetensors or of pickles."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; --vae is the folder of an autoencoder")
    if not (folder / "config.json").is_file() and (folder / "vae" / "config.json").is_file():
        raise ValueError(f"{folder} is a whole model; name its autoencoder, {folder / 'vae'}")
    kinds = {c.__name__: c for c in (AutoencoderKL, PixelUnshuffleAutoencoderKL)}
    kind = named_class(folder)
    if kind not in kinds:
        raise ValueError(f"{folder} holds a {kind}; allowed are {', '.join(kinds)}")
    if weight_files(folder, WEIGHTS) or not (state := read_pickles(folder)):
        return load_model(kinds[kind], folder)
    vae = empty_model(kinds[kind], folder)
    state = {current_name(name): tensor for name, tensor in state.items()}
    check_shapes(folder, vae, {name: tuple(tensor.shape) for name, tensor in state.items()})
    vae.load_state_dict(_in_float32(folder, state), assign=True)
    return vae.eval()


def read_pickles(folder: Path, passed_over: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return the weights in the pickles of a part; empty if it has none.

    Names in `passed_over` are left out. Raises ValueError as `read_checkpoint` does.
    """
    files = next(filter(None, (weight_files(folder, stem, "bin") for stem in PICKLED)), [])
    weights: dict[str, Tensor] = {}
    for file in files:
        found = read_checkpoint(file, passed_over=passed_over)
        if twice := sorted(found.keys() & weights.keys()):
            raise ValueError(f"{file} holds {twice[0]}, which another shard holds too")
        weights |= found
    return weights


def read_checkpoint(
    file: Path, raw: bool = False, passed_over: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Return the state dict in a released checkpoint, without running any code in the file.

    The dict may be nested, as trainings save it. Averaged weights are preferred, or with `raw` the
    others. Prefixes that wrappers put before every name are removed. Names in `passed_over` are
    left out. Raises ValueError, naming the file, if it is missing, truncated, no checkpoint, or a
    pickle of anything but tensors, containers and an `argparse.Namespace`.
    """
    content, taken = _unwrap(_content_of(file), raw)
    if raw and not taken:
        raise ValueError(f"{file}: --raw needs a checkpoint with ema and model")
    if raw and (averaged := set(taken) & set(_AVERAGED)):
        raise ValueError(f"{file} has no 'model' weights, only {sorted(averaged)}")
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(v, Tensor) for name, v in content.items()
    ):
        raise ValueError(f"{file} does not hold a state dict, a mapping of names to tensors")
    weights = {
        name: tensor
        for name, tensor in _without_prefixes(content).items()
        if name not in passed_over
    }
    for name, tensor in weights.items():
        _check_plain(f"{file}: {name[:100]}", tensor)
    return weights


def _content_of(file: Path) -> Any:
    """Return what a pickle or a safetensors file holds. Raises ValueError, naming the file."""
    if file.is_dir():
        raise ValueError(f"{file} is a folder; name a checkpoint in it")
    require_here(file)
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is truncated or damaged: {in_short(error)}") from error
    try:
        with (
            torch.serialization.safe_globals([argparse.Namespace]),
            warnings.catch_warnings(action="ignore"),  # of a file that is refused, one sentence
        ):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it wants to run {wanted[1]}" if wanted else "it is damaged or holds code"
        raise ValueError(
            f"{file} is refused: it is not a checkpoint of plain tensors, {reason}"
        ) from error
    except Exception as error:  # noqa: BLE001 - a damaged pickle fails in every way there is
        raise ValueError(
            f"{file} is truncated or not a checkpoint: {' '.join(str(error).split())[:160]}"
        ) from error


def _unwrap(content: Any, raw: bool) -> tuple[Any, list[str]]:
    """Return the innermost weights of nested ones, and the names that led there."""
    taken: list[str] = []
    first, second = (_AS_TRAINED, _AVERAGED) if raw else (_AVERAGED, _AS_TRAINED)
    while isinstance(content, dict) and len(taken) < _DEEPEST:
        inner = (
            name
            for name in (*first, *second)
            if name in content and not isinstance(content[name], Tensor)
        )
        if (name := next(inner, None)) is None:
            break
        taken.append(name)
        content = content[name]
    return content, taken


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the prefixes that wrappers put before all of its names."""
    state = {name: tensor for name, tensor in state.items() if name != _AVERAGES_COUNTED}
    while state:
        common = [prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in state)]
        if not common:
            break
        state = {name.removeprefix(common[0]): tensor for name, tensor in state.items()}
    return state


def infer_config(state: dict[str, Tensor], input_multiple: int) -> dict[str, Any]:
    """Read off the shapes of a SiT's state dict what its config must be, but for its heads.

    `input_multiple` is how many times the latents' channels its input has: 1 or, for a refiner,
    2. Raises ValueError, naming it, if a parameter that tells is missing or malformed.
    """
    embed = _require_tensor(state, "x_embedder.proj.weight", 4)  # (width, channels, patch, patch)
    positions = _require_tensor(state, "pos_embed", 3)  # (1, tokens, width)
    table = _require_tensor(state, "y_embedder.embedding_table.weight", 2)  # (classes + 1, width)
    outputs = _require_tensor(state, "final_layer.linear.weight", 2)  # (patch^2 outputs, width)
    hidden = _require_tensor(state, "blocks.0.mlp.fc1.weight", 2)  # (ratio width, width)
    width, inputs, patch = embed.shape[0], embed.shape[1], embed.shape[2]
    side = math.isqrt(positions.shape[1])
    if table.shape[0] < 2:
        raise ValueError("y_embedder.embedding_table.weight has a row for no class, and no other")
    blocks = {m[1] for name in state if (m := re.match(r"blocks\.(\d+)\.", name))}
    channels = inputs // input_multiple
    if inputs % input_multiple or side**2 != positions.shape[1]:
        raise ValueError(f"{inputs} input channels on {positions.shape[1]} tokens are not a SiT's")
    return {
        "sample_size": side * patch,
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": width,
        "depth": len(blocks),
        "mlp_ratio": hidden.shape[0] / width,
        "num_classes": table.shape[0] - 1,
        "learn_sigma": outputs.shape[0] == 2 * channels * patch**2,
    }


def _convert(
    file: Path,
    model_class: type,
    num_heads: int,
    raw: bool,
    input_multiple: int,
    extra: dict[str, Any],
) -> Any:
    state = read_checkpoint(file, raw)
    try:
        config = infer_config(state, input_multiple)
        with torch.device("meta"):  # no memory before the shapes are known to fit
            model = model_class(**config, num_heads=num_heads, **extra)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    check_shapes(file, model, {name: tuple(tensor.shape) for name, tensor in state.items()})
    model.load_state_dict(_in_float32(file, state), assign=True)
    return model.eval()


def _in_float32(source: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    # Clones, as a checkpoint may hold one piece of memory under two names.
    state = {
        name: tensor.float().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    for name, tensor in state.items():
        check_finite(source, name, tensor)
    return state


def _check_plain(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless every number of a tensor is a float, and there, in memory."""
    is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not is_plain or not tensor.is_floating_point():
        raise ValueError(
            f"{name} must be a dense floating point tensor on the CPU, not {tensor.dtype}, "
            f"{tensor.layout}, {tensor.device}"
        )
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise ValueError(f"{name} is {tuple(tensor.shape)}, more numbers than the file holds")


def _require_tensor(state: dict[str, Tensor], name: str, dimensions: int) -> Tensor:
    if name not in state:
        longer = next((item for item in state if item.endswith(f".{name}")), None)
        if longer is not None:
            raise ValueError(
                f"{name} is missing, and there is {brief(longer)}: save the SiT's own state dict"
            )
        raise ValueError(f"{name} is missing: this is not a SiT checkpoint")
    if state[name].ndim != dimensions or 0 in state[name].shape:
        raise ValueError(f"{name} has shape {tuple(state[name].shape)}, not a SiT's")
    return state[name]
