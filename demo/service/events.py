"""What happens while a request is served, as tabs see it."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from PIL import Image, ImageOps

from flowturbo_core.plan import SamplePlan
from flowturbo_core.rates import Rates
from flowturbo_core.requests import Request

THUMBNAIL = 72  # pixels a side

if TYPE_CHECKING:  # it imports torch, which the page must not wait for
    from flowturbo_core.timing import Timing


@dataclass(frozen=True)
class Preview:
    """A block is done: the pictures that sampling points at now.

    Args:
        pictures: one an image, in order.
        request: what makes these images.
        block: how many blocks are done, from 1.
        kind: the kind of this block: E, H, P or R.
        curvature: of each image's path over this block; None for the first block.
    """

    pictures: tuple[Image.Image, ...]
    request: Request
    block: int
    kind: str
    curvature: tuple[float, ...] | None

    def as_thumbnails(self) -> Self:
        """Return it with pictures that are as small as a page shows previews in a row."""
        pictures = tuple(picture.copy() for picture in self.pictures)
        for picture in pictures:
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
        return replace(self, pictures=pictures)


@dataclass(frozen=True)
class Done:
    """All is done: the final pictures, and what they took.

    Args:
        pictures: one an image, in order.
        request: what makes these images.
        timing: sampling and decoding, previews not counted.
        heun_ms_per_image: what H8 would have taken in this run; None if the plan is H8, or
            the model one that H8 is no measure of.
        versions: of what made them.
        warnings: what a person should know of what was asked for.
    """

    pictures: tuple[Image.Image, ...]
    request: Request
    timing: "Timing"
    heun_ms_per_image: float | None
    versions: Mapping[str, str]
    warnings: tuple[str, ...] = ()

    def before(self) -> Image.Image:
        """Return the picture that was worked on, of the first result's size."""
        return ImageOps.fit(self.request.task.picture, self.pictures[0].size)

    @property
    def speed_up(self) -> float | None:
        """How many times as fast as H8; None where that is not to be said."""
        if self.heun_ms_per_image is None:
            return None
        return self.heun_ms_per_image / self.timing.ms_per_image


@dataclass(frozen=True)
class Kept:
    """What an earlier request of the very same settings came to.

    Args:
        previews: of every block, as thumbnails.
        done: the result, with the times of that run.
        machine: where that was, in words, if it was not here.
    """

    previews: tuple[Preview, ...]
    done: Done
    machine: str = ""


class Passing:
    """What matters only until the next event: of several at once, the last is worth showing."""


class Awaited:
    """What takes long to show, and is dealt with before anything more is timed."""


@dataclass(frozen=True)
class Advanced(Passing):
    """A block of a comparison is done.

    Args:
        plan: the plan it belongs to.
        block: how many of its blocks are done in this run, from 1.
        num_blocks: how many it has.
        round: which round this is, from 1.
        num_rounds: how many there are.
    """

    plan: str
    block: int
    num_blocks: int
    round: int
    num_rounds: int


@dataclass(frozen=True)
class Side:
    """One of the two plans of a comparison, as far as it was run.

    Args:
        request: what makes its images, with its plan.
        pictures: those of the first run, one an image.
        timings: of each run, in order.
    """

    request: Request
    pictures: tuple[Image.Image, ...] = ()
    timings: tuple["Timing", ...] = ()

    @property
    def plan(self) -> SamplePlan:
        """The plan."""
        return self.request.plan

    @property
    def each_ms_per_image(self) -> tuple[float, ...]:
        """Milliseconds an image, run by run."""
        return tuple(timing.ms_per_image for timing in self.timings)

    @property
    def ms_per_image(self) -> float:
        """The median milliseconds an image."""
        return statistics.median(self.each_ms_per_image)


@dataclass(frozen=True)
class Comparison(Awaited):
    """Two plans from the same noise, run in turn.

    Args:
        sides: the plans that have pictures: the first alone, at the very beginning, then both.
        num_rounds: how often each plan is to be run.
        versions: of what made them.
        warm: what the model's parts took when it was loaded, if that is known.
        warnings: what a person should know of what was asked for.
    """

    sides: tuple[Side, ...]
    num_rounds: int
    versions: Mapping[str, str]
    warm: Rates | None = None
    warnings: tuple[str, ...] = ()

    @property
    def captions(self) -> tuple[str, ...]:
        """What each picture is of: its class or its text."""
        return self.sides[0].request.captions

    @property
    def rounds(self) -> int:
        """In how many rounds both were run."""
        return len(self.sides[1].timings) if len(self.sides) == 2 else 0

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come."""
        return self.rounds == self.num_rounds

    def speed_up(self, index: int) -> float:
        """Return how many times as fast as the other plan this one is: the median of rounds."""
        own, other = (self.sides[k].each_ms_per_image for k in (index, 1 - index))
        # By logarithms: between two rounds, the middle of a ratio is that of its inverse, too.
        ratios = (math.log(b / a) for a, b in zip(own, other, strict=True))
        return math.exp(statistics.median(ratios))

    def rates(self) -> Rates:
        """Return what an evaluation and decoding took in these runs."""
        return Rates.of(
            (side.plan, side.plan.kinds, timing) for side in self.sides for timing in side.timings
        )

    def rates_of_all(self) -> Rates:
        """Return the same, where neither plan has a refiner with what one may take.

        As large a share of the predictor's time as when the model was loaded.
        """
        rates, warm = self.rates(), self.warm
        if rates.refiner_ms is not None or warm is None or warm.refiner_ms is None:
            return rates
        return replace(rates, refiner_ms=warm.refiner_ms / warm.predictor_ms * rates.predictor_ms)


@dataclass(frozen=True)
class Stopped:
    """The person stopped it; what was shown last, if anything was, is what remains."""


@dataclass(frozen=True)
class Fetching:
    """How the download of a model stands.

    Args:
        status: absent, arriving, here or failed.
        done: bytes that have arrived.
        total: bytes there are; 0 while that is not known.
        error: why it failed.
    """

    status: str
    done: int = 0
    total: int = 0
    error: str = ""
