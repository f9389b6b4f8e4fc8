"""Sampling plans: which block comes when, what it costs, and at which times.

A plan is written as in FlowTurbo (2409.18128): H1P5R3 is one Heun block, five pseudo-corrector
blocks and three refiner blocks; E25 is 25 Euler blocks; [H1P1R1]x3 repeats what is in brackets.
"""

import itertools
import numbers
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flowturbo_core.checks import brief, cut, whole_number

MAX_STEPS = 100
# Of FlowTurbo's paper (2409.18128, table 1), with plain Heun to compare with.
BASELINE = "H8"  # what papers and this project compare with
PAPER_PLANS = ("H8", "H2P4R2", "H1P5R3", "H5P7R3", "H8P9R5")
SOLVERS = {"H": "Heun", "E": "Euler"}  # whose steps a plan may begin with
_MAX_TEXT = 400

# Evaluations of (predictor, refiner) that one block costs.
_COST = {"E": (1, 0), "H": (2, 0), "P": (1, 0), "R": (0, 2)}
# After these blocks a P may reuse the carried velocity: only H and P end on the velocity at their
# end point, or at the predicted one.
_LEAVES_FRESH_VELOCITY = {"H", "P"}

_REPEAT = re.compile(r"\[((?:[EHPR][0-9]+)+)\]x([0-9]+)|((?:[EHPR][0-9]+)+)")


