"""Turns tensors into pictures, and pictures into tensors."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_pil(images: Tensor) -> list[Image.Image]:
    """Turn images (B, 3, H, W) in [-1, 1] into B pictures.

    Raises FloatingPointError if a value is not finite: a broken picture is never shown as black.
    """
    if not torch.isfinite(images).all():
        raise FloatingPointError("the decoded images hold values that are not finite")
    scaled = (images.detach().float().clamp(-1, 1) + 1) * 127.5
    array = scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in array]


def from_pil(pictures: Sequence[Image.Image]) -> Tensor:
    """Turn B pictures of one size into a uint8 tensor (B, 3, H, W)."""
    array = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def contact_sheet(pictures: Sequence[Image.Image], columns: int, gap: int = 2) -> Image.Image:
    """Lay pictures of one size out in rows of `columns`, `gap` pixels apart."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    size = (columns * (width + gap) - gap, rows * (height + gap) - gap)
    sheet = Image.new("RGB", size, "white")
    for k, picture in enumerate(pictures):
        sheet.paste(picture, ((k % columns) * (width + gap), (k // columns) * (height + gap)))
    return sheet
