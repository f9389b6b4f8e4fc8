"""Postcards as torch data sets: scenes that are drawn on demand, and cached latents of them."""

from collections.abc import Container, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from flowturbo_core.data.postcards.postcard import postcard
from flowturbo_core.data.postcards.scene import ATTRIBUTES, NOTHING, Scene
from flowturbo_core.images import from_pil

# Sheets and measurements use the scenes from this seed on. No training reaches them.
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
    """The endless postcards from `first_seed` on, with the attributes that an evaluator tells.

    `scenes[indices]` is (images, attributes): (B, 3, 128, 128) uint8, and (B, 4) indices into the
    names of each of `ATTRIBUTES`. An attribute that a background lacks is NOTHING. By default the
    held-out combinations are drawn too, because an evaluator must know all it may be shown.
    """

    def __init__(self, first_seed: int, split: str = "all"):
        self.first_seed, self.split = first_seed, split

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        drawn = [postcard(self.first_seed + index, self.split) for index in indices]
        attributes = [attribute_labels(scene) for _, scene, _ in drawn]
        return from_pil([picture for picture, _, _ in drawn]), torch.tensor(attributes)


def attribute_labels(scene: Scene, named: Container[str] = tuple(ATTRIBUTES)) -> list[int]:
    """Return the index of each of `ATTRIBUTES`; NOTHING if not `named`, or absent in the scene."""
    return [
        names.index(getattr(scene, name))
        if name in named and getattr(scene, name) is not None
        else NOTHING
        for name, names in ATTRIBUTES.items()
    ]
