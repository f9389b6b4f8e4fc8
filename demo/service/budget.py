"""Plans by the milliseconds an image they take: which to choose, and what to expect of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from flowturbo_core.models.front import FrontPlan
from flowturbo_core.rates import Evaluated, Rates


@dataclass(frozen=True)
class PlanBudget:
    """The plans that are worth their time, at this machine's rates.

    Args:
        plans: at least one, all of them covered by the rates.
        rates: what their parts take here.
    """

    plans: tuple[FrontPlan, ...]
    rates: Rates

    @classmethod
    def of(cls, plans: Sequence[FrontPlan], rates: Rates | None) -> Self | None:
        """Return the budget of the plans that the rates cover; None if there are none."""
        covered = () if rates is None else tuple(item for item in plans if rates.covers(item))
        return cls(covered, rates) if covered else None

    @property
    def limits(self) -> tuple[float, float]:
        """Milliseconds an image of the cheapest and of the dearest plan."""
        times = [item.ms(self.rates) for item in self.plans]
        return min(times), max(times)

    def best_within(self, ms_per_image: float) -> str:
        """Return the most exact plan that takes no longer; the cheapest, if all of them do."""
        affordable = [item for item in self.plans if item.ms(self.rates) <= ms_per_image]
        cheapest = min(self.plans, key=lambda item: item.ms(self.rates))
        return min(affordable, key=lambda item: item.solver_error, default=cheapest).plan

    def expected_ms(self, plan: Evaluated) -> float | None:
        """Return the milliseconds an image that a plan should take here, if its parts are known."""
        return self.rates.ms_of(plan) if self.rates.covers(plan) else None