@dataclass(frozen=True)
class SamplePlan:
    """A sequence of blocks on a uniform time grid.

    Args:
        blocks: one letter a block, of E (Euler), H (Heun), P (pseudo corrector), R (refiner).
            A P without a fresh velocity to reuse (the first block, or after E or R) must
            evaluate one. It is then an H, and `kinds` has an H for it.

    Raises ValueError for an unknown letter, for no block or more than 100, and for a plan that
    begins with R, which would have no velocity to refine.
    """

    blocks: str

    def __post_init__(self) -> None:
        if not isinstance(self.blocks, str):
            raise ValueError(
                f"the blocks of a plan are a text, like HPPR, not {brief(self.blocks)}"
            )
        unknown = set(self.blocks) - _COST.keys()
        if unknown:
            raise ValueError(f"plan letter {brief(min(unknown))} is not one of E, H, P, R")
        if not self.blocks:
            raise ValueError("a plan needs at least one step; this one has none")
        if len(self.blocks) > MAX_STEPS:
            raise ValueError(f"a plan has at most {MAX_STEPS} steps, not {len(self.blocks)}")
        if self.blocks[0] == "R":
            raise ValueError(
                f"plan {self} begins with R, a refiner step, which needs the velocity of a step "
                "before it: begin with H, P or E"
            )

    def require_refiner(self, is_there: bool) -> None:
        """Raise ValueError if the plan has refiner steps and the model's refiner is not there."""
        if self.refiner_evaluations and not is_there:
            raise ValueError(f"plan {self} has refiner steps, but this model has no refiner")

    @classmethod
    def parse(cls, text: str) -> "SamplePlan":
        """Read a plan such as "H8", "H1P5R3", "[H1P1R1]x3" or "E25"."""
        if not isinstance(text, str) or len(text) > _MAX_TEXT:
            raise ValueError(
                f"a plan is a text of at most {_MAX_TEXT} characters, like H1P5R3, not "
                f"{brief(text)}"
            )
        compact = text.strip()
        parts = list(_REPEAT.finditer(compact))
        if not compact or "".join(part.group() for part in parts) != compact:
            raise ValueError(
                f"plan {brief(text)} is not understood; write H, P, R or E with a number after "
                "each, like H1P5R3, [H1P1R1]x3 or E25"
            )
        blocks = ""
        for part in parts:
            bracketed, times, plain = part.groups()
            groups = re.findall(r"([EHPR])(\d+)", bracketed or plain)
            sizes = [_bounded(size) for _, size in groups]
            repeats = _bounded(times) if times else 1
            if repeats * sum(sizes) > MAX_STEPS:
                raise ValueError(f"a plan has at most {MAX_STEPS} steps; {brief(text)} has more")
            blocks += repeats * "".join(
                letter * size for (letter, _), size in zip(groups, sizes, strict=True)
            )
        if not blocks:
            raise ValueError(f"plan {brief(text)} has no step; a plan needs at least one")
        return cls(blocks)

    @classmethod
    def from_counts(
        cls, heun: int = 0, pseudo: int = 0, refiner: int = 0, solver: str = "H"
    ) -> "SamplePlan":
        """Return the plan H..P..R.. of the given numbers of steps; `solver` is of the first."""
        if solver not in list(SOLVERS):
            raise ValueError(f"solver {brief(solver)} is not one of {', '.join(SOLVERS)}")
        steps = (
            (solver, f"{SOLVERS[solver]} steps", heun),
            ("P", "pseudo-corrector steps", pseudo),
            ("R", "refiner steps", refiner),
        )
        return cls(
            "".join(kind * whole_number(name, count, 0, MAX_STEPS) for kind, name, count in steps)
        )

    def counts(self, solver: str = "H") -> tuple[int, int, int] | None:
        """Return the steps of each kind, or None if the plan is not of the form H..P..R.."""
        counts = tuple(self.blocks.count(kind) for kind in (solver, "P", "R"))
        in_order = "".join(kind * n for kind, n in zip((solver, "P", "R"), counts, strict=True))
        return counts if in_order == self.blocks else None

    def __str__(self) -> str:
        groups = [f"{letter}{len(list(run))}" for letter, run in itertools.groupby(self.blocks)]
        for period in range(2, len(groups) // 2 + 1):
            repeats, rest = divmod(len(groups), period)
            if rest == 0 and groups == groups[:period] * repeats:
                return f"[{''.join(groups[:period])}]x{repeats}"
        return "".join(groups)

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def kinds(self) -> str:
        """The blocks as they are computed: a P with no fresh velocity to reuse is an H."""
        before = " " + self.blocks
        return "".join(
            "H" if block == "P" and previous not in _LEAVES_FRESH_VELOCITY else block
            for previous, block in zip(before, self.blocks, strict=False)
        )

    @property
    def predictor_evaluations(self) -> int:
        """How often the predictor is evaluated for one image (a guided pair counts once)."""
        return sum(_COST[kind][0] for kind in self.kinds)

    @property
    def refiner_evaluations(self) -> int:
        """How often the refiner is evaluated for one image (a guided pair counts once)."""
        return sum(_COST[kind][1] for kind in self.kinds)

    def time_grid(self, t_start: float = 0.0) -> tuple[float, ...]:
        """Return the len + 1 uniform times from `t_start` (0 is noise) to 1 (data)."""
        is_number = isinstance(t_start, numbers.Real) and not isinstance(t_start, bool)
        if not (is_number and 0 <= t_start <= 1):  # false for NaN too
            raise ValueError(f"t_start must be a number from 0 to 1, not {brief(t_start)}")
        steps = len(self)
        return tuple(t_start + (1 - t_start) * i / steps for i in range(steps)) + (1.0,)

    def schedule(self, t_start: float = 0.0) -> Iterator[tuple[str, float, float]]:
        """Yield (kind, t, dt) for each block in order."""
        grid = self.time_grid(t_start)
        for kind, t, t_next in zip(self.kinds, grid, grid[1:], strict=False):
            yield kind, t, t_next - t


def _bounded(digits: str) -> int:
    """Read a count; one too long to be allowed is not even turned into a number."""
    return int(digits) if len(digits.lstrip("0")) <= 3 else MAX_STEPS + 1


def parse_distinct(plans: Sequence[str]) -> list[SamplePlan]:
    """Read plans to compare: at least one, and none twice."""
    if not plans:
        raise ValueError("name at least one plan; the list is empty")
    parsed = [SamplePlan.parse(plan) for plan in plans]
    known: dict[str, str] = {}
    for plan in parsed:
        # P8 is H1P7, as its first P has nothing to reuse: one plan, whatever it is called.
        if (other := known.get(plan.kinds)) is not None:
            also = "" if other == str(plan) else f": {plan} is {other}"
            raise ValueError(f"a plan is named twice in {cut(', '.join(plans))}{also}")
        known[plan.kinds] = str(plan)
    return parsed
