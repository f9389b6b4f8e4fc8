"""What the page says in HTML: a request's progress and result, its trajectory, the visit's runs.

Pure functions from the service's events to text. Whatever came from outside is escaped here.
"""

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from io import BytesIO
from typing import Any

from PIL import Image

from demo.metadata import Settings
from demo.service import Done, PlanSummary, Preview

KINDS = {"H": "Heun", "P": "pseudo corrector", "R": "refiner"}
_THUMBNAIL = 72  # pixels a side
BAR = '<div class="bar">'  # only a readout of work in progress has one


@dataclass(frozen=True)
class Run:
    """A finished request of this visit.

    Args:
        settings: what makes its images again.
        ms_per_image: milliseconds an image.
        thumbnail: its first picture, as an address.
    """

    settings: Settings
    ms_per_image: float
    thumbnail: str

    @classmethod
    def of(cls, done: Done) -> "Run":
        """Keep what the list of runs shows of a result."""
        return cls(done.settings, done.timing.ms_per_image, _inline(done.pictures[0]))


def idle() -> str:
    """Return the readout before the first request."""
    return _card("Ready", "", "Choose a plan, press Generate, and see what each picture costs.")


def interrupted() -> str:
    """Return the readout after a request was stopped or failed."""
    return _card("Stopped", "", "The pictures show how far sampling came.")


def in_progress(preview: Preview) -> str:
    """Return the readout while blocks are computed."""
    share = 100 * preview.block / preview.num_blocks
    return _card(
        f"{preview.block}",
        f"of {preview.num_blocks} blocks",
        f"Last block: {KINDS[preview.kind]}",
        f'{BAR}<div style="width: {share:.0f}%"></div></div>',
    )


def finished(done: Done) -> str:
    """Return the readout of finished images: milliseconds, evaluations, speed-up, blocks."""
    total, decoding = done.timing.ms_per_image, done.timing.decode_ms_per_image
    facts = (
        done.plan.plan,
        f"sampling {milliseconds(total - decoding)} + decoding {milliseconds(decoding)} ms",
        evaluations(done.plan),
    )
    badge = ""
    if done.speed_up is not None:
        baseline = f"H{done.plan.num_blocks} ({milliseconds(done.heun_ms_per_image)} ms)"
        badge = f'<span class="badge">{done.speed_up:.1f}× as fast as {baseline}</span>'
    return _card(milliseconds(total), "ms / image", " · ".join(facts), badge, _blocks(done))


def thumbnails(preview: Preview, count: int) -> tuple[str, ...]:
    """Return small copies of the first `count` pictures, as addresses that hold them whole."""
    return tuple(_inline(picture) for picture in preview.pictures[:count])


def trajectory(previews: Sequence[Preview], pictures: Sequence[Sequence[str]], index: int) -> str:
    """Return the strip of what image `index` was going to be after each block, with curvature.

    `pictures` are the `thumbnails` of each preview.
    """
    bends = [0.0 if p.curvature is None else p.curvature[index] for p in previews]
    highest = max(bends) or 1.0
    steps = []
    for preview, small, bend in zip(previews, pictures, bends, strict=True):
        known = preview.curvature is not None
        number = f"{bend:.2g}" if known else "–"
        steps.append(
            f'<li><img src="{small[index]}" width="{_THUMBNAIL}" '
            f'height="{_THUMBNAIL}" alt="After block {preview.block}, {KINDS[preview.kind]}">'
            f'<span class="bend"><i style="height: {100 * bend / highest:.0f}%"></i></span>'
            f'<span class="kind">{preview.kind} · {number}</span></li>'
        )
    caption = escape(previews[0].captions[index])
    return (
        f'<section class="trajectory" aria-label="Trajectory"><h3>Trajectory of {caption}</h3>'
        "<p>Where the velocity points after each block, x + (1 − t) v; below, how sharply the "
        f"path bent (its curvature).</p><ol>{''.join(steps)}</ol></section>"
    )


