"""Encodes pictures into latents once. Every later run reads them from a cache."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.utils.data import Dataset, TensorDataset

from flowturbo_core.data.scenes import Scenes
from flowturbo_core.data.workers import read_batches
from flowturbo_core.files import read_arrays, save_arrays
from flowturbo_core.models.autoencoder import autoencoder_hash, encode_images, latent_statistics

_TELL_AFTER_S = 20.0
_NAMES = ("latents", "labels")


def in_chunks(data: Dataset, count: int, size: int, workers: int) -> Iterator[tuple[range, Any]]:
    """Yield the first `count` of `data` in turn, `size` indices and `data[indices]` at a time."""
    chunks = _chunks(count, size)
    yield from zip(chunks, read_batches(data, chunks, workers), strict=True)


def encoded_once(
    vae: AutoencoderKL,
    pictures: Dataset,
    count: int,
    origin: Sequence[str | int],
    cache: Path,
    workers: int = 1,
    batch_size: int = 64,
    origin_of: Callable[[Sequence[int]], str] | None = None,
) -> TensorDataset:
    """Return the normalised latents (count, C, h, w) float16 of the first `count` pictures.

    `pictures[indices]` is (images, labels): (B, 3, H, W) uint8, and (B,), which come second. The
    file in `cache` is named by what its content depends on (the autoencoder, the count, and
    `origin`, which tells these pictures from all others), and written whole. Until it is, every
    batch is kept beside it: a run that broke off at a picture that cannot be read goes on from
    there. `origin_of` tells the pictures of a batch from all others, so that those before one that
    is repaired, or taken away, are not encoded again; None where `origin` does.
    """
    statistics = [s.flatten().tolist() for s in latent_statistics(vae)]
    about = [autoencoder_hash(vae), statistics]
    file = cache / f"latents-{_key([*about, *origin, count])}.npz"
    if not file.exists():
        if origin_of is not None:
            origin = ()
        parts = cache / f"latents-{_key([*about, *origin, batch_size])}.parts"
        device = next(vae.parameters()).device

        def encode(images: torch.Tensor, labels: torch.Tensor) -> dict[str, np.ndarray]:
            encoded = encode_images(vae, images.to(device).float() / 127.5 - 1)
            return dict(zip(_NAMES, (encoded.half().cpu().numpy(), labels.numpy()), strict=True))

        chunks = _chunks(count, batch_size)
        keys = [[its.start, len(its), origin_of and origin_of(its)] for its in chunks]
        files = [parts / f"{_key(key)}.npz" for key in keys]
        missing = [k for k, its in enumerate(files) if read_arrays(its) is None]
        batches = read_batches(pictures, [chunks[k] for k in missing], workers)
        told = time.monotonic()
        for k, batch in zip(missing, batches, strict=True):
            save_arrays(encode(*batch), files[k])
            if time.monotonic() - told > _TELL_AFTER_S:
                print(f"encoded {chunks[k].stop} of {count} pictures", flush=True)
                told = time.monotonic()
        found = [read_arrays(its) for its in files]
        if not file.exists():  # another process may have been faster, and removed the parts
            arrays = {name: np.concatenate([its[name] for its in found]) for name in _NAMES}
            save_arrays(arrays, file)
        shutil.rmtree(parts, ignore_errors=True)
    with np.load(file) as arrays:
        return TensorDataset(*(torch.from_numpy(arrays[name]) for name in _NAMES))


def _chunks(count: int, size: int) -> list[range]:
    return [range(k, min(k + size, count)) for k in range(0, count, size)]


def _key(content: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def cached_latents(
    vae: AutoencoderKL, first_seed: int, count: int, cache: Path, workers: int = 1
) -> TensorDataset:
    """Return the normalised latents (count, C, h, w) float16 of `count` scenes, and their labels.

    Scenes are drawn and encoded once (`encoded_once`). The cache's key includes the pixels of
    eight scenes, so a change of the drawing makes a new cache.
    """
    scenes = Scenes(first_seed)
    look = hashlib.sha256(scenes[range(8)][0].numpy().tobytes()).hexdigest()
    return encoded_once(vae, scenes, count, [look, first_seed], cache, workers)
