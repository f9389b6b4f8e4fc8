"""Editing a picture without training: SDEdit, FlowEdit and FlowAlign.

Everywhere y is the source's latents, e one noise that is kept for the whole trajectory, and p(t) =
(1 - t) e + t y the straight path between them. FlowEdit's z(t) stands beside y. What is integrated
here is r(t) = z(t) + p(t) - y, the target's own place at time t: it starts on p(t_start), ends on
z(1), and obeys dr/dt = dz/dt + y - e. As p is straight, a step of z and one of r are the same.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import ImageOps
from torch import Tensor, nn
from torch.nn import functional

from flowturbo_core import path
from flowturbo_core.guidance import Guidance, GuidedPredictor, PartialGuidance
from flowturbo_core.requests import Edit, Request
from flowturbo_core.sampler import HAIR, Job, Velocities
from flowturbo_core.steps import advance

if TYPE_CHECKING:
    from flowturbo_core.tasks import Tools

_CONSISTENCY = 0.01  # FlowAlign's weight of the source-consistency term
# DecFlowEdit's mask: percentiles that become 0 and 1, the middle and the width of its edge.
_LOW, _HIGH, _MIDDLE, _WIDTH, _WINDOW = 0.1, 0.9, 0.55, 0.08, 5


def edit(request: Request, job: Job, tools: "Tools") -> Job:
    """Return the job of editing a picture; `job` generates the same request from its noise."""
    task: Edit = request.task
    noise, t_start = job.x_init, 1 - task.strength
    height, width = tools.pixels(request)
    picture = ImageOps.fit(task.picture, (width, height))
    data = tools.encode([picture]).to(noise).expand_as(noise)
    x_init = path.point(noise, data, t_start)
    if task.method == "sdedit":
        return replace(job, x_init=x_init, t_start=t_start)
    condition = {
        "noise": noise,
        "data": data,
        "stop": torch.tensor(1 - task.plain_end, dtype=torch.float32, device=noise.device),
    }
    source = replace(request, subject=request.subject.rename(task.source))
    make = _flowedit_job if task.method == "flowedit" else _flowalign_job
    made = make(request, source, job, condition, tools)
    return replace(made, x_init=x_init, t_start=t_start, t_switch=1 - task.plain_end)


def _flowedit_job(
    request: Request, source: Request, job: Job, condition: dict[str, Any], tools: "Tools"
) -> Job:
    task, noise = request.task, job.x_init
    scales = [
        torch.tensor(scale, dtype=torch.float32, device=noise.device)
        for scale in (task.source_guidance_scale, request.guidance_scale)
    ]
    guided = [tools.guidance(scale) for scale in scales]
    conditions = [tools.conditions(its) for its in (source, request)]
    key = ("flowedit", *map(type, guided))
    velocities = tools.hold(key, lambda: Velocities(FlowEdit(tools.predictor, *guided)))
    condition |= {
        "source": guided[0].pair(*conditions[0]),
        "target": guided[1].pair(*conditions[1]),
        "source_scale": scales[0],
    }
    whole = torch.ones_like(noise[:, :1])
    if task.find_mask:
        whole = find_mask(tools, conditions, condition, request)
    condition["mask"] = whole
    return Job(noise, velocities, condition, scales[1])


def _flowalign_job(
    request: Request, source: Request, job: Job, condition: dict[str, Any], tools: "Tools"
) -> Job:
    scale = torch.tensor(request.guidance_scale, dtype=torch.float32, device=job.x_init.device)
    velocities = tools.hold("flowalign", lambda: Velocities(FlowAlign(tools.predictor)))
    # No guidance towards nothing: what is led away from is the source.
    condition["source"] = tools.conditions(source)[0]
    condition["target"] = tools.conditions(request)[0]
    return Job(job.x_init, velocities, condition, scale)


class GuidedVelocity(nn.Module):
    """The guided velocity (B, C, H, W) at B points, whatever the guidance does within the loop."""

    def __init__(self, model: nn.Module, guidance: Guidance):
        super().__init__()
        self.is_doubled = isinstance(guidance, PartialGuidance)
        self.predictor = GuidedPredictor(model, guidance)

    def forward(self, x: Tensor, t: Tensor, condition: Any, guidance_scale: Tensor) -> Tensor:
        """Return the velocity."""
        points = torch.cat([x, x]) if self.is_doubled else x
        return self.predictor(points, t, condition, guidance_scale)[: len(x)]


def _after_switch(t: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """Return the time that is meant, and whether it is one after `stop`: those are a hair late."""
    is_late = t > stop + HAIR / 2  # rounded, the end of the block before may be after it too
    return torch.where(is_late, t - HAIR, t), is_late


class FlowEdit(nn.Module):
    """FlowEdit (Kulikov et al., 2412.08629) with one noise, so that it is an ODE.

    dz/dt = M (v(z + p(t) - y, t | target) - v(p(t), t | source)) up to `stop`, where M is 1 or a
    mask of what the edit is to change (DecFlowEdit); from there on the target's velocity alone.
    """

    def __init__(self, model: nn.Module, source: Guidance, target: Guidance):
        super().__init__()
        self.source, self.target = GuidedVelocity(model, source), GuidedVelocity(model, target)

    def forward(self, x: Tensor, t: Tensor, condition: Any, guidance_scale: Tensor) -> Tensor:
        """Return dr/dt (B, C, H, W) at r = x."""
        t, is_plain = _after_switch(t, condition["stop"])
        noise, data = condition["noise"], condition["data"]
        target = self.target(x, t, condition["target"], guidance_scale)
        q = path.point(noise, data, t)
        source = self.source(q, t, condition["source"], condition["source_scale"])
        edited = condition["mask"] * (target - source) + path.velocity(noise, data)
        return torch.where(is_plain, target, edited)


class FlowAlign(nn.Module):
    """FlowAlign (ICLR 2026): three evaluations, and a pull towards the source.

    With q = p(t), w the guidance scale and
    v(r) = v(r | source) + w (v(r | target) - v(r | source)):
    dz/dt = v(r) - v(q | source) + 0.01 ((q + (1 - t) v(q | source)) - (r + (1 - t) v(r))).
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, t: Tensor, condition: Any, guidance_scale: Tensor) -> Tensor:
        """Return dr/dt (B, C, H, W) at r = x."""
        t, is_plain = _after_switch(t, condition["stop"])
        noise, data = condition["noise"], condition["data"]
        q = path.point(noise, data, t)
        conditions = torch.cat([condition["source"], condition["target"], condition["source"]])
        points = torch.cat([x, x, q]).to(self.model.dtype)
        away, towards, source = self.model(points, t, conditions).float().chunk(3)
        target = away + guidance_scale * (towards - away)
        pull = path.end(q, source, t) - path.end(x, target, t)
        edited = target - source + _CONSISTENCY * pull + path.velocity(noise, data)
        return torch.where(is_plain, target, edited)


