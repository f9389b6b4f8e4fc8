"""Postcards as torch data sets: scenes drawn on demand, and the latents of many, cached once."""

import hashlib
import json
import os
from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from flowturbo_core.data.postcards import Scene, postcard
from flowturbo_core.images import from_pil
from flowturbo_core.models.autoencoder import autoencoder_hash, encode_images, latent_statistics
from flowturbo_core.models.evaluator import ATTRIBUTES, NOTHING

# Scenes from here on are shown on sheets and measured on; no training reaches so far.
SHEET_SEED = 2_000_000_000


class Scenes(Dataset):
    """The endless postcards from `first_seed` on, taken a batch at a time.

    `scenes[indices]` is (images, labels): (B, 3, 128, 128) uint8, and (B,) indices into
    `postcards.CLASSES`. Held-out combinations are never drawn.
    """

    def __init__(self, first_seed: int):
        self.first_seed = first_seed

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        drawn = [postcard(self.first_seed + index) for index in indices]
        labels = torch.tensor([scene.label for _, scene, _ in drawn])
        return from_pil([picture for picture, _, _ in drawn]), labels


class AttributedScenes(Dataset):
    """The endless postcards from `first_seed` on, each with all that an evaluator tells of it.

    `scenes[indices]` is (images, attributes): (B, 3, 128, 128) uint8, and (B, 4) indices into the
    names of each of `ATTRIBUTES`, NOTHING where a background has none. As it stands, every
    combination is drawn, the held-out ones too: what judges must know what it is shown.
    """

    def __init__(self, first_seed: int, split: str = "all"):
        self.first_seed, self.split = first_seed, split

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        drawn = [postcard(self.first_seed + index, self.split) for index in indices]
        attributes = [attribute_labels(scene) for _, scene, _ in drawn]
        return from_pil([picture for picture, _, _ in drawn]), torch.tensor(attributes)


def attribute_labels(scene: Scene, named: Container[str] = tuple(ATTRIBUTES)) -> list[int]:
    """Return an index into the names of each of `ATTRIBUTES`, NOTHING where none is `named`."""
    return [
        names.index(getattr(scene, name))
        if name in named and getattr(scene, name) is not None
        else NOTHING
        for name, names in ATTRIBUTES.items()
    ]


def cached_latents(
    vae: AutoencoderKL, first_seed: int, count: int, cache: Path, workers: int = 1
) -> TensorDataset:
    """Return the normalised latents (count, C, h, w) float16 of `count` scenes, and their labels.

    Drawn and encoded once: the file in `cache` is named by what its content depends on (the
    autoencoder, the seed, the count, and how a few scenes look, so that a change of the drawing
    is noticed), written atomically, and read back by every later run.
    """
    statistics = [s.flatten().tolist() for s in latent_statistics(vae)]
    look = hashlib.sha256(Scenes(first_seed)[range(8)][0].numpy().tobytes()).hexdigest()
    key = json.dumps([autoencoder_hash(vae), statistics, look, first_seed, count])
    file = cache / f"latents-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        chunks = [range(k, min(k + 64, count)) for k in range(0, count, 64)]
        loader = DataLoader(
            Scenes(first_seed), sampler=chunks, batch_size=None, num_workers=workers
        )
        device, latents, labels = next(vae.parameters()).device, [], []
        for done, (images, batch_labels) in enumerate(loader):
            encoded = encode_images(vae, images.to(device).float() / 127.5 - 1)
            latents.append(encoded.half().cpu().numpy())
            labels.append(batch_labels.numpy())
            if done % 100 == 0:
                print(f"encoded {64 * done} of {count} scenes", flush=True)
        partial = file.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as stream:
            np.savez(stream, latents=np.concatenate(latents), labels=np.concatenate(labels))
        os.replace(partial, file)
    with np.load(file) as arrays:
        return TensorDataset(
            torch.from_numpy(arrays["latents"]), torch.from_numpy(arrays["labels"])
        )
