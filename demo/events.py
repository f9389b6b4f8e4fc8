"""What happens while a request is served, as tabs see it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from PIL import Image

from flowturbo_core.metadata import Settings
from flowturbo_core.plan import SamplePlan

if TYPE_CHECKING:  # it imports torch, which the page must not wait for
    from flowturbo_core.timing import Timing


@dataclass(frozen=True)
class PlanSummary:
    """A plan as text, such as H1P5R3, and what it costs for one image."""

    plan: str
    num_blocks: int
    predictor_evaluations: int
    refiner_evaluations: int

    @classmethod
    def of(cls, plan: SamplePlan) -> Self:
        """Summarise `plan`."""
        return cls(str(plan), len(plan), plan.predictor_evaluations, plan.refiner_evaluations)


@dataclass(frozen=True)
class Preview:
    """A block is done: the pictures that sampling points at now.

    Args:
        pictures: one an image, in order.
        captions: the class of each.
        block: how many blocks are done, from 1.
        num_blocks: how many the plan has.
        kind: the kind of this block: H, P or R.
        curvature: of each image's path over this block; None for the first block.
        settings: what makes these images again.
    """

    pictures: tuple[Image.Image, ...]
    captions: tuple[str, ...]
    block: int
    num_blocks: int
    kind: str
    curvature: tuple[float, ...] | None
    settings: Settings


@dataclass(frozen=True)
class Done:
    """All is done: the final pictures, and what they took.

    Args:
        pictures: one an image, in order.
        captions: the class of each.
        timing: sampling and decoding, previews not counted.
        plan: the plan and its evaluations.
        kinds: the kind of each block: H, P or R.
        settings: what makes these images again.
        heun_ms_per_image: what as many Heun blocks would have taken in this run; None if the
            plan is that plan.
        versions: of what made them.
    """

    pictures: tuple[Image.Image, ...]
    captions: tuple[str, ...]
    timing: "Timing"
    plan: PlanSummary
    kinds: str
    settings: Settings
    heun_ms_per_image: float | None
    versions: Mapping[str, str]

    @property
    def speed_up(self) -> float | None:
        """How many times as fast as that many Heun blocks; None if it is they."""
        if self.heun_ms_per_image is None:
            return None
        return self.heun_ms_per_image / self.timing.ms_per_image


@dataclass(frozen=True)
class Stopped:
    """The person stopped it; the last preview, if there was one, is what remains."""
