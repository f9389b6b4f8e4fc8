"""Postcards as a data set, and their latents: drawn and encoded once, for one autoencoder."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from flowturbo_core.data import scenes
from flowturbo_core.data.postcards.postcard import postcard
from flowturbo_core.data.postcards.scene import CLASSES
from flowturbo_core.data.scenes import Scenes
from flowturbo_core.models.autoencoder import encode_images
from flowturbo_core.training import latents
from flowturbo_core.training.latents import encode_scenes
from tests.conftest import randomize, tiny_pixel_vae


@pytest.fixture
def drawn(monkeypatch):
    """Replace drawing, which takes milliseconds, by small grey noise; return the seeds asked."""
    seeds = []

    def quick(seed):
        seeds.append(seed)
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        return Image.fromarray(pixels), SimpleNamespace(label=seed % len(CLASSES)), ""

    monkeypatch.setattr(scenes, "postcard", quick)
    return seeds


LOOK = 8  # scenes drawn, on every call, to notice that the drawing has changed


def test_a_batch_holds_the_postcards_of_its_numbers():
    images, labels = Scenes(100)[[0, 3]]
    assert images.shape == (2, 3, 128, 128) and images.dtype == torch.uint8
    for image, label, seed in zip(images, labels, (100, 103), strict=True):
        picture, scene, _ = postcard(seed)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(picture))
        assert CLASSES[label] == scene.subject


def test_latents_are_those_of_the_scenes(drawn, tmp_path):
    vae = tiny_pixel_vae()
    data = encode_scenes(vae, 50, 70, tmp_path, workers=0)  # more than one batch of 64
    latents, labels = data[range(70)]
    assert latents.dtype == torch.float16
    assert drawn[LOOK:] == list(range(50, 120))
    images = Scenes(50)[range(70)][0].float() / 127.5 - 1
    torch.testing.assert_close(latents.float(), encode_images(vae, images), rtol=2e-3, atol=2e-3)
    assert labels.tolist() == [seed % len(CLASSES) for seed in range(50, 120)]


def test_scenes_are_encoded_once_and_read_back(drawn, tmp_path):
    first = encode_scenes(tiny_pixel_vae(), 0, 5, tmp_path, workers=0)
    drawn.clear()
    again = encode_scenes(tiny_pixel_vae(), 0, 5, tmp_path, workers=0)
    assert len(drawn) == LOOK
    assert all(torch.equal(a, b) for a, b in zip(first.tensors, again.tensors, strict=True))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_changed_drawing_is_encoded_anew(drawn, tmp_path, monkeypatch):
    encode_scenes(tiny_pixel_vae(), 0, 5, tmp_path, workers=0)
    white = Image.new("RGB", (32, 32), "white")
    monkeypatch.setattr(scenes, "postcard", lambda seed: (white, SimpleNamespace(label=0), ""))
    data = encode_scenes(tiny_pixel_vae(), 0, 5, tmp_path, workers=0)
    assert torch.equal(data.tensors[0][0], data.tensors[0][4])  # white all of them


@pytest.mark.parametrize("change", ["weights", "statistics", "seed", "count"])
def test_anything_else_is_encoded_anew(drawn, tmp_path, change):
    encode_scenes(tiny_pixel_vae(), 0, 5, tmp_path, workers=0)
    drawn.clear()
    vae = {
        "weights": lambda: randomize(tiny_pixel_vae(), 3),
        # The latents are normalised: with other statistics they are others.
        "statistics": lambda: tiny_pixel_vae(latents_mean=[0.5] * 4, latents_std=[2.0] * 4),
    }.get(change, tiny_pixel_vae)()
    first_seed, count = (1 if change == "seed" else 0), (6 if change == "count" else 5)
    data = encode_scenes(vae, first_seed, count, tmp_path, workers=0)
    assert drawn[LOOK:] == list(range(first_seed, first_seed + count))
    images = Scenes(first_seed)[range(count)][0].float() / 127.5 - 1
    expected = encode_images(vae, images)
    torch.testing.assert_close(data.tensors[0].float(), expected, rtol=2e-3, atol=2e-3)


def test_dying_while_encoding_leaves_nothing_that_looks_whole(drawn, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def half(stream, **arrays):
        stream.write(b"PK\x03\x04 the beginning")
        raise Killed

    monkeypatch.setattr(latents.np, "savez", half)
    with pytest.raises(Killed):
        encode_scenes(tiny_pixel_vae(), 0, 5, tmp_path, workers=0)
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.npz"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the replaced drawing needs forked workers")
def test_workers_change_nothing(drawn, tmp_path):
    alone = encode_scenes(tiny_pixel_vae(), 0, 130, tmp_path / "alone", workers=0)
    helped = encode_scenes(tiny_pixel_vae(), 0, 130, tmp_path / "helped", workers=2)
    assert all(torch.equal(a, b) for a, b in zip(alone.tensors, helped.tensors, strict=True))
