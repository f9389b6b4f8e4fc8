"""A recipe of tiny models on small flat scenes, and the command that trains its parts."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from flowturbo_core.data import scenes
from flowturbo_core.data.postcards.scene import CLASSES
from flowturbo_core.training import commands, recipes
from flowturbo_core.training.optimization import Hyperparameters
from flowturbo_core.training.recipes import Recipe
from tests.conftest import TINY_SIT, TINY_UNET, TINY_VAE
from tests.core.training import tiny

SIT = {name: value for name, value in TINY_SIT.items() if name != "num_classes"}
FAST = Hyperparameters(batch_size=4, learning_rate=1e-3, warmup_steps=2, ema_decay=0.9)
TINY = Recipe(
    autoencoder=TINY_VAE | {"in_channels": 12, "out_channels": 12, "sample_size": 32},
    autoencoder_training=FAST,
    predictor=SIT | {"depth": 2},
    predictor_training=FAST,
    refiner=SIT | {"depth": 1},
    refiner_training=FAST,
    evaluator={"widths": (8,) * 5},
    evaluator_training=FAST,
    unet=TINY_UNET,
    text_encoder={
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "projection_dim": 16,
    },
    text_training=FAST,
    text_refiner=TINY_UNET
    | {
        "in_channels": 8,
        "block_out_channels": (8,),
        "down_block_types": ("DownBlock2D",),
        "mid_block_type": None,
        "up_block_types": ("UpBlock2D",),
    },
    text_refiner_training=FAST,
    num_latents=20,
)


@pytest.fixture
def drawn(monkeypatch):
    """Use the tiny recipe and small flat scenes; return the numbers of those that were drawn."""
    seeds = []

    def quick(seed):
        if seed < 0:
            raise ValueError(f"seed is {seed!r}")
        seeds.append(seed)
        shade = np.random.default_rng(seed).integers(0, 256, 3, dtype=np.uint8)
        picture = Image.new("RGB", (32, 32), tuple(int(c) for c in shade))
        return picture, SimpleNamespace(label=seed % len(CLASSES)), ""

    monkeypatch.setattr(scenes, "postcard", quick)
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)
    monkeypatch.setattr(commands, "_TOKENIZED_SCENES", 50)
    return seeds


@pytest.fixture
def train(command_line, tmp_path):
    def run(what, *options, output=None):
        base = ("--recipe", "tiny", "--output", output or tmp_path / what, "--device", "cpu")
        quiet = (
            "--workers",
            0,
            "--cache",
            tmp_path / "cache",
            "--sheet-every",
            1000,
            "--no-compile",
        )
        return command_line("train", what, *base, *quiet, *options)

    return run


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    """Return the checkpoint of seven steps, through nearly three epochs, that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole")
    tiny.train(tiny.flow_objective(), output, 7)
    return tiny.checkpoint(output)
