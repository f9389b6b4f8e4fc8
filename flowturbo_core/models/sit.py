"""Scalable Interpolant Transformers: the velocity predictor and the velocity refiner.

The architecture is that of Ma et al., 2401.08740, which is DiT's (Peebles and Xie, 2212.09748).
Parameters have the names of the released SiT checkpoints, so conversion renames none. The refiner
is FlowTurbo's (Zhao et al., 2409.18128, section 3.1).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import CacheMixin, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from torch import Tensor, nn

from flowturbo_core.checks import brief, real_number
from flowturbo_core.models.autoencoder import check_statistics

REFINER_VARIANTS = ("consistent", "released")

_WIDTHS = {
    "s": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "b": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "l": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "xl": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
}
# The published sizes, SiT-S/2 to SiT-XL/8, as keyword arguments of SiTPredictor.
PRESETS = {
    f"sit-{size}-{patch}": widths | {"patch_size": patch}
    for size, widths in _WIDTHS.items()
    for patch in (2, 4, 8)
}

# A config comes from a file. To build a model beyond these sizes would take for ever.
_LARGEST = {
    "sample_size": 4096,
    "patch_size": 64,
    "in_channels": 1024,
    "hidden_size": 16_384,
    "depth": 256,
    "num_heads": 1024,
    "num_classes": 1_000_000,
}


class _PatchEmbed(nn.Module):
    def __init__(self, channels: int, patch_size: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)  # (B, tokens, width)


class _TimeEmbedder(nn.Module):
    """Embeds t in [0, 1]: sinusoids of `scale` t, and then a perceptron."""

    def __init__(self, width: int, scale: float, num_frequencies: int = 128):
        super().__init__()
        self.scale, self.num_frequencies = scale, num_frequencies
        self.mlp = nn.Sequential(
            nn.Linear(2 * num_frequencies, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, t: Tensor) -> Tensor:
        k = torch.arange(self.num_frequencies, device=t.device, dtype=torch.float32)
        angles = (
            self.scale
            * t.float()[:, None]
            * torch.exp(-math.log(10_000) * k / self.num_frequencies)
        )
        sinusoids = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(sinusoids.to(self.mlp[0].weight.dtype))


class _LabelEmbedder(nn.Module):
    """Embeds labels: one row a class, and a last row for "no class"."""

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, class_labels: Tensor) -> Tensor:
        return self.embedding_table(class_labels)


class _Attention(nn.Module):
    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    normed = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return normed * (1 + scale[:, None]) + shift[:, None]


def _modulation(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Linear(width, count * width))


class _Block(nn.Module):
    def __init__(self, width: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        self.attn = _Attention(width, num_heads)
        self.mlp = _Mlp(width, round(width * mlp_ratio))
        self.adaLN_modulation = _modulation(width, 6)

    def forward(self, hidden_states: Tensor, c: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(6, -1)
        x = hidden_states + gate_a[:, None] * self.attn(_modulate(hidden_states, shift_a, scale_a))
        return x + gate_m[:, None] * self.mlp(_modulate(x, shift_m, scale_m))


# diffusers' caches need this to skip a block; `predictor.enable_cache` turns such a cache on.
TransformerBlockRegistry.register(_Block, TransformerBlockMetadata(return_hidden_states_index=0))


class _FinalLayer(nn.Module):
    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = _modulation(width, 2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.linear(_modulate(x, *self.adaLN_modulation(c).chunk(2, -1)))


class _SiT(ModelMixin, CacheMixin, ConfigMixin):
    """The part that predictor and refiner share: patches in, blocks, patches out."""

    def _build(self, input_channels: int) -> None:
        config = self.config
        _check_config(config)
        width, patch = config.hidden_size, config.patch_size
        if width % config.num_heads:
            raise ValueError(f"{config.num_heads} heads do not divide a width of {width}")
        if config.sample_size % patch:
            raise ValueError(f"patches of {patch} do not divide latents of {config.sample_size}")
        if width % 4:
            raise ValueError(f"the width must be a multiple of 4, not {width}")
        self.output_channels = config.in_channels * (2 if config.learn_sigma else 1)
        self.x_embedder = _PatchEmbed(input_channels, patch, width)
        self.t_embedder = _TimeEmbedder(width, config.time_scale)
        self.y_embedder = _LabelEmbedder(config.num_classes, width)
        positions = sincos_positions(width, config.sample_size // patch)
        self.pos_embed = nn.Parameter(positions[None], requires_grad=False)
        self.blocks = nn.ModuleList(
            _Block(width, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.final_layer = _FinalLayer(width, patch**2 * self.output_channels)
        self._initialize()

    def _initialize(self) -> None:
        """Initialise as published: adaLN-Zero, by which every block starts as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.view(self.config.hidden_size, -1))
        nn.init.zeros_(self.x_embedder.proj.bias)
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        nn.init.normal_(self.t_embedder.mlp[0].weight, std=0.02)
        nn.init.normal_(self.t_embedder.mlp[2].weight, std=0.02)
        gates = [block.adaLN_modulation[1] for block in self.blocks]
        for linear in (*gates, self.final_layer.adaLN_modulation[1], self.final_layer.linear):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def _transform(self, inputs: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        c = self.t_embedder(t.expand(len(inputs))) + self.y_embedder(class_labels)
        x = self.x_embedder(inputs) + self.pos_embed
        for block in self.blocks:
            x = block(x, c)
        x = self.final_layer(x, c)
        side, patch = self.config.sample_size // self.config.patch_size, self.config.patch_size
        x = x.unflatten(1, (side, side)).unflatten(-1, (patch, patch, self.output_channels))
        image = x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return image[:, : self.config.in_channels]  # the rest, if any, is a variance

    @property
    def null_label(self) -> int:
        """The label that means "no class", for classifier-free guidance."""
        return self.config.num_classes


class SiTPredictor(_SiT):
    """The heavy velocity model, v(x, t, class).

    Args:
        sample_size: side of the square latents.
        patch_size: side of the latent patches that become tokens.
        in_channels: channels of the latents.
        hidden_size: width of the transformer.
        depth: number of blocks.
        num_heads: attention heads a block.
        mlp_ratio: width of the perceptrons relative to `hidden_size`.
        num_classes: classes; label `num_classes` means none.
        learn_sigma: whether a variance is output beside the velocity (the released SiT does).
        time_scale: factor on t before its sinusoids; the released SiT has 1, DiT 1000.
        guided_channels: how many leading channels guidance acts on; None means all.
        latents_mean: what was subtracted from the autoencoder's latents, one number a channel.
        latents_std: what the latents were divided by after that, one number a channel.
        autoencoder_hash: the hash of the autoencoder that made the latents (`autoencoder_hash`).
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        learn_sigma: bool = True,
        time_scale: float = 1.0,
        guided_channels: int | None = None,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        autoencoder_hash: str | None = None,
    ):
        super().__init__()
        self._build(input_channels=in_channels)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        """Return the velocity (B, C, H, W) at x (B, C, H, W), t () or (B,), labels (B,)."""
        return self._transform(x, t, class_labels)


class SiTRefiner(_SiT):
    """The light velocity refiner, r(x, t, v, class): an offset to an earlier velocity v.

    The arguments are those of `SiTPredictor`. The input has twice the channels: concat[x, v].

    Args:
        variant: how a refiner block combines the offsets, `consistent` or `released`
            (`flowturbo_core.steps.refine_step`, `refine_step_released`).
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 1,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        learn_sigma: bool = True,
        time_scale: float = 1.0,
        variant: str = "consistent",
    ):
        super().__init__()
        if variant not in REFINER_VARIANTS:
            raise ValueError(f"refiner variant {brief(variant)} is not one of {REFINER_VARIANTS}")
        self._build(input_channels=2 * in_channels)

    @property
    def variant(self) -> str:
        """How a refiner block combines the offsets."""
        return self.config.variant

    def forward(self, x: Tensor, t: Tensor, v: Tensor, class_labels: Tensor) -> Tensor:
        """Return the offset (B, C, H, W) to v (B, C, H, W), for x (B, C, H, W), t () or (B,)."""
        return self._transform(torch.cat([x, v], dim=1), t, class_labels)


def _check_config(config: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the field, for a value that no model can have."""
    for name, largest in _LARGEST.items():
        _check_size(name, config[name], largest)
    if config.get("guided_channels") is not None:
        _check_size("guided_channels", config["guided_channels"], config["in_channels"])
    real_number("mlp_ratio", config["mlp_ratio"], 0, 64)
    real_number("time_scale", config["time_scale"], 0, 1e6)
    check_statistics(config.get("latents_mean"), config.get("latents_std"), config["in_channels"])
    if not isinstance(config.get("autoencoder_hash"), str | None):
        raise ValueError(
            f"autoencoder_hash must be a text, not {brief(config['autoencoder_hash'])}"
        )


def _check_size(name: str, value: object, largest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise ValueError(f"{name} must be a whole number from 1 to {largest}, not {brief(value)}")


def sincos_positions(width: int, side: int) -> Tensor:
    """Return the fixed 2-D sine-cosine embedding (side^2, width) of MAE (2111.06377) and DiT."""
    frequencies = 10_000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    parts = []
    for coordinate in (columns, rows):  # the released checkpoints put the column first
        angles = coordinate.reshape(-1, 1) * frequencies
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1).float()
