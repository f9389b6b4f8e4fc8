"""Reading and writing models as diffusers folders: safetensors only, every failure a sentence."""

import copy
import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from safetensors import SafetensorError, safe_open

# Of the weights that ship: a repository of small files stays easy to push and to fetch.
_SHIPPED_SHARD_SIZE = "9MB"

Model = TypeVar("Model", bound=ModelMixin)


def save_model(model: ModelMixin, folder: Path, **options: Any) -> None:
    """Save `model` as a diffusers folder, in the number format that it has."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.safetensors*"):  # another number of shards would leave some
        stale.unlink()
    model.save_pretrained(folder, **options)


def save_trained(model: ModelMixin, folder: Path, record: dict[str, Any]) -> None:
    """Save a model as it ships: float16, in small shards, with the record of its training."""
    save_model(copy.deepcopy(model).half(), folder, max_shard_size=_SHIPPED_SHARD_SIZE)
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of a model's training: `runs`, first to last; empty where it has none."""
    file = folder / "training.json"
    return json.loads(file.read_text()) if file.exists() else {"runs": []}


def load_model(model_class: type[Model], folder: Path) -> Model:
    """Load a `model_class` from a diffusers folder, in float32 and evaluation mode.

    Raises ValueError, naming the folder and what is wrong with it: a missing config or shard,
    a truncated or foreign one, parameters that are missing, left over or of another shape.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a model folder: it has no config.json")
    try:
        model, info = model_class.from_pretrained(
            folder,
            torch_dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (OSError, SafetensorError, ValueError, RuntimeError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"the weights in {folder} cannot be loaded: {reason}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            raise ValueError(
                f"the weights in {folder} do not fit its config: {problem.replace('_', ' ')} "
                f"{', '.join(sorted(map(str, info[problem])))[:300]}"
            )
    # diffusers believes the index of a sharded model; what counts is what the shards hold.
    held = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as shard:
            held += shard.keys()
    expected = set(model.state_dict())
    for problem, names in (
        ("lack", expected - set(held)),
        ("have the unknown", set(held) - expected),
        ("hold twice", {name for name in held if held.count(name) > 1}),
    ):
        if names:
            raise ValueError(f"the weights in {folder} {problem} {', '.join(sorted(names))[:300]}")
    return model.eval()


def named_class(folder: Path) -> str:
    """Return the class that a model folder's config names, without importing anything."""
    try:
        return str(json.loads((folder / "config.json").read_text())["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is not a model folder: config.json: {error}") from error
