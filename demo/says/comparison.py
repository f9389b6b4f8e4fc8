"""What the Compare tab says of two plans: in HTML, as points of a chart, and as a record.

Pure functions of a comparison, and of the model's front where there is one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from demo.says import readout
from demo.says.pictures import Difference
from demo.says.readout import evaluations, milliseconds
from demo.service.events import Advanced, Comparison, Side
from flowturbo_core.models.front import Front
from flowturbo_core.plan import SamplePlan

# Of the two plans in chart and table, and of all others in the chart.
COLOURS = ("#d97706", "#0d9488", "#94a3b8")


@dataclass(frozen=True)
class Point:
    """A plan in the chart.

    Args:
        plan: the plan as text.
        ms_per_image: measured of the two that were compared, predicted of the others.
        solver_error: from the model's front.
        index: which of the two it is; None of the others.
    """

    plan: str
    ms_per_image: float
    solver_error: float
    index: int | None = None


def colour(index: int | None) -> str:
    """Return the colour of one of the two plans, or of any other."""
    return COLOURS[-1 if index is None else index]


def idle() -> str:
    """Return the readout before the first comparison."""
    return readout.card("Ready", "", "Two plans, one noise: see what parts their pictures.")


def why_pictures_part() -> str:
    """Return why the same noise can end in another picture."""
    return (
        '<p class="hint">The same noise can end in another picture: each plan follows the flow '
        "with an error of its own, and where the flow forks, a small difference decides.</p>"
    )


def in_progress(advanced: Advanced) -> str:
    """Return the readout while blocks are computed."""
    done = advanced.round - 1 + advanced.block / advanced.num_blocks
    return readout.card(
        advanced.plan,
        f"round {advanced.round} of {advanced.num_rounds}",
        f"{advanced.block} of {advanced.num_blocks} blocks; the plans run in turn",
        below=readout.bar(100 * done / advanced.num_rounds),
    )


def interrupted(comparison: Comparison | None) -> str:
    """Return the readout after a comparison was stopped."""
    if comparison is None:
        return _stopped("Neither plan came to its end.")
    if comparison.rounds == 0:
        return _stopped(f"Only {comparison.sides[0].plan} came to its end.")
    times = "The times are those of the rounds that were finished"
    counted = f"{comparison.rounds} of {comparison.num_rounds}"
    return _stopped(f"{times}, {counted}.")


def stopping() -> str:
    """Return the readout from the moment Stop is pressed until it is known what is there."""
    return _stopped("The times are those of the rounds that were finished.")


def _stopped(text: str) -> str:
    return readout.card("Stopped", "", text, said=f"Stopped. {text}")


def finished(comparison: Comparison, difference: Difference) -> str:
    """Return the readout of a comparison that is done: the faster plan, and by how much."""
    faster = max((0, 1), key=comparison.speed_up)
    fast, slow = comparison.sides[faster], comparison.sides[1 - faster]
    facts = (
        f"{milliseconds(fast.ms_per_image)} against {milliseconds(slow.ms_per_image)} ms / image",
        f"all medians of {comparison.num_rounds} rounds, run in turn",
        f"RMS difference up to {levels(max(difference.rms))} levels",
    )
    ratio = f"{comparison.speed_up(faster):.1f}"
    plans = f"{fast.plan} against {slow.plan}"
    said = [f"{ratio} times as fast: {plans}", *facts, *comparison.warnings]
    return readout.card(
        f"{ratio}×",
        f"as fast: {plans}",
        " · ".join(facts),
        below=readout.hints(comparison.warnings),
        said=". ".join(said),
    )


def figures(comparison: Comparison | None, front: Front | None) -> str:
    """Return the table of both plans, with what is known of them so far."""
    sides = () if comparison is None else comparison.sides
    rows = "".join(_row(comparison, index, front) for index in range(len(sides)))
    heads = ("Plan", "ms / image", "Speed-up", "min – max", "Evaluations", "Solver error")
    cells = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        '<section class="figures" aria-label="Figures" tabindex="0">'
        f"<table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></section>"
    )


def _row(comparison: Comparison, index: int, front: Front | None) -> str:
    side = comparison.sides[index]
    each = side.each_ms_per_image
    error = None if front is None else front.solver_error(str(side.plan))
    speed_up = f"{comparison.speed_up(index):.2f}×" if comparison.rounds else "–"
    cells = (
        milliseconds(side.ms_per_image),
        speed_up,
        f"{milliseconds(min(each))} – {milliseconds(max(each))}",
        evaluations(side.plan).removesuffix(" evaluations"),
        "not measured" if error is None else f"{error:.3g}",
    )
    return (
        f'<tr><th scope="row"><i style="background: {colour(index)}"></i>'
        f"{readout.name_plan(side.plan)}</th>"
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
    )


def points(comparison: Comparison, front: Front) -> list[Point]:
    """Return the front's plans, those compared last: as they were measured, not predicted."""
    rates = comparison.rates_of_all()
    compared = [str(side.plan) for side in comparison.sides]
    others = [
        Point(item.plan, item.ms(rates), item.solver_error)
        for item in front.measured
        if item.plan not in compared and rates.covers(item)
    ]
    errors = [front.solver_error(plan) for plan in compared]
    measured = [
        Point(str(side.plan), side.ms_per_image, error, index)
        for index, (side, error) in enumerate(zip(comparison.sides, errors, strict=True))
        if error is not None
    ]
    return others + measured


