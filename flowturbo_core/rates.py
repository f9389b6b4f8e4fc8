"""Computes the time of any plan on a machine from the measured times of its parts."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:  # it imports torch, which nothing here needs
    from flowturbo_core.timing import Timing


class Evaluated(Protocol):
    """Anything that says how often it evaluates each model for one image, such as a plan."""

    @property
    def predictor_evaluations(self) -> int:
        """Evaluations of the predictor."""

    @property
    def refiner_evaluations(self) -> int:
        """Evaluations of the refiner."""


@dataclass(frozen=True)
class Rates:
    """Milliseconds an image that each part takes on one machine.

    Args:
        predictor_ms: one evaluation of the predictor.
        refiner_ms: one evaluation of the refiner; None where none was measured.
        decode_ms: decoding.
    """

    predictor_ms: float
    refiner_ms: float | None
    decode_ms: float

    @classmethod
    def of(cls, runs: Iterable[tuple[Evaluated, str, "Timing"]]) -> Self:
        """Return the median rates of runs: each is a plan, the kinds of the blocks, and times."""
        predictor, refiner, decoding = [], [], []
        for plan, kinds, timing in runs:
            refining = ms_of_kind(timing, kinds, "R")
            predicting = sum(timing.block_ms) / timing.num_images - refining
            predictor.append(predicting / plan.predictor_evaluations)
            if plan.refiner_evaluations:
                refiner.append(refining / plan.refiner_evaluations)
            decoding.append(timing.decode_ms_per_image)
        return cls(
            statistics.median(predictor),
            statistics.median(refiner) if refiner else None,
            statistics.median(decoding),
        )

    def covers(self, plan: Evaluated) -> bool:
        """Tell whether the rates of all models that the plan evaluates are known."""
        return self.refiner_ms is not None or plan.refiner_evaluations == 0

    def ms_of(self, plan: Evaluated) -> float:
        """Return the milliseconds an image that the plan takes, sampling and decoding.

        Raises ValueError if it evaluates a refiner that was not measured.
        """
        if not self.covers(plan):
            raise ValueError("the plan evaluates the refiner, whose milliseconds are not known")
        refining = plan.refiner_evaluations * (self.refiner_ms or 0)
        return plan.predictor_evaluations * self.predictor_ms + refining + self.decode_ms


def ms_of_kind(timing: "Timing", kinds: str, kind: str) -> float:
    """Return the milliseconds an image of all blocks of one kind; `kinds` has a letter a block."""
    pairs = zip(kinds, timing.block_ms, strict=True)
    return sum(ms for item, ms in pairs if item == kind) / timing.num_images
