"""The only door to flowturbo_core: what the model is, what can be asked of it, and how it fares.

Tabs hand in raw values and read events; they see no tensor and no model. The model is loaded in
the background: everything that a page is built from is read from its folder without torch.
"""

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

from demo.accelerator import Accelerator
from demo.budget import Budget
from demo.events import Advanced, Comparison, Done, PlanSummary, Preview, Stopped
from flowturbo_core.metadata import Settings
from flowturbo_core.models.catalog import DEFAULT_MODEL, ModelDescription
from flowturbo_core.models.front import FrontPlan
from flowturbo_core.plan import PAPER_PLANS, SamplePlan, parse_distinct
from flowturbo_core.requests import (
    MAX_GUIDANCE_SCALE,
    MAX_IMAGES,
    MAX_SEED,
    ClassConditionalRequest,
    brief,
    real_number,
    whole_number,
)

if TYPE_CHECKING:
    from demo.engine import Engine

# What the page offers, and so what it and its API accept: lowest and highest value.
HEUN_STEPS = (0, 24)
PSEUDO_STEPS = (0, 24)
REFINER_STEPS = (0, 8)
GUIDANCE_SCALE = (0, MAX_GUIDANCE_SCALE)
NUM_IMAGES = (1, 8)
NUM_COMPARED = (1, 4)  # images of each class when two plans are run three times each
BASELINE = "H8"

_FIRST_CLASSES = 4
_LOOK_AGAIN_S = 0.25
_MAX_VISITORS = 10_000  # whose last Stop is remembered


