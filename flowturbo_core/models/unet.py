"""UNets as velocity models: what a Stable Diffusion UNet's time and output mean, in one place.

InstaFlow's network (Liu et al., 2309.06380) is Stable Diffusion's UNet2DConditionModel, with time
1000 (1 - t): t runs from noise to data here, its timestep from data to noise. Its output is the
velocity as is; that of the flow models of diffusers, its negative.
"""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn


class UNetPredictor(nn.Module):
    """A velocity model `predictor(x, t, condition) -> v` around a UNet.

    The condition is text embeddings (B, tokens, width). `is_turned` says that the UNet's output is
    noise - data.
    """

    def __init__(self, unet: UNet2DConditionModel, is_turned: bool = False):
        super().__init__()
        self.unet, self.is_turned = unet, is_turned

    @property
    def config(self) -> FrozenDict:
        """The UNet's."""
        return self.unet.config

    def register_to_config(self, **values: Any) -> None:
        """Record values in the UNet's config."""
        self.unet.register_to_config(**values)

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's."""
        return self.unet.dtype

    @property
    def device(self) -> torch.device:
        """The UNet's."""
        return self.unet.device

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Return the velocity (B, C, h, w) of latents x (B, C, h, w) at times t, () or (B,)."""
        timesteps = (1 - t.float()) * 1000
        output = self.unet(x, timesteps, condition.to(x.dtype), return_dict=False)[0]
        return -output if self.is_turned else output


class UNetRefiner(UNetPredictor):
    """A refiner `refiner(x, t, v, condition) -> offset` around a UNet of twice the channels.

    `variant` is the R step's, `consistent` or `released`.
    """

    def __init__(self, unet: UNet2DConditionModel, variant: str = "consistent"):
        super().__init__(unet)
        self.variant = variant

    def forward(self, x: Tensor, t: Tensor, v: Tensor, condition: Tensor) -> Tensor:
        """Return the offset to v (B, C, h, w) at latents x (B, C, h, w) and times t, () or (B,)."""
        return super().forward(torch.cat([x, v], dim=1), t, condition)


# Stable Diffusion 1.5's, which InstaFlow's models have too.
SD_UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}


def thin_config(config: dict[str, Any], divisor: int = 2) -> dict[str, Any]:
    """Return the config of a refiner for a UNet of this config, as FlowTurbo's (section 4.1).

    Channels divided by `divisor`, one layer a block, and twice the input channels. With a divisor
    of 2 that of Stable Diffusion 1.5 has channels 160, 320, 640, 640; FlowTurbo's has 160, 160,
    320, 320, which `block_out_channels` can be set to.
    """
    widths = tuple(width // divisor for width in config["block_out_channels"])
    return {name: value for name, value in config.items() if not name.startswith("_")} | {
        "block_out_channels": widths,
        "layers_per_block": 1,
        "in_channels": 2 * config["in_channels"],
    }


# FlowTurbo's for it (2409.18128, section 4.1): 43.5 million parameters.
SD_REFINER = thin_config(SD_UNET) | {"block_out_channels": (160, 160, 320, 320)}
