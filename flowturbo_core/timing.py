"""Measuring what a person waits for: the device's work, never a slow consumer of its results."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Timing:
    """The time that one request took on the device, from noise to decoded images.

    Args:
        num_images: images made together.
        block_ms: milliseconds of each block of the plan, for all images together.
        decode_ms: milliseconds of decoding, for all images together.
    """

    num_images: int
    block_ms: tuple[float, ...]
    decode_ms: float

    @property
    def ms_per_image(self) -> float:
        """Milliseconds an image, sampling and decoding."""
        return (sum(self.block_ms) + self.decode_ms) / self.num_images

    @property
    def decode_ms_per_image(self) -> float:
        """Milliseconds an image of decoding alone."""
        return self.decode_ms / self.num_images


def timed(work: Callable[[], Any], device: "torch.device") -> tuple[Any, float]:
    """Run `work` and return its result with the milliseconds that `device` took for it.

    The device is synchronised before and after: nothing queued earlier is counted, and nothing
    that was only queued is left out.
    """
    # Only here: it brings torch, and who reads times that were written down has no need of that.
    from flowturbo_core.devices import synchronize

    synchronize(device)
    started = time.perf_counter()
    result = work()
    synchronize(device)
    return result, (time.perf_counter() - started) * 1000
