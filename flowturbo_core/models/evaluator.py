"""The network that judges Postcards: it tells attributes, and gives features to compare sets."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from flowturbo_core.data.postcards.scene import ATTRIBUTES

_STRIDES = 5  # the last map is 128 / 2^5 = 4 a side


class PostcardsEvaluator(ModelMixin, ConfigMixin):
    """A small convolutional network with one head an attribute.

    Args:
        widths: channels after each halving of the side, 128 to 4.
        feature_size: width of the penultimate layer, at most 64.
    """

    @register_to_config
    def __init__(
        self, widths: tuple[int, ...] = (24, 48, 96, 128, 128), feature_size: int = 64
    ) -> None:
        super().__init__()
        if len(widths) != _STRIDES or not 1 <= feature_size <= 64:
            raise ValueError(
                f"widths must be {_STRIDES} and feature_size from 1 to 64, not {widths} and "
                f"{feature_size}"
            )
        before = (3, *widths)
        self.levels = nn.Sequential(
            *(_Level(i, o) for i, o in zip(before, widths, strict=False)),
        )
        self.features = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * widths[-1], feature_size), nn.GELU()
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(feature_size, len(values)) for name, values in ATTRIBUTES.items()}
        )
        self.register_buffer("feature_scale", torch.ones(feature_size))

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (B, feature_size) of images (B, 3, 128, 128) in [-1, 1].

        Each feature is divided by its standard deviation over drawn scenes, `feature_scale`. So
        distances weigh all features alike, and mean the same after every training.
        """
        return self.features(self.levels(images)) / self.feature_scale

    def logits(self, features: Tensor) -> dict[str, Tensor]:
        """Return, for each attribute, logits (B, number of its values)."""
        return {name: head(features * self.feature_scale) for name, head in self.heads.items()}

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Set `feature_scale` from images (B, 3, 128, 128) in [-1, 1]; 1 for a constant feature."""
        spread = (self(images) * self.feature_scale).std(0)
        self.feature_scale.copy_(torch.where(spread > 0, spread, 1))


class _Level(nn.Module):
    """Halve the side by a convolution, and add a residual convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.halve = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(8, outputs)
        self.around = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.halve(x)
        return x + self.around(torch.nn.functional.gelu(self.norm(x)))
