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
    """Yield `indices` and `data[indices]` in turn, `size` at a time, up to `count`."""
    chunks = _chunks(count, size)
    yield from zip(chunks, read_batches(data, chunks, workers), strict=True)


def encode_once(
    vae: AutoencoderKL,
    pictures: Dataset,
    count: int,
    origin: Sequence[str | int],
    cache: Path,
    workers: int = 1,
    batch_size: int = 64,
    origin_of: Callable[[Sequence[int]], str] | None = None,
) -> TensorDataset:
    """Return the latents of the first `count` pictures, and their labels; encode them only once.

    A file in `cache` keeps the result. Until it is written, every batch is kept beside it, so that
    a run that broke off at an unreadable picture goes on from there.

    Args:
        vae: the autoencoder.
        pictures: `pictures[indices]` is (images, labels), (B, 3, H, W) uint8 and (B,).
        count: how many pictures are encoded.
        origin: tells these pictures from all others. The file is named by it, by the autoencoder
            and by the count.
        cache: the folder of such files.
        workers: processes that read pictures.
        batch_size: pictures encoded together.
        origin_of: tells the pictures of a batch from all others. With it, a picture that is
            repaired or taken away leaves the batches before it valid. None leaves it to `origin`.

    Returns normalised latents (count, C, h, w), float16, and labels (count,).
    """
    statistics = [s.flatten().tolist() for s in latent_statistics(vae)]
    about = [autoencoder_hash(vae), statistics]
    file = cache / f"latents-{_key([*about, *origin, count])}.npz"
    if not file.exists():
        if origin_of is not None:
            origin = ()
        parts = cache / f"latents-{_key([*about, *origin, batch_size])}.parts"
        chunks = _chunks(count, batch_size)
        keys = [[item.start, len(item), origin_of and origin_of(item)] for item in chunks]
        files = [parts / f"{_key(key)}.npz" for key in keys]
        _encode_missing(vae, pictures, chunks, files, workers)
        found = [read_arrays(item) for item in files]
        if not file.exists():  # another process may have been faster, and removed the parts
            arrays = {name: np.concatenate([item[name] for item in found]) for name in _NAMES}
            save_arrays(arrays, file)
        shutil.rmtree(parts, ignore_errors=True)
    with np.load(file) as arrays:
        return TensorDataset(*(torch.from_numpy(arrays[name]) for name in _NAMES))


def _encode_missing(
    vae: AutoencoderKL,
    pictures: Dataset,
    chunks: Sequence[range],
    files: Sequence[Path],
    workers: int,
) -> None:
    """Encode and save the chunks of the pictures whose files are missing or damaged."""
    device = next(vae.parameters()).device
    missing = [k for k, file in enumerate(files) if read_arrays(file) is None]
    batches = read_batches(pictures, [chunks[k] for k in missing], workers)
    told = time.monotonic()
    for k, (images, labels) in zip(missing, batches, strict=True):
        encoded = encode_images(vae, images.to(device).float() / 127.5 - 1).half().cpu()
        save_arrays(dict(zip(_NAMES, (encoded.numpy(), labels.numpy()), strict=True)), files[k])
        if time.monotonic() - told > _TELL_AFTER_S:
            print(f"encoded {chunks[k].stop} of {chunks[-1].stop} pictures", flush=True)
            told = time.monotonic()


def _chunks(count: int, size: int) -> list[range]:
    return [range(k, min(k + size, count)) for k in range(0, count, size)]


def _key(content: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def encode_scenes(
    vae: AutoencoderKL, first_seed: int, count: int, cache: Path, workers: int = 1
) -> TensorDataset:
    """Return the normalised latents (count, C, h, w) float16 of `count` scenes, and their labels.

    Scenes are drawn and encoded once (`encode_once`). The cache's key includes the pixels of
    eight scenes, so a change of the drawing makes a new cache.
    """
    scenes = Scenes(first_seed)
    look = hashlib.sha256(scenes[range(8)][0].numpy().tobytes()).hexdigest()
    return encode_once(vae, scenes, count, [look, first_seed], cache, workers)