class Service:
    """A model, and what can be asked of it.

    Args:
        model: what its folder says of it.
        load: makes the engine; called on the accelerator's thread.
        accelerator: the thread that loads and runs it.
    """

    def __init__(
        self,
        model: ModelDescription,
        load: Callable[[], "Engine"],
        accelerator: Accelerator | None = None,
    ):
        self.model = model
        self._accelerator = Accelerator() if accelerator is None else accelerator
        self._engine: Future[Engine] = self._accelerator.submit(load)
        self._wanted = _Wanted()

    @classmethod
    def load(
        cls, model: str | None = None, device: str | None = None, dtype: str | None = None
    ) -> Self:
        """Begin to load a model by name or folder; None takes the bundled one, the best device.

        Raises ValueError, in one sentence, for a model that is not there; what goes wrong later,
        `wait` raises.
        """
        description = ModelDescription.read(DEFAULT_MODEL if model is None else model)

        def load() -> "Engine":
            from demo.engine import Engine  # on the accelerator's thread: it takes seconds

            return Engine.load(description, device, dtype)

        return cls(description, load)

    def wait(self) -> None:
        """Wait until the model is loaded; raise what went wrong, if it cannot be."""
        self._engine.result()

    def until_loaded(self) -> Iterator[None]:
        """Yield now and then until the model is loaded, so that whoever waits can be stopped."""
        while not self._engine.done():
            yield
            wait([self._engine], _LOOK_AGAIN_S)

    def health(self) -> dict[str, Any]:
        """Return how the service fares: `status` is loading, ready or failed."""
        state: dict[str, Any] = {"status": "loading", "model": self.name}
        if self._engine.done() and (error := self._engine.exception()) is not None:
            state |= {"status": "failed", "error": str(error)}
        elif self._engine.done():
            engine = self._engine.result()
            state |= {"status": "ready", "device": engine.device, "dtype": engine.dtype}
        return state

    @property
    def front_plans(self) -> tuple[FrontPlan, ...]:
        """The plans worth their time that the sliders can make; none where they are not known."""
        try:
            front = self.model.front
        except ValueError:  # Compare says what is wrong with it
            return ()
        plans = () if front is None else front.plans
        return tuple(its for its in plans if _slider_counts(its.plan) is not None)

    @property
    def budget(self) -> Budget | None:
        """What those plans take here; None where there are none, or nothing is loaded yet."""
        if not self._engine.done() or self._engine.exception() is not None:
            return None
        return Budget.of(self.front_plans, self._engine.result().rates)

    def within(self, ms_per_image: object) -> tuple[int, int, int]:
        """Return the steps of the most exact plan that takes no longer, or of the cheapest.

        Raises ValueError for no number, and where no such plan is known.
        """
        wanted, budget = real_number("milliseconds per image", ms_per_image, 0, 1e9), self.budget
        if budget is None:
            raise ValueError("which plans are worth their time is not known of this model yet")
        return self.step_counts(budget.best_within(wanted))

    @property
    def name(self) -> str:
        """What the page calls the model."""
        return self.model.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the model, label 0 first."""
        return self.model.class_names

    @property
    def has_refiner(self) -> bool:
        """Whether the model can take refiner steps."""
        return self.model.has_refiner

    @property
    def presets(self) -> list[str]:
        """Plain Heun, the model's own plan, and those of the paper that it can run."""
        own = [] if self._own_counts() is None else [self.model.default_plan]
        plans = PAPER_PLANS if set(own) <= set(PAPER_PLANS) else (BASELINE, *own, *PAPER_PLANS[1:])
        return [p for p in plans if self.has_refiner or "R" not in p]

    @property
    def default_counts(self) -> tuple[int, int, int]:
        """Heun, pseudo-corrector and refiner steps of the plan the model's index names.

        H8 where three sliders cannot express that plan.
        """
        return self._own_counts() or self.step_counts(BASELINE)

    @property
    def note(self) -> str:
        """What a person should know of the model's default plan."""
        note = f" This model's own plan is {self.model.default_plan}"
        if self._own_counts() is not None:
            return f"{note}."
        return f"{note}, which three sliders cannot say; {BASELINE} stands in."

    def _own_counts(self) -> tuple[int, int, int] | None:
        return _slider_counts(self.model.default_plan)

    @property
    def default_plans(self) -> tuple[str, str]:
        """The two plans that a comparison opens with: plain Heun, and the model's own.

        Where its own is plain Heun, as many blocks of FlowTurbo's.
        """
        own = self.model.default_plan
        if own != BASELINE:
            return BASELINE, own
        return BASELINE, "H2P4R2" if self.has_refiner else "H1P7"

    @property
    def default_settings(self) -> Settings:
        """What the page opens with: the first classes at the model's defaults."""
        return Settings(
            self.name,
            self.class_names[:_FIRST_CLASSES],
            str(_plan(*self.default_counts)),
            self.model.default_guidance_scale,
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

    def read_plan(self, text: object) -> PlanSummary:
        """Summarise a plan of any form, written by a person; ValueError says what is wrong."""
        plan = SamplePlan.parse(text)
        plan.require_refiner(self.has_refiner)
        return PlanSummary.of(plan)

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
        ticket: int = 0,
    ) -> Iterator[Preview | Done | Stopped]:
        """Generate images of classes from unchecked values: a Preview a block, then Done.

        Closing the iterator stops the work within one block. So do `stop` and `overtake` by the
        same `visitor` with this `ticket` or a later one, even before this was called: what they
        ended is not begun. Raises ValueError for a value that is not allowed,
        FloatingPointError if the arithmetic overflows.
        """
        request = self._request(
            class_names,
            _plan(heun, pseudo, refiner),
            guidance_scale,
            whole_number("number of images", num_images, *NUM_IMAGES),
            _seed(seed, randomise),
        )
        end = self._wanted.begin(visitor, ticket)
        return self._until_ended(partial(self._generate, request), end)

    def compare_plans(
        self,
        class_names: Sequence[str | int],
        first_plan: object,
        second_plan: object,
        guidance_scale: object,
        num_images: object,
        seed: object,
        randomise: object,
        visitor: str | None = None,
        ticket: int = 0,
    ) -> Iterator[Advanced | Comparison | Stopped]:
        """Run two plans in turn from the same noise, from unchecked values.

        The last Comparison is done. Ends, and refuses, as `generate_class_conditional` does; two
        plans that are one are refused as well.
        """
        first_seed = _seed(seed, randomise)
        count = whole_number("number of images", num_images, *NUM_COMPARED)
        requests = [
            self._request(class_names, plan, guidance_scale, count, first_seed)
            for plan in parse_distinct([first_plan, second_plan])
        ]
        end = self._wanted.begin(visitor, ticket)
        return self._until_ended(partial(self._compare, requests), end)

    def stop(self, visitor: str, ticket: int) -> None:
        """End all that this visitor asked for up to `ticket`, within one block."""
        self._wanted.end(visitor, ticket, stopped=True)

    def overtake(self, visitor: str, ticket: int) -> None:
        """End the same, as something newer is asked for: nobody is told that it was stopped."""
        self._wanted.end(visitor, ticket, stopped=False)

    def restored(self, settings: Settings) -> tuple[list[str], tuple[int, int, int]]:
        """Return the classes, as the model names them, and the steps of each kind of `settings`.

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
        request = self._request(
            settings.class_names,
            _plan(*counts),
            settings.guidance_scale,
            whole_number("number of images", settings.num_images, *NUM_IMAGES),
            settings.seed,
        )
        return [self.class_names[label] for label in request.class_labels], counts

    def _request(
        self,
        class_names: object,
        plan: SamplePlan,
        guidance_scale: object,
        num_images: int,
        seed: object,
    ) -> ClassConditionalRequest:
        plan.require_refiner(self.has_refiner)
        return ClassConditionalRequest.create(
            [] if class_names is None else class_names,
            plan,
            real_number("guidance scale", guidance_scale, *GUIDANCE_SCALE),
            num_images,
            seed,
            self.class_names,
        )

    def _until_ended(self, work: Callable[[], Iterator[Any]], end: "_End") -> Iterator[Any]:
        yield from self._accelerator.stream(work, end.event)
        if end.stopped:
            yield Stopped()

    def _generate(self, request: ClassConditionalRequest) -> Iterator[Preview | Done]:
        # The thread loads first: here, what it loaded is there, or what went wrong is raised.
        return self._engine.result().generate(request)

    def _compare(
        self, requests: Sequence[ClassConditionalRequest]
    ) -> Iterator[Advanced | Comparison]:
        return self._engine.result().compare(requests)


@dataclass(eq=False)
class _End:
    """How one request is told to end, and whether because it was stopped."""

    ticket: int
    event: Event = field(default_factory=Event)
    stopped: bool = False

    def tell(self, stopped: bool) -> None:
        self.stopped = stopped
        self.event.set()


class _Wanted:
    """Which of the visitors' requests are still wanted.

    A visitor numbers requests by tickets that rise. What ends them names the last it means: it may
    arrive before them, as a click on Stop does while a request still travels or waits its turn.
    """

    def __init__(self) -> None:
        self._current: WeakValueDictionary[str, _End] = WeakValueDictionary()
        self._ended: OrderedDict[str, tuple[int, bool]] = OrderedDict()

    def begin(self, visitor: str | None, ticket: int) -> _End:
        """Return what tells the request to end; at once, if it no longer is wanted."""
        end = _End(ticket)
        if visitor is None:
            return end
        last, stopped = self._ended.get(visitor, (-1, False))
        if ticket <= last:
            end.tell(stopped)
        self._current[visitor] = end
        return end

    def end(self, visitor: str, ticket: int, stopped: bool) -> None:
        """End what the visitor asked for up to `ticket`."""
        last, _ = self._ended.get(visitor, (-1, False))
        if ticket >= last:  # messages may overtake each other on the way
            self._ended[visitor] = (ticket, stopped)
            self._ended.move_to_end(visitor)
        if len(self._ended) > _MAX_VISITORS:
            self._ended.popitem(last=False)
        current = self._current.get(visitor)
        if current is not None and current.ticket <= ticket:
            current.tell(stopped)


def _seed(seed: object, randomise: object) -> object:
    """Return the seed, unchecked, or one that is drawn."""
    if not isinstance(randomise, bool):
        raise ValueError(f"randomise must be true or false, not {randomise!r}")
    return random.randint(0, MAX_SEED - MAX_IMAGES) if randomise else seed


def _counts_of(plan: str) -> tuple[int, int, int] | None:
    """Return the steps of each kind of a plan H..P..R.., or None if it is not of that form."""
    counts = Service.step_counts(plan)
    ordered = "".join(count * kind for count, kind in zip(counts, "HPR", strict=True))
    return counts if SamplePlan.parse(plan).blocks == ordered else None


def _slider_counts(plan: str) -> tuple[int, int, int] | None:
    """Return the steps of each kind, or None if three sliders cannot say the plan."""
    counts = _counts_of(plan)
    limits = (HEUN_STEPS, PSEUDO_STEPS, REFINER_STEPS)
    if counts is None or any(n > high for n, (_, high) in zip(counts, limits, strict=True)):
        return None
    return counts


def _plan(heun: object, pseudo: object, refiner: object) -> SamplePlan:
    return SamplePlan.from_counts(
        whole_number("Heun steps", heun, *HEUN_STEPS),
        whole_number("pseudo-corrector steps", pseudo, *PSEUDO_STEPS),
        whole_number("refiner steps", refiner, *REFINER_STEPS),
    )
