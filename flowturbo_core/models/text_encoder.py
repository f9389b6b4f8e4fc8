"""CLIP text encoders and tokenizers as parts of a model folder, and texts turned into tokens."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging

from flowturbo_core.checks import brief, in_short, whole_number
from flowturbo_core.files import read_json, write_json
from flowturbo_core.models.storage import (
    AS_SAFETENSORS,
    check_finite,
    check_shapes,
    safetensors_files,
)

WEIGHTS = "model"  # without the ending
# What is read of a text encoder's config. Of the rest, some would have transformers look for code
# or files elsewhere: attention kernels, quantization, adapters.
_SETTINGS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
    "initializer_range",
    "initializer_factor",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
# What transformers writes beside a tokenizer's own settings.
_HOW_IT_WAS_LOADED = ("is_local", "local_files_only", "truncation_side")
# In older files every name begins so, and the positions are stored, which are only 0, 1, 2, ...
PREFIX, POSITIONS = "text_model.", "embeddings.position_ids"


def load_text_encoder(folder: Path, advice: str = AS_SAFETENSORS) -> CLIPTextModel:
    """Load a CLIPTextModel from a transformers folder, in float32 and evaluation mode.

    Raises ValueError, naming the folder and what is wrong with it; of a pickle, with `advice` what
    to do.
    """
    file = folder / "config.json"
    content = read_json(file)
    if content.get("model_type") != "clip_text_model":
        raise ValueError(f"{file} describes no CLIPTextModel")
    tensors: dict[str, Tensor] = {}
    for shard in safetensors_files(folder, WEIGHTS, advice):
        _add_tensors(tensors, shard)
    try:
        whole_number("num_hidden_layers", content.get("num_hidden_layers", 12), 1, 64)
        settings = {name: content[name] for name in _SETTINGS if name in content}
        with silent(), torch.device("meta"):
            config = CLIPTextConfig(**settings)
            expected = CLIPTextModel(config)
    except Exception as error:  # noqa: BLE001 - wrong values fail in every way there is
        raise ValueError(f"{file} describes no CLIPTextModel: {in_short(error)}") from error
    known = {name.removeprefix(PREFIX): name for name in expected.state_dict()}
    state = {known.get(name, name): tensor for name, tensor in tensors.items()}
    check_shapes(folder, expected, {name: tuple(tensor.shape) for name, tensor in state.items()})
    with silent():
        model = CLIPTextModel.from_pretrained(None, config=config, state_dict=state)
    return model.eval()


def _add_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """Add the parameters in a file to `tensors`, in float32, by their names of today."""
    try:
        found = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is truncated or damaged: {in_short(error)}") from error
    for name, tensor in found.items():
        current = name.removeprefix(PREFIX)
        if current == POSITIONS:
            continue
        if not tensor.is_floating_point():
            raise ValueError(f"{file}: {name} is {tensor.dtype}, which no parameter is")
        if current in tensors:
            raise ValueError(f"{file} holds {current} twice, under two names or in two shards")
        # A copy, as what is read may be a window onto the file, which can change.
        tensors[current] = tensor.to(torch.float32, copy=True)
        check_finite(file, name, tensors[current])


def save_text_encoder(text_encoder: CLIPTextModel, folder: Path) -> None:
    """Write a text encoder as a transformers folder, in the number format that it has."""
    folder.mkdir(parents=True, exist_ok=True)
    with silent():
        text_encoder.save_pretrained(folder)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Load a CLIPTokenizer from its folder. Raises ValueError, naming it, if it holds none."""
    if not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        raise ValueError(f"there is no file {folder / 'vocab.json'}")
    try:
        with silent():
            tokenizer = CLIPTokenizer.from_pretrained(
                folder, local_files_only=True, truncation_side="right"
            )
        _check_words(tokenizer)
        tokens_of(["", "a"], tokenizer, 8)
    except Exception as error:  # noqa: BLE001 - wrong files fail in every way there is
        raise ValueError(f"{folder} holds no CLIPTokenizer: {in_short(error)}") from error
    return tokenizer


def _check_words(tokenizer: CLIPTokenizer) -> None:
    """Raise ValueError unless merges make every word of the vocabulary, as those of CLIP's do.

    With fewer, as a file that was cut short has, texts get other tokens than in training.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    made = {"".join(merge) for merge in model["merges"]}
    alone = {word for word in model["vocab"] if len(word.removesuffix("</w>")) == 1}
    words = model["vocab"].keys() - alone - tokenizer.added_tokens_encoder.keys()
    if missing := sorted(words - made):
        raise ValueError(
            f"no merges make {len(missing)} words of its vocabulary, such as {brief(missing[0])}"
        )


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a tokenizer as Stable Diffusion's folders have it: vocabulary and merges.

    What was added to the vocabulary is in added_tokens.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with silent():
        tokenizer.save_pretrained(folder)
    for name in ("tokenizer.json", "added_tokens.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    kept = {name: value for name, value in config.items() if name not in _HOW_IT_WAS_LOADED}
    write_json(kept, file)
    tokenizer.backend_tokenizer.model.save(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    added = {
        word: number
        for word, number in tokenizer.get_added_vocab().items()
        if word not in vocabulary
    }
    if added:
        write_json(added, folder / "added_tokens.json")


def window(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> int:
    """Return how many tokens a text is cut or padded to, its start and end included."""
    return int(min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings))


def tokens_of(texts: Sequence[str], tokenizer: CLIPTokenizer, length: int) -> Tensor:
    """Return the tokens (B, length) of texts, cut or padded to `length`."""
    encoded = tokenizer(
        list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    return encoded.input_ids


def cut_off(text: str, tokenizer: CLIPTokenizer, length: int) -> str:
    """Return the end of `text` that does not fit into `length` tokens; empty if all of it fits.

    It sets the tokenizer to cut nothing. So `tokens_of`, on another thread, needs another one.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    rest = encoded["offset_mapping"][length - 2 :]  # beside the start and the end
    return text[rest[0][0] :] if rest else ""


def embed(text_encoder: CLIPTextModel, tokens: Tensor) -> Tensor:
    """Return the embeddings (B, length, width) of tokens (B, length), as Stable Diffusion's."""
    tokens = tokens.to(text_encoder.device)
    return text_encoder(input_ids=tokens, return_dict=True).last_hidden_state


@contextmanager
def silent() -> Iterator[None]:
    """Keep transformers' bars and warnings from the terminal; errors are still raised."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