@torch.no_grad()
def find_mask(
    tools: "Tools", conditions: Any, condition: dict[str, Any], request: Request
) -> Tensor:
    """Return where the edit means to change the picture, (B, 1, h, w) from 0 to 1.

    DecFlowEdit's first pass: a quarter of the plan's steps without guidance. E is the size of the
    difference of the velocities, summed over the middle half of the steps.
    """
    unguided = tools.guidance(torch.tensor(1.0))
    velocity = GuidedVelocity(tools.predictor, unguided)
    noise, data = condition["noise"], condition["data"]
    ones = torch.ones((), device=noise.device)
    steps, t_start = max(len(request.plan) // 4, 4), 1 - request.task.strength
    dt = request.task.strength / steps
    x, total = path.point(noise, data, t_start), torch.zeros_like(noise)
    source, target = (unguided.pair(*its) for its in conditions)
    for k in range(steps):
        t = torch.tensor(t_start + k * dt, dtype=torch.float32, device=noise.device)
        apart = velocity(x, t, target, ones)
        apart = apart - velocity(path.point(noise, data, t), t, source, ones)
        if steps / 4 <= k < 3 * steps / 4:
            total += apart
        x = advance(x, apart + path.velocity(noise, data), dt)
    return soft_mask(total.abs().mean(1, keepdim=True))


def soft_mask(energy: Tensor) -> Tensor:
    """Return the mask (B, 1, h, w) from 0 to 1 of how much an edit changes each cell."""
    smooth = functional.avg_pool2d(
        energy, _WINDOW, stride=1, padding=_WINDOW // 2, count_include_pad=False
    )
    flat = smooth.flatten(1)
    low, high = (flat.quantile(q, dim=1).view(-1, 1, 1, 1) for q in (_LOW, _HIGH))
    scaled = (smooth - low) / (high - low).clamp_min(1e-12)
    return torch.sigmoid((scaled - _MIDDLE) / _WIDTH)