def no_trajectory() -> str:
    """Return what stands where the strip will be, of its height, so that nothing jumps."""
    return '<section class="trajectory" aria-hidden="true"></section>'


def record(done: Done) -> dict[str, Any]:
    """Return what a program wants to know of a result, and the query that restores it."""
    return {
        **asdict(done.settings),
        "ms_per_image": done.timing.ms_per_image,
        "decode_ms_per_image": done.timing.decode_ms_per_image,
        "block_ms": done.timing.block_ms,
        "predictor_evaluations": done.plan.predictor_evaluations,
        "refiner_evaluations": done.plan.refiner_evaluations,
        "speed_up": done.speed_up,
        "query": done.settings.to_query(),
    }


def visit(runs: Sequence[Run]) -> str:
    """Return the chart of this visit's runs, the latest first; each is a button."""
    if not runs:
        return ""
    slowest = max(run.ms_per_image for run in runs)
    rows = []
    for index, run in reversed(list(enumerate(runs))):
        names = ", ".join(run.settings.class_names)
        rows.append(
            f'<li><button type="button" data-index="{index}"><img src="{run.thumbnail}" alt="">'
            f"<b>{escape(run.settings.plan)}</b>"
            f'<span class="of">{escape(names)}, seed {run.settings.seed}</span>'
            f'<span class="track"><i style="width: {100 * run.ms_per_image / slowest:.1f}%"></i>'
            f"</span><span>{milliseconds(run.ms_per_image)} ms</span></button></li>"
        )
    return (
        '<section class="visit" aria-label="Runs of this visit"><h3>This visit</h3>'
        f"<p>Milliseconds an image of each run; press one to take its settings back.</p>"
        f"<ol>{''.join(rows)}</ol></section>"
    )


def plan_cost(summary: PlanSummary) -> str:
    """Return the line under the sliders: the plan and its evaluations."""
    blocks = "1 block" if summary.num_blocks == 1 else f"{summary.num_blocks} blocks"
    text = f"{blocks}, {evaluations(summary)}"
    return f'<p class="cost"><code>{escape(summary.plan)}</code> {escape(text)}</p>'


def evaluations(summary: PlanSummary) -> str:
    """Return the evaluations of a plan in words."""
    kinds = ((summary.predictor_evaluations, "predictor"), (summary.refiner_evaluations, "refiner"))
    return " + ".join(f"{n} {kind}" for n, kind in kinds if n) + " evaluations"


def milliseconds(value: float) -> str:
    """Return a number of milliseconds with three digits that mean something."""
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _blocks(done: Done) -> str:
    """Return a bar of one piece a block, and one for decoding, as long as it took."""
    parts = [
        (kind, KINDS[kind], ms) for kind, ms in zip(done.kinds, done.timing.block_ms, strict=True)
    ]
    parts.append(("D", "decoding", done.timing.decode_ms))
    pieces = "".join(
        f'<i class="{kind}" style="flex-grow: {ms:.3f}" title="{name}: {milliseconds(ms)} ms"></i>'
        for kind, name, ms in parts
    )
    legend = "".join(
        f'<span class="{kind}">{name}</span>'
        for kind, name in dict((kind, name) for kind, name, _ in parts).items()
    )
    spoken = ", ".join(f"{name} {milliseconds(ms)} ms" for _, name, ms in parts)
    return (
        f'<div class="blocks" role="img" aria-label="Time of each block: {spoken}">{pieces}</div>'
        f'<div class="legend" aria-hidden="true">{legend}</div>'
    )


def _card(number: str, unit: str, text: str, extra: str = "", below: str = "") -> str:
    return (
        f'<div class="card"><p class="headline"><b>{escape(number)}</b> {escape(unit)}</p>'
        f'{extra}<p class="facts">{escape(text)}</p>{below}</div>'
    )


def _inline(picture: Image.Image) -> str:
    """Return a small copy of a picture as an address that holds it whole."""
    buffer = BytesIO()
    small = picture.convert("RGB")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    small.save(buffer, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
