"""Inpainting without training: what the mask leaves follows the picture's own path.

y is the picture's latents, e one noise, p(t) = (1 - t) e + t y, and m = 1 where to paint. After
every block x becomes m x + (1 - m) p(t), and the carried velocity m v + (1 - m) (y - e): so P and R
start from the truth outside the mask, and previews x + (1 - t) v are exact there.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from flowturbo_core import path
from flowturbo_core.masks import Crop, crop_box, feather_inward, to_latents
from flowturbo_core.requests import Inpaint, Request
from flowturbo_core.sampler import Job
from flowturbo_core.steps import State

if TYPE_CHECKING:
    from flowturbo_core.tasks import Tools

_PAINTED = 128  # of 255: what a mask counts as painted from
_CONTEXT = 32  # pixels of the picture that are seen around the mask, at least


def inpaint(request: Request, job: Job, tools: "Tools") -> Job:
    """Return the job of painting what the mask covers; `job` generates the same from its noise.

    A picture that is larger than the model's is worked on in a crop around the mask. What the mask
    leaves is pasted back, bit for bit, at the picture's own resolution.
    """
    task: Inpaint = request.task
    mask = np.asarray(task.mask) >= _PAINTED
    height, width = tools.pixels(request)
    box = crop_box(mask, task.picture.size, (width, height), tools.factor, _CONTEXT)
    crop = Crop(box, (width, height))
    noise, t_start = job.x_init, 1 - task.strength
    data = tools.encode([crop.take(task.picture)]).to(noise).expand_as(noise)
    cells = torch.from_numpy(to_latents(crop.take_mask(mask), tools.factor)).to(noise.device)
    alpha = feather_inward(mask, task.feather)

    def keep_outside(state: State, t: float) -> State:
        x = torch.where(cells, state.x, path.point(noise, data, t))
        return State(x, torch.where(cells, state.v, path.velocity(noise, data)))

    def paste_back(images: Sequence[Image.Image]) -> list[Image.Image]:
        return [crop.paste_back(task.picture, image, alpha) for image in images]

    x_init = path.point(noise, data, t_start)
    return replace(job, x_init=x_init, t_start=t_start, project=keep_outside, present=paste_back)
