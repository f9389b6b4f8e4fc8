"""CLIP text encoders and tokenizers as parts of a model folder, and texts turned into tokens."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging

from flowturbo_core.models.catalog import in_short, read_json

_WEIGHTS = "model.safetensors"


def load_text_encoder(folder: Path) -> CLIPTextModel:
    """Load a CLIPTextModel from a transformers folder, in float32 and evaluation mode.

    Raises ValueError, naming the folder and what is wrong with it.
    """
    config = read_json(folder / "config.json")
    if config.get("model_type") != "clip_text_model":
        raise ValueError(f"{folder / 'config.json'} describes no CLIPTextModel")
    if not any((folder / name).is_file() for name in (_WEIGHTS, f"{_WEIGHTS}.index.json")):
        raise ValueError(f"there is no file {folder / _WEIGHTS}")
    try:
        with _silent():
            model, found = CLIPTextModel.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except Exception as error:  # noqa: BLE001 - wrong files fail in every way there is
        raise ValueError(f"{folder} holds no CLIPTextModel: {in_short(error)}") from error
    for problem, key in (("lacks", "missing_keys"), ("has the unknown", "unexpected_keys")):
        if found[key]:
            raise ValueError(f"{folder} {problem} {', '.join(sorted(found[key])[:5])[:300]}")
    return model.eval()


def save_text_encoder(text_encoder: CLIPTextModel, folder: Path) -> None:
    """Write a text encoder as a transformers folder, in the number format that it has."""
    folder.mkdir(parents=True, exist_ok=True)
    with _silent():
        text_encoder.save_pretrained(folder)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Load a CLIPTokenizer from its folder. Raises ValueError, naming it, if it holds none."""
    if not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        raise ValueError(f"there is no file {folder / 'vocab.json'}")
    try:
        with _silent():
            return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - wrong files fail in every way there is
        raise ValueError(f"{folder} holds no CLIPTokenizer: {in_short(error)}") from error


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a tokenizer as Stable Diffusion's folders have it: vocabulary and merges."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.json").unlink(missing_ok=True)
    tokenizer.backend_tokenizer.model.save(str(folder))


def window(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> int:
    """Return how many tokens a text is cut or padded to, its start and end included."""
    return min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)


def tokens_of(texts: Sequence[str], tokenizer: CLIPTokenizer, length: int) -> Tensor:
    """Return the tokens (B, length) of texts, cut or padded to `length`."""
    encoded = tokenizer(
        list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    return encoded.input_ids


def cut_off(text: str, tokenizer: CLIPTokenizer, length: int) -> str:
    """Return the end of `text` that does not fit into `length` tokens; empty if all of it fits."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    rest = encoded["offset_mapping"][length - 2 :]  # beside the start and the end
    return text[rest[0][0] :] if rest else ""


def embed(text_encoder: CLIPTextModel, tokens: Tensor) -> Tensor:
    """Return the embeddings (B, length, width) of tokens (B, length), as Stable Diffusion's."""
    return text_encoder(input_ids=tokens.to(text_encoder.device)).last_hidden_state


@contextmanager
def _silent() -> Iterator[None]:
    """Keep transformers' bars and warnings from the terminal: what is wrong is raised."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
