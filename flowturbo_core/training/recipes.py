"""What each named recipe trains: architectures and hyperparameters, as plain data."""

from dataclasses import dataclass
from typing import Any

from flowturbo_core.checks import brief, unknown
from flowturbo_core.models.unet import SD_REFINER
from flowturbo_core.training.optimization import Hyperparameters


@dataclass(frozen=True)
class Recipe:
    """Models that belong together, their configs and training. A part that it lacks is None."""

    autoencoder: dict[str, Any] | None = None
    autoencoder_training: Hyperparameters | None = None
    predictor: dict[str, Any] | None = None
    predictor_training: Hyperparameters | None = None
    refiner: dict[str, Any] | None = None
    refiner_training: Hyperparameters | None = None
    evaluator: dict[str, Any] | None = None
    evaluator_training: Hyperparameters | None = None
    unet: dict[str, Any] | None = None
    text_encoder: dict[str, Any] | None = None
    text_training: Hyperparameters | None = None
    text_refiner: dict[str, Any] | None = None
    text_refiner_training: Hyperparameters | None = None
    num_latents: int | None = None  # scenes whose latents are cached, where it has scenes


_POSTCARDS_SIT = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 8,
    "hidden_size": 192,
    "num_heads": 3,
    "time_scale": 1000.0,
    "learn_sigma": False,
}

# Attention acts on maps of 8 a side, and at the bottom; at 16 it would double the time. The maps go
# down to 2 a side: there every place touches a border, and only borders let convolutions tell left
# from right. The text also reaches every layer, pooled and added to the time embedding.
_POSTCARDS_UNET = {
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ("UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (96, 128, 64, 64),
    "layers_per_block": 1,
    "attention_head_dim": (3, 4, 2, 2),  # the number of heads, as Stable Diffusion 1.5 has it
    "norm_num_groups": 16,
    "cross_attention_dim": 128,
    "resnet_time_scale_shift": "scale_shift",  # as strong a condition as a transformer's adaLN
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
}

RECIPES = {
    "postcards": Recipe(
        autoencoder={
            "in_channels": 48,
            "out_channels": 48,
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "block_out_channels": (96, 128),
            "layers_per_block": 1,
            "latent_channels": 8,
            "sample_size": 128,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "mid_block_add_attention": False,
        },
        # Batches are small: in the first hour on a CPU, the number of updates is what counts.
        autoencoder_training=Hyperparameters(
            batch_size=8, learning_rate=5e-4, warmup_steps=200, ema_decay=0.999
        ),
        predictor=_POSTCARDS_SIT | {"depth": 16},
        predictor_training=Hyperparameters(
            batch_size=64, learning_rate=1e-3, warmup_steps=300, ema_decay=0.9995
        ),
        refiner=_POSTCARDS_SIT | {"depth": 1},
        refiner_training=Hyperparameters(
            batch_size=64, learning_rate=1e-3, warmup_steps=200, ema_decay=0.9995
        ),
        evaluator={},
        evaluator_training=Hyperparameters(
            batch_size=64, learning_rate=2e-3, warmup_steps=100, decay_fraction=0.6, ema_decay=0.995
        ),
        unet=_POSTCARDS_UNET,
        text_encoder={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 32,
            "projection_dim": 128,
        },
        text_training=Hyperparameters(
            batch_size=64,
            learning_rate=1e-3,
            warmup_steps=300,
            ema_decay=0.998,
            muon_dims=(2, 4),
        ),
        # One level and no attention: the text reaches it pooled. 48 channels in 16 groups cost 0.18
        # of the predictor in bfloat16, because starting a small kernel costs more than its work.
        text_refiner=_POSTCARDS_UNET
        | {
            "in_channels": 16,
            "down_block_types": ("DownBlock2D",),
            "mid_block_type": None,
            "up_block_types": ("UpBlock2D",),
            "block_out_channels": (32,),
            "attention_head_dim": (2,),
            "norm_num_groups": 8,
        },
        text_refiner_training=Hyperparameters(
            batch_size=64, learning_rate=1e-3, warmup_steps=200, ema_decay=0.9995
        ),
        num_latents=50_000,
    ),
    # FlowTurbo's refiner for 2-Rectified Flow, on any captioned pictures. The paper used
    # 50,000 of LAION for 10,000 steps (2409.18128, section 4.1).
    "sd-1-5": Recipe(
        text_refiner=SD_REFINER,
        text_refiner_training=Hyperparameters(
            batch_size=16,
            learning_rate=2e-5,
            betas=(0.9, 0.999),
            warmup_steps=100,
            decay_fraction=0.0,
            max_grad_norm=0.01,
            muon_dims=(),
        ),
    ),
}


def get_recipe(name: str, part: str) -> Recipe:
    """Return the recipe called `name`, which must have this `part`, the name of a field.

    Raises ValueError, naming those that there are.
    """
    if name not in RECIPES:
        raise ValueError(unknown("recipe", name, tuple(RECIPES)))
    recipe = RECIPES[name]
    if getattr(recipe, part) is None:
        able = [other for other, item in RECIPES.items() if getattr(item, part) is not None]
        raise ValueError(f"recipe {brief(name)} has no {part}; there is one in {', '.join(able)}")
    return recipe
