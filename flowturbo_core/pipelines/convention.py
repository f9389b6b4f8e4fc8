"""What a foreign model's output means: read off its folder, and where nothing says it, measured.

Here a velocity is data - noise, and t runs from noise, 0, to data, 1. In diffusers' flow models it
is noise - data, and sigma = 1 - t.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowturbo_core.checks import brief
from flowturbo_core.files import read_json
from flowturbo_core.tasks import initial_noise

# What a UNet may give: InstaFlow's and ours, and that of diffusers' flow models.
VELOCITY, DIFFUSERS_VELOCITY = VELOCITIES = ("data - noise", "noise - data")
SCHEDULER = "scheduler"
_TIMESTEPS = 1000  # of a flow: timestep = 1000 sigma
# What of a scheduler's config places its steps otherwise than evenly in sigma.
_SHIFTS = ("shift", "flow_shift")
_SPACINGS = (
    "shift_terminal",
    "use_beta_sigmas",
    "use_dynamic_shifting",
    "use_exponential_sigmas",
    "use_karras_sigmas",
)

# Of the cosine of the output at t = 0 with the noise. Measured: -0.78 to -0.96 for the bundled
# models, with and without a condition; -0.13 to 0.17 for untrained ones; of a small DiT while it
# was trained, 0.62 to 0.89 at timestep 0 and 0.996 to 0.999 at timestep 999. A flow of the other
# sign has the bundled models' values, turned: so t = 0 does not tell it from a noise predictor.
_DOUBTFUL = 0.5
_IS_THE_NOISE = 0.99


@dataclass(frozen=True)
class Convention:
    """What the folder of a model says of its output.

    Args:
        velocity: one of VELOCITIES.
        is_said: whether the folder says it; elsewhere it is to be measured.
        doubts: what a person should know, a sentence each.
    """

    velocity: str = VELOCITY
    is_said: bool = True
    doubts: tuple[str, ...] = ()


def read_convention(folder: Path, index: Mapping[str, Any]) -> Convention:
    """Return what a text-to-image folder of this index says of its UNet's output.

    Raises ValueError, naming the file, for a flow whose time is another than the UNet's here.
    """
    if "velocity" in index or index.get("_class_name") == "TextToImagePipeline":
        return Convention(index.get("velocity", VELOCITY))
    file = folder / SCHEDULER / "scheduler_config.json"
    config = read_json(file) if file.is_file() else {}
    name = config.get("_class_name") or _class_in(index.get(SCHEDULER))
    config = _defaults(name) | config
    predicted = config.get("prediction_type")
    if predicted == "flow_prediction" or str(name).startswith("FlowMatch"):
        _check_time(file, config)
        return Convention(DIFFUSERS_VELOCITY, True, _spacing(config))
    # InstaFlow's folders have the scheduler of the diffusion that they began as.
    if index.get("_class_name") == "StableDiffusionPipeline" and predicted is not None:
        doubt = (
            f"this folder's scheduler takes the UNet's output for {brief(predicted)}: unless it "
            "was trained as a flow, its pictures are noise"
        )
        return Convention(VELOCITY, True, (doubt,))
    return Convention(VELOCITY, False)


def _class_in(entry: object) -> object:
    return entry[1] if isinstance(entry, list) and len(entry) == 2 else None


def _defaults(name: object) -> dict[str, Any]:
    """Return what a scheduler of diffusers takes where its config is silent."""
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        return {}
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _check_time(file: Path, config: Mapping[str, Any]) -> None:
    for name, wanted in (("num_train_timesteps", _TIMESTEPS), ("invert_sigmas", False)):
        if (found := config.get(name, wanted)) != wanted:
            raise ValueError(
                f"{file}: {name} is {brief(found)}, and of a flow's only {wanted} can be sampled "
                "here"
            )


def _spacing(config: Mapping[str, Any]) -> tuple[str, ...]:
    settings = [name for name in _SHIFTS if config.get(name, 1) not in (1, None)]
    settings += [name for name in _SPACINGS if config.get(name)]
    if not config.get("use_flow_sigmas", True):  # flow_shift counts only with it
        settings = [name for name in settings if name != "flow_shift"]
    if not settings:
        return ()
    named = ", ".join(f"{name} {brief(config[name])}" for name in settings)
    return (
        f"this folder's scheduler places its steps by {named}; here a plan's steps are even in t, "
        "as with shift 1: the same number of them gives other pictures",
    )


@torch.no_grad()
def cosine_with_noise(
    predictor: nn.Module, shape: tuple[int, int, int], condition: Tensor, t: float = 0.0
) -> float:
    """Return the cosine of a model's output at time `t` with the noise (C, h, w) it is given.

    The condition is of one image, (1, ...). NaN where the output is not finite.
    """
    noise = initial_noise(shape, [0]).to(predictor.device)
    x, time = noise.to(predictor.dtype), torch.tensor(t, device=noise.device)
    output = predictor(x, time, condition).float()
    return F.cosine_similarity(output.flatten(), noise.flatten(), dim=0).item()


def doubts_of(cosine: float, advice: str = "") -> tuple[str, ...]:
    """Return what a cosine at t = 0 makes doubtful, with `advice` for a sign that is turned."""
    if not cosine > _DOUBTFUL:  # nor where it is NaN
        return ()
    return (
        f"at t = 0 this model's output has a cosine of {cosine:.2f} with the noise, where that of "
        "a velocity from noise to data is negative: unless it was trained as such a flow, its "
        f"pictures are noise{advice}",
    )


def require_no_noise_predictor(
    file: Path, predictor: nn.Module, shape: tuple[int, int, int], condition: Tensor
) -> None:
    """Raise ValueError if a SiT's checkpoint is a DiT's: both have the same names and shapes.

    A DiT's time is a timestep from 0 to 999; at the last it gives back the noise that it is given.
    """
    if not cosine_with_noise(predictor, shape, condition) > 0:
        return
    cosine = cosine_with_noise(predictor, shape, condition, _TIMESTEPS - 1)
    if cosine > _IS_THE_NOISE:
        raise ValueError(
            f"{file} is no SiT, but predicts noise, as a DiT does: at timestep {_TIMESTEPS - 1} "
            f"its output has a cosine of {cosine:.3f} with the noise it is given"
        )
