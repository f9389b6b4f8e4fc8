"""The plans that three sliders can say: steps of a solver, pseudo-corrector and refiner steps."""

from dataclasses import dataclass
from typing import Self

from flowturbo_core.checks import whole_number
from flowturbo_core.plan import PAPER_PLANS, SamplePlan

Counts = tuple[int, int, int]

# What the sliders go from and to, and so what the page and its API accept.
SOLVER_STEPS = (0, 24)
PSEUDO_STEPS = (0, 24)
REFINER_STEPS = (0, 8)


@dataclass(frozen=True)
class SliderPlans:
    """The plans that a model's sliders can say, such as H1P5R3 or, of a distilled model, E1.

    Args:
        solver: the letter of the first slider's steps: H, Heun's, or E, Euler's.
    """

    solver: str = "H"

    @classmethod
    def of_model(cls, own_plan: str) -> Self:
        """Return those of a model by its own plan: with Euler's steps if it is of few of these.

        So InstaFlow's one-step models say it (2309.06380): they were distilled to such a step.
        """
        euler = cls("E")
        return euler if own_plan.startswith("E") and euler.can_say(own_plan) else cls()

    @property
    def solver_name(self) -> str:
        """What the first slider's steps are called."""
        return {"H": "Heun", "E": "Euler"}[self.solver]

    @property
    def published(self) -> tuple[str, ...]:
        """The plans of the papers: FlowTurbo's, or InstaFlow's one step, and few more."""
        return PAPER_PLANS if self.solver == "H" else ("E1", "E2", "E4")

    def plan(self, solver: object, pseudo: object, refiner: object) -> SamplePlan:
        """Return the plan of unchecked numbers of steps; ValueError says what is wrong."""
        return SamplePlan(
            self.solver * whole_number(f"{self.solver_name} steps", solver, *SOLVER_STEPS)
            + "P" * whole_number("pseudo-corrector steps", pseudo, *PSEUDO_STEPS)
            + "R" * whole_number("refiner steps", refiner, *REFINER_STEPS)
        )

    def counts(self, plan: str) -> Counts | None:
        """Return the steps of each kind of a plan, or None if it is not of this form."""
        blocks = SamplePlan.parse(plan).blocks
        solver, pseudo, refiner = (blocks.count(kind) for kind in f"{self.solver}PR")
        ordered = self.solver * solver + "P" * pseudo + "R" * refiner
        return (solver, pseudo, refiner) if blocks == ordered else None

    def can_say(self, plan: str) -> bool:
        """Whether a plan is of this form, and within the sliders' limits."""
        counts, limits = self.counts(plan), (SOLVER_STEPS, PSEUDO_STEPS, REFINER_STEPS)
        return counts is not None and all(
            count <= high for count, (_, high) in zip(counts, limits, strict=True)
        )
