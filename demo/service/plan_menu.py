"""The plans that a page offers of a model: presets, and those that three sliders can say."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated

from flowturbo_core.checks import brief
from flowturbo_core.fields import Called, Field, Whole, declared_fields
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.plan import BASELINE, PAPER_PLANS, SOLVERS, SamplePlan


@dataclass(frozen=True)
class Steps:
    """How many steps of each kind; of which solver the first are, the model's own plan decides."""

    heun: Annotated[int, Whole(0, 24), "Heun steps", Called(words="Heun steps")]
    pseudo: Annotated[
        int, Whole(0, 24), "pseudo-corrector steps", Called(words="pseudo-corrector steps")
    ]
    refiner: Annotated[int, Whole(0, 8), "refiner steps", Called(words="refiner steps")]


@dataclass(frozen=True)
class PlanMenu:
    """The plans of a model, such as H1P5R3 or, of a distilled model, E1."""

    model: ModelDescription

    @cached_property
    def solver(self) -> str:
        """The letter of the first slider's steps: H, Heun's, or E, Euler's."""
        return solver_of(self.model.default_plan)

    @cached_property
    def fields(self) -> Mapping[str, Field]:
        """The steps of each kind, as fields of a request."""
        fields = dict(declared_fields(Steps))
        steps = f"{SOLVERS[self.solver]} steps"
        fields["heun"] = replace(fields["heun"], about=steps, words=steps)
        return fields

    def plan(self, steps: Mapping[str, object]) -> SamplePlan:
        """Return the plan of unchecked numbers of steps; ValueError says what is wrong."""
        counts = {
            name: item.read(steps.get(name), self.model) for name, item in self.fields.items()
        }
        return SamplePlan.from_counts(**counts, solver=self.solver)

    def steps(self, plan: SamplePlan) -> dict[str, int] | None:
        """Return the steps of each kind by name, or None if the plan is not of this form."""
        counts = plan.counts(self.solver)
        return None if counts is None else dict(zip(self.fields, counts, strict=True))

    def check(self, plan: SamplePlan) -> dict[str, int]:
        """Return the steps of each kind by name; ValueError for a plan that no sliders can say."""
        steps = self.steps(plan)
        if steps is None:
            raise ValueError(f"plan {brief(str(plan))} is none of {self.solver}..P..R..")
        self.plan(steps)
        return steps

    def can_say(self, plan: SamplePlan) -> bool:
        """Whether a plan is of this form, and within the sliders' limits."""
        return _is_within(self.steps(plan))

    @property
    def presets(self) -> list[str]:
        """The model's own plan, and those of the papers that it can run."""
        # FlowTurbo's, or InstaFlow's one step, and few more.
        published = PAPER_PLANS if self.solver == "H" else ("E1", "E2", "E4")
        own, (first, *others) = self.model.default_plan, published
        if own not in published and self._says_own_plan:
            others = [own, *others]
        return [p for p in (first, *others) if self.model.has_refiner or "R" not in p]

    @property
    def default(self) -> SamplePlan:
        """The plan that the model's index names; H8 where three sliders cannot say that."""
        return SamplePlan.parse(self.model.default_plan if self._says_own_plan else BASELINE)

    @property
    def note(self) -> str:
        """What a person should know of the model's default plan."""
        note = f" This model's own plan is {self.model.default_plan}"
        if self._says_own_plan:
            return f"{note}."
        return f"{note}, which three sliders cannot say; {BASELINE} stands in."

    @property
    def _says_own_plan(self) -> bool:
        return self.can_say(SamplePlan.parse(self.model.default_plan))

    @property
    def compared(self) -> tuple[str, str]:
        """The two plans that a comparison opens with: plain Heun, and the model's own.

        Where its own is plain Heun, as many blocks of FlowTurbo's.
        """
        own = self.model.default_plan
        if own != BASELINE:
            return BASELINE, own
        return BASELINE, "H2P4R2" if self.model.has_refiner else "H1P7"


def solver_of(own_plan: str) -> str:
    """Return the solver of a model by its own plan: E if it is of few of Euler's steps, or else H.

    So InstaFlow's one-step models say it (2309.06380): they were distilled to such a step.
    """
    counts = SamplePlan.parse(own_plan).counts("E") if own_plan.startswith("E") else None
    steps = None if counts is None else dict(zip(declared_fields(Steps), counts, strict=True))
    return "E" if _is_within(steps) else "H"


def _is_within(steps: Mapping[str, int] | None) -> bool:
    fields = declared_fields(Steps)
    return steps is not None and all(
        count <= fields[name].kind.high for name, count in steps.items()
    )
