"""The only door to flowturbo_core: the models, the one thread that runs them, what they report.

Tabs hand in raw values and read events; they see no tensor and no model.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, Self
from weakref import WeakValueDictionary

from PIL import Image

from demo.metadata import Settings
from flowturbo_core.devices import resolve_device, resolve_dtype
from flowturbo_core.evaluation.stability import curvature
from flowturbo_core.models.catalog import DEFAULT_MODEL
from flowturbo_core.pipelines.base import Progress
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.plan import SamplePlan
from flowturbo_core.requests import (
    MAX_GUIDANCE_SCALE,
    MAX_IMAGES,
    MAX_SEED,
    ClassConditionalRequest,
    brief,
    real_number,
    whole_number,
)
from flowturbo_core.sampler import Job
from flowturbo_core.timing import Timing, timed

# What the page offers, and so what it and its API accept: lowest and highest value.
HEUN_STEPS = (0, 24)
PSEUDO_STEPS = (0, 24)
REFINER_STEPS = (0, 8)
GUIDANCE_SCALE = (0, MAX_GUIDANCE_SCALE)
NUM_IMAGES = (1, 8)
# The plans of FlowTurbo's paper (2409.18128).
PRESETS = ("H8", "H2P4R2", "H1P5R3", "H5P7R3", "H8P9R5")

_BASELINE_BLOCKS = 3
_FIRST_CLASSES = 4
# The page runs on the machine it measures. Encoding, sending and showing four previews beside the
# blocks made those take twice as long on 2 cores, so the two take turns: blocks run undisturbed for
# a while, then their previews are handed over, and the thread stands still until the consumer has
# dealt with each, though no longer than its patience, and a browser has had time to show it.
_UNDISTURBED_S = 1.0
_PATIENCE_S = 0.25
_SETTLING_S = 0.1


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
        heun_ms_per_image: what as many Heun blocks take; None if the plan is that plan.
    """

    pictures: tuple[Image.Image, ...]
    captions: tuple[str, ...]
    timing: Timing
    plan: PlanSummary
    kinds: str
    settings: Settings
    heun_ms_per_image: float | None

    @property
    def speed_up(self) -> float | None:
        """How many times as fast as that many Heun blocks; None if it is they."""
        if self.heun_ms_per_image is None:
            return None
        return self.heun_ms_per_image / self.timing.ms_per_image


@dataclass
class _Task:
    work: Callable[[], Iterator[Any]]
    cancelled: Event
    events: SimpleQueue = field(default_factory=SimpleQueue)
    waiting: Event = field(default_factory=Event)  # the consumer has dealt with all it was given

    def hand_over(self, held: list[Any]) -> None:
        """Give the consumer what was held back, and time to deal with it."""
        for event in held:
            self.waiting.clear()
            self.events.put(event)
            if not self.cancelled.is_set():
                self.waiting.wait(_PATIENCE_S)
        self.cancelled.wait(_SETTLING_S * len(held))


