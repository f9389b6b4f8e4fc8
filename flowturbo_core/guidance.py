"""Classifier-free guidance (Ho and Salimans, 2207.12598), as velocity models around a model.

v_g = v(null) + s (v(y) - v(null)). Solvers know nothing of it. A condition holds the B
conditional entries and then the B null ones along its first dimension, except where nothing is
guided (s = 1), which needs no null half.
"""

import dataclasses

import torch
from torch import Tensor, nn

from flowturbo_core.sampler import Job
from flowturbo_core.steps import State


class Unguided:
    """The conditional velocity alone: guidance scale 1, at half the cost."""

    def pair(self, condition: Tensor, null_condition: Tensor) -> Tensor:
        """Return the condition that the model needs, from the conditional and the null one."""
        return condition

    def repeat_x(self, x: Tensor) -> Tensor:
        """Return the latents the model is evaluated on."""
        return x

    def repeat_v(self, v: Tensor) -> Tensor:
        """Return the carried velocity a refiner is evaluated on."""
        return v

    def combine(self, output: Tensor, guidance_scale: Tensor) -> Tensor:
        """Turn the model's output into what the solver sees."""
        return output

    def pack(self, job: Job) -> Job:
        """Turn a job on B images into one that the loop runs."""
        return job

    def unpack(self, state: State) -> State:
        """Turn a state that leaves the loop into one of B images."""
        return state


class FullGuidance(Unguided):
    """All channels guided: the batch is doubled only inside a call of the model."""

    def pair(self, condition: Tensor, null_condition: Tensor) -> Tensor:
        """Return [conditional; null]."""
        return torch.cat([condition, null_condition])

    def repeat_x(self, x: Tensor) -> Tensor:
        """Return x twice, for the conditional and the null half."""
        return torch.cat([x, x])

    def repeat_v(self, v: Tensor) -> Tensor:
        """Return v twice, for the conditional and the null half."""
        return torch.cat([v, v])

    def combine(self, output: Tensor, guidance_scale: Tensor) -> Tensor:
        """Extrapolate from the null half to the conditional one."""
        conditional, null = output.chunk(2)
        return null + guidance_scale * (conditional - null)


class PartialGuidance(FullGuidance):
    """The first `channels` channels guided, the others left as each half predicts them.

    The released SiT guides three of four. The halves of the velocity then differ, so the whole
    loop runs on a doubled batch, [conditional; null]; before each evaluation both halves of x
    are set to the conditional one.
    """

    def __init__(self, channels: int):
        self.channels = channels

    def repeat_x(self, x: Tensor) -> Tensor:
        """Set the null half of x to the conditional one."""
        conditional = x[: len(x) // 2]
        return torch.cat([conditional, conditional])

    def repeat_v(self, v: Tensor) -> Tensor:
        """Return v, whose halves are each their own."""
        return v

    def combine(self, output: Tensor, guidance_scale: Tensor) -> Tensor:
        """Guide the first channels of both halves."""
        conditional, null = output[:, : self.channels].chunk(2)
        guided = null + guidance_scale * (conditional - null)
        return torch.cat([torch.cat([guided, guided]), output[:, self.channels :]], dim=1)

    def pack(self, job: Job) -> Job:
        """Double the latents; the task's projection still sees B images."""

        def project(state: State, t: float) -> State:
            x = job.project(self.unpack(state), t).x
            return State(torch.cat([x, x]), state.v)

        doubled = torch.cat([job.x_init, job.x_init])
        return dataclasses.replace(job, x_init=doubled, project=project)

    def unpack(self, state: State) -> State:
        """Keep the conditional half."""
        half = len(state.x) // 2
        return State(state.x[:half], None if state.v is None else state.v[:half])


def choose_guidance(
    guidance_scale: float, guided_channels: int | None, in_channels: int
) -> Unguided:
    """Return the cheapest form of guidance that computes what is asked."""
    if guidance_scale == 1:
        return Unguided()
    if guided_channels is None or guided_channels == in_channels:
        return FullGuidance()
    return PartialGuidance(guided_channels)


def guidance_warnings(
    guidance_scale: float,
    thing: str,
    negative_prompt: str = "",
    channels: tuple[int, int] | None = None,
) -> list[str]:
    """Return what a person should know of a guidance scale that is not above 1.

    Args:
        guidance_scale: as it was asked for.
        thing: what there are to be pictures of: class or prompt.
        negative_prompt: what was to be led away from, if anything.
        channels: how many of how many are guided, where it is not all.
    """
    guidance_scale = as_float32(guidance_scale)
    effect = "no effect" if channels is None else "no effect on {} of {} channels".format(*channels)
    none = "1 is no guidance, for which InstaFlow and diffusers also take 0"
    if guidance_scale == 0:
        alone = "; the pictures are of the negative prompt alone" if negative_prompt else ""
        return [f"at guidance 0 the {thing} has {effect}{alone}; {none}"]
    if not negative_prompt or guidance_scale > 1:
        return []
    if guidance_scale == 1:
        return ["at guidance 1 the negative prompt has no effect; above 1 it is led away from"]
    return [
        f"at guidance {guidance_scale:g} the pictures are led toward the negative prompt; above 1 "
        "it is led away from"
    ]


def as_float32(guidance_scale: float) -> float:
    """Return the scale as the loop is given it, and chooses its guidance by."""
    return float(torch.tensor(guidance_scale, dtype=torch.float32))


class GuidedPredictor(nn.Module):
    """A velocity model `velocity(x, t, condition, guidance_scale) -> v` around a predictor.

    The state stays in float32 whatever the model computes in: rounding it at every step costs
    more accuracy than the model's own arithmetic.
    """

    def __init__(self, model: nn.Module, guidance: Unguided):
        super().__init__()
        self.model, self.guidance = model, guidance

    def forward(self, x: Tensor, t: Tensor, condition: Tensor, guidance_scale: Tensor) -> Tensor:
        """Return the guided velocity, shaped as x (B, C, H, W), float32."""
        inputs = self.guidance.repeat_x(x).to(self.model.dtype)
        return self.guidance.combine(self.model(inputs, t, condition).float(), guidance_scale)


class GuidedRefiner(nn.Module):
    """A refiner `refiner(x, t, v, condition, guidance_scale) -> offset`, guided the same way."""

    def __init__(self, model: nn.Module, guidance: Unguided):
        super().__init__()
        self.model, self.guidance = model, guidance

    def forward(
        self, x: Tensor, t: Tensor, v: Tensor, condition: Tensor, guidance_scale: Tensor
    ) -> Tensor:
        """Return the guided offset to v, shaped as x (B, C, H, W), float32."""
        inputs = self.guidance.repeat_x(x).to(self.model.dtype)
        velocity = self.guidance.repeat_v(v).to(self.model.dtype)
        offset = self.model(inputs, t, velocity, condition).float()
        return self.guidance.combine(offset, guidance_scale)