def chart_note(comparison: Comparison | None, front: Front | None, model: str) -> str:
    """Return what the chart shows and leaves out, or how to get one where there is no front."""
    if front is None:
        command = f"<code>python -m flowturbo_core tune --model {escape(model)}</code>"
        return f'<p class="hint">{command} makes the chart of this model\'s plans.</p>'
    if comparison is None or comparison.rounds == 0:
        return '<p class="hint">The chart of this model\'s plans comes with the times.</p>'
    return f'<p class="hint">{" ".join(_explained(comparison, front))}</p>' + _in_numbers(
        points(comparison, front)
    )


def _in_numbers(shown: Sequence[Point]) -> str:
    """Return the chart's points as a table, for whoever cannot see or point at them."""
    rows = "".join(
        f'<tr><th scope="row"><i style="background: {colour(point.index)}"></i>'
        f"{readout.name_plan(SamplePlan.parse(point.plan))}</th><td>{milliseconds(point.ms_per_image)}</td>"
        f"<td>{point.solver_error:.3g}</td></tr>"
        for point in sorted(shown, key=lambda point: point.ms_per_image)
    )
    heads = "".join(
        f'<th scope="col">{head}</th>' for head in ("Plan", "ms / image", "Solver error")
    )
    return (
        '<details class="figures"><summary>The chart in numbers</summary>'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _explained(comparison: Comparison, front: Front) -> list[str]:
    rates, guidance_scale = comparison.rates_of_all(), comparison.sides[0].request.guidance_scale
    parts = [f"{milliseconds(rates.predictor_ms)} ms a predictor evaluation"]
    if rates.refiner_ms is not None:
        when = "" if comparison.rates().refiner_ms else " (its share when the model was loaded)"
        parts.append(f"{milliseconds(rates.refiner_ms)} ms a refiner evaluation{when}")
    predicted = f"{', '.join(parts)} and {milliseconds(rates.decode_ms)} ms decoding"
    said = [
        "Time against error, a dot a plan: the two compared in their colours and as measured, the "
        f"others grey and predicted from these runs, {predicted}.",
        f"Errors were measured at guidance {front.guidance_scale:g}"
        + (
            f", and this is {guidance_scale:g}."
            if guidance_scale != front.guidance_scale
            else ", as this is."
        ),
    ]
    if not all(rates.covers(item) for item in front.measured):
        said.append("Plans with refiner steps are left out: neither of these two has any.")
    plans = [str(side.plan) for side in comparison.sides]
    unknown = [plan for plan in plans if front.solver_error(plan) is None]
    if unknown:
        said.append(
            f"The error of {escape(' and of '.join(unknown))} is not measured, so that the table "
            "alone has it."
        )
    return said


def record(comparison: Comparison, difference: Difference, front: Front | None) -> dict[str, Any]:
    """Return what a program wants to know of a comparison that is done."""
    shared = comparison.sides[0].request.to_json()
    del shared["plan"]
    chart = None if front is None else points(comparison, front)
    return {
        **shared,
        "plans": [_side_record(comparison, index, front) for index in (0, 1)],
        "num_rounds": comparison.num_rounds,
        "rates": asdict(comparison.rates()),
        "difference_factor": difference.factor,
        "difference_rms": difference.rms,
        "front": chart and [_point_record(point) for point in chart],
        "warnings": list(comparison.warnings),
        "versions": dict(comparison.versions),
    }


def _side_record(comparison: Comparison, index: int, front: Front | None) -> dict[str, Any]:
    side: Side = comparison.sides[index]
    each = side.each_ms_per_image
    return {
        "plan": str(side.plan),
        "ms_per_image": side.ms_per_image,
        "ms_min": min(each),
        "ms_max": max(each),
        "round_ms": each,
        "predictor_evaluations": side.plan.predictor_evaluations,
        "refiner_evaluations": side.plan.refiner_evaluations,
        "speed_up": comparison.speed_up(index),
        "solver_error": None if front is None else front.solver_error(str(side.plan)),
    }


def _point_record(point: Point) -> dict[str, Any]:
    return {
        "plan": point.plan,
        "ms_per_image": point.ms_per_image,
        "is_measured": point.index is not None,
        "solver_error": point.solver_error,
    }


def levels(value: float) -> str:
    """Return a difference in levels of 255, with two digits that mean something."""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"