class Accelerator:
    """The one thread that touches the device; what it is given waits its turn.

    CUDA graphs may only be replayed on the thread that captured them, and Gradio advances
    generators on any thread it likes.
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue[_Task] = SimpleQueue()
        Thread(target=self._serve, name="accelerator", daemon=True).start()

    def stream(self, work: Callable[[], Iterator[Any]], stop: Event | None = None) -> Iterator[Any]:
        """Run the generator that `work` returns on the thread, and yield what it yields.

        Closing this generator stops the work where it next yields; so does `stop`. A None from
        the work only offers that chance and is not passed on. What the work raises is raised here.
        """
        task = _Task(work, Event() if stop is None else stop)
        self._tasks.put(task)
        try:
            while True:
                task.waiting.set()
                event = task.events.get()
                if event is None:
                    return
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            task.cancelled.set()
            task.waiting.set()

    def call(self, work: Callable[[], Any]) -> Any:
        """Run `work` on the thread and return its result, which must not be None."""
        return next(self.stream(lambda: iter([work()])))

    def _serve(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                self._advance(task)
                task.events.put(None)
            except Exception as error:  # the request's own; the thread serves the next one
                task.events.put(error)

    @staticmethod
    def _advance(task: _Task) -> None:
        if task.cancelled.is_set():  # while it waited its turn
            return
        held: list[Any] = []
        began = time.monotonic()
        with closing(task.work()) as events:
            try:
                for event in events:
                    if event is not None:
                        held.append(event)
                    if time.monotonic() - began >= _UNDISTURBED_S:
                        task.hand_over(held)
                        held, began = [], time.monotonic()
                    if task.cancelled.is_set():
                        return
            finally:
                for event in held:  # nothing is left to disturb
                    task.events.put(event)


class Service:
    """The models, and what can be asked of them.

    Args:
        pipeline: the class-conditional pipeline; from now on only `accelerator` runs it.
        name: what the page calls the model.
        accelerator: the thread to run it on.
    """

    def __init__(self, pipeline: ClassConditionalPipeline, name: str, accelerator: Accelerator):
        self._pipeline, self._accelerator, self.name = pipeline, accelerator, name
        self._heun_block_ms: dict[tuple[int, bool], float] = {}
        self._stops: WeakValueDictionary[str, Event] = WeakValueDictionary()

    @classmethod
    def load(
        cls, model: str | None = None, device: str | None = None, dtype: str | None = None
    ) -> Self:
        """Load a model by name or folder; None takes the bundled one and the best device.

        Raises ValueError, in one sentence, for a model, device or dtype that is not there.
        """
        name = DEFAULT_MODEL if model is None else model
        torch_device = resolve_device(device)
        torch_dtype = resolve_dtype(dtype, torch_device)
        load = partial(ClassConditionalPipeline.from_pretrained, name, torch_device, torch_dtype)
        accelerator = Accelerator()
        return cls(accelerator.call(load), Path(name).name, accelerator)

    @property
    def description(self) -> str:
        """The model, its device and its number format, for people."""
        dtype = str(self._pipeline.dtype).removeprefix("torch.")
        return f"{self.name} on {self._pipeline.device}, {dtype}"

    @property
    def class_names(self) -> list[str]:
        """The classes of the model, label 0 first."""
        return self._pipeline.class_names

    @property
    def has_refiner(self) -> bool:
        """Whether the model can take refiner steps."""
        return self._pipeline.refiner is not None

    @property
    def presets(self) -> list[str]:
        """The plans of the paper that this model can run."""
        return [p for p in PRESETS if self.has_refiner or "R" not in p]

    @property
    def default_guidance_scale(self) -> float:
        """The guidance scale the model's config names."""
        return self._pipeline.default_guidance_scale

    @property
    def default_counts(self) -> tuple[int, int, int]:
        """Heun, pseudo-corrector and refiner steps of the plan the model's config names.

        H8 where three sliders cannot express that plan.
        """
        return self._own_counts() or self.step_counts("H8")

    @property
    def note(self) -> str:
        """What a person should know of the model's default plan; empty if nothing."""
        if self._own_counts() is not None:
            return ""
        plan = self._pipeline.default_plan
        return f" This model's own plan is {plan}, which three sliders cannot say; H8 stands in."

    def _own_counts(self) -> tuple[int, int, int] | None:
        counts = _counts_of(self._pipeline.default_plan)
        limits = (HEUN_STEPS, PSEUDO_STEPS, REFINER_STEPS)
        if counts is None or any(n > high for n, (_, high) in zip(counts, limits, strict=True)):
            return None
        return counts

    @property
    def default_settings(self) -> Settings:
        """What the page opens with: the first classes at the model's defaults."""
        return Settings(
            self.name,
            tuple(self.class_names[:_FIRST_CLASSES]),
            str(_plan(*self.default_counts)),
            self.default_guidance_scale,
            1,
            0,
        )

    @staticmethod
    def step_counts(plan: str) -> tuple[int, int, int]:
        """Heun, pseudo-corrector and refiner steps of a plan such as H1P5R3."""
        blocks = SamplePlan.parse(plan).blocks
        return blocks.count("H"), blocks.count("P"), blocks.count("R")

    @staticmethod
    def describe_plan(heun: object, pseudo: object, refiner: object) -> PlanSummary:
        """Summarise the plan of unchecked numbers of steps; ValueError says what is wrong."""
        return PlanSummary.of(_plan(heun, pseudo, refiner))

    def generate_class_conditional(
        self,
        class_names: Sequence[str | int],
        heun: object,
        pseudo: object,
        refiner: object,
        guidance_scale: object,
        num_images: object,
        seed: object,
        randomise: object,
        visitor: str | None = None,
    ) -> Iterator[Preview | Done]:
        """Generate images of classes from unchecked values: a Preview a block, then Done.

        Closing the iterator stops the work within one block; so does `interrupt` with the same
        `visitor`, after which the iterator just ends. Raises ValueError for a value that
        is not allowed, FloatingPointError if the arithmetic overflows.
        """
        if not isinstance(randomise, bool):
            raise ValueError(f"randomise must be true or false, not {randomise!r}")
        request = self._request(
            class_names,
            (heun, pseudo, refiner),
            guidance_scale,
            num_images,
            random.randint(0, MAX_SEED - MAX_IMAGES) if randomise else seed,
        )
        stop = Event()
        if visitor is not None:
            self._stops[visitor] = stop
        return self._accelerator.stream(partial(self._generate, request), stop)

    def interrupt(self, visitor: str | None) -> None:
        """End what this visitor last asked for, within one block."""
        stop = self._stops.get(visitor)
        if stop is not None:
            stop.set()

    def counts_of(self, settings: Settings) -> tuple[int, int, int]:
        """Return the numbers of Heun, pseudo-corrector and refiner steps of `settings`.

        Raises ValueError if this page cannot make the pictures of these settings.
        """
        if settings.model != self.name:
            raise ValueError(
                f"these are settings of the model {brief(settings.model)}; this page runs "
                f"{self.name!r}"
            )
        counts = _counts_of(settings.plan)
        if counts is None:
            raise ValueError(f"plan {brief(settings.plan)} is none of H..P..R..")
        values = settings.guidance_scale, settings.num_images, settings.seed
        self._request(settings.class_names, counts, *values)
        return counts

    def _request(
        self,
        class_names: object,
        counts: Sequence[object],
        guidance_scale: object,
        num_images: object,
        seed: object,
    ) -> ClassConditionalRequest:
        return self._pipeline.request(
            [] if class_names is None else class_names,
            _plan(*counts),
            real_number("guidance scale", guidance_scale, *GUIDANCE_SCALE),
            whole_number("number of images", num_images, *NUM_IMAGES),
            seed,
        )

    def _generate(self, request: ClassConditionalRequest) -> Iterator[Preview | Done | None]:
        pipeline, plan = self._pipeline, request.plan
        captions = tuple(self.class_names[label] for label in request.labels)
        settings = Settings(
            self.name,
            tuple(self.class_names[label] for label in request.class_labels),
            str(plan),
            request.guidance_scale,
            request.num_images,
            request.seed,
        )
        job = pipeline.job(request)
        block_ms, before = [], None
        for progress in pipeline.run(job, plan):
            block_ms.append(progress.block_ms)
            bend = None if before is None else _curvature(before, progress)
            before = progress
            decode = partial(pipeline.decode, progress.prediction())
            pictures, decode_ms = timed(decode, pipeline.device)
            yield Preview(
                tuple(pictures),
                captions,
                progress.block,
                progress.num_blocks,
                progress.kind,
                bend,
                settings,
            )
        # At the end the state is what it points at: the last preview is the result, and its
        # decoding the only one that counts.
        timing = Timing(len(captions), tuple(block_ms), decode_ms)
        heun_ms = None
        if set(plan.kinds) != {"H"}:
            block = yield from self._heun_block(job, guided=request.guidance_scale != 1)
            heun_ms = (len(plan) * block + decode_ms) / len(captions)
        yield Done(
            tuple(pictures), captions, timing, PlanSummary.of(plan), plan.kinds, settings, heun_ms
        )

    def _heun_block(self, job: Job, guided: bool) -> Iterator[None]:
        """Return the milliseconds of a Heun block of this shape, measured the first time."""
        key = (len(job.x_init), guided)
        if key not in self._heun_block_ms:
            times = []
            for progress in self._pipeline.run(job, SamplePlan("H" * _BASELINE_BLOCKS)):
                times.append(progress.block_ms)
                yield None
            self._heun_block_ms[key] = statistics.median(times)
        return self._heun_block_ms[key]


def _curvature(before: Progress, after: Progress) -> tuple[float, ...]:
    return tuple(curvature(before.state.v, after.state.v, after.t - before.t).tolist())


def _counts_of(plan: str) -> tuple[int, int, int] | None:
    """Return the steps of each kind of a plan H..P..R.., or None if it is not of that form."""
    counts = Service.step_counts(plan)
    ordered = "".join(count * kind for count, kind in zip(counts, "HPR", strict=True))
    return counts if SamplePlan.parse(plan).blocks == ordered else None


def _plan(heun: object, pseudo: object, refiner: object) -> SamplePlan:
    return SamplePlan.from_counts(
        whole_number("Heun steps", heun, *HEUN_STEPS),
        whole_number("pseudo-corrector steps", pseudo, *PSEUDO_STEPS),
        whole_number("refiner steps", refiner, *REFINER_STEPS),
    )
