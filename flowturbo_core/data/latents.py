"""Encodes pictures into latents once. Every later run reads them from a cache."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.utils.data import DataLoader, Dataset, TensorDataset

from flowturbo_core.models.autoencoder import autoencoder_hash, encode_images, latent_statistics

_TELL_AFTER_S = 20.0


def in_chunks(data: Dataset, count: int, size: int, workers: int) -> Iterator[tuple[range, Any]]:
    """Yield the first `count` of `data` in turn, `size` indices and `data[indices]` at a time."""
    chunks = [range(k, min(k + size, count)) for k in range(0, count, size)]
    loader = DataLoader(data, sampler=chunks, batch_size=None, num_workers=workers)
    yield from zip(chunks, loader, strict=True)


def encoded_once(
    vae: AutoencoderKL,
    pictures: Dataset,
    count: int,
    origin: Sequence[str | int],
    cache: Path,
    workers: int = 1,
    batch_size: int = 64,
) -> TensorDataset:
    """Return the normalised latents (count, C, h, w) float16 of the first `count` pictures.

    `pictures[indices]` is (images, labels): (B, 3, H, W) uint8, and (B,), which come second. The
    file in `cache` is named by what its content depends on (the autoencoder, the count, and
    `origin`, which tells these pictures from all others), and written atomically.
    """
    statistics = [s.flatten().tolist() for s in latent_statistics(vae)]
    key = json.dumps([autoencoder_hash(vae), statistics, *origin, count])
    file = cache / f"latents-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        device, latents, labels = next(vae.parameters()).device, [], []
        told = time.monotonic()
        for chunk, (images, of_images) in in_chunks(pictures, count, batch_size, workers):
            encoded = encode_images(vae, images.to(device).float() / 127.5 - 1)
            latents.append(encoded.half().cpu().numpy())
            labels.append(of_images.numpy())
            if time.monotonic() - told > _TELL_AFTER_S:
                print(f"encoded {chunk.stop} of {count} pictures", flush=True)
                told = time.monotonic()
        partial = file.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as stream:
            np.savez(stream, latents=np.concatenate(latents), labels=np.concatenate(labels))
        os.replace(partial, file)
    with np.load(file) as arrays:
        return TensorDataset(*(torch.from_numpy(arrays[name]) for name in ("latents", "labels")))
