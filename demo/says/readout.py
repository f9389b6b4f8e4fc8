"""What the page says in HTML: a request's progress and result, its trajectory, the visit's runs.

Pure functions from the service's events to text. Whatever came from outside is escaped here.
"""

import base64
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from typing import Any

from PIL import Image

from demo.service.events import THUMBNAIL, Done, Fetching, Kept, Preview
from flowturbo_core.metadata import to_query
from flowturbo_core.models.catalog import HubModel
from flowturbo_core.plan import BASELINE, SamplePlan
from flowturbo_core.requests import Request

KINDS = {"E": "Euler", "H": "Heun", "P": "pseudo corrector", "R": "refiner"}
BAR = '<div class="bar">'  # only a readout of work in progress has one

# What a step of each kind is, for whoever has not read the paper: one, or several.
_STEPS = {
    "H": ("accurate step", "accurate steps"),
    "P": ("at half the price", "at half the price"),
    "R": ("nearly free", "nearly free"),
    "E": ("rough step at half the price", "rough steps at half the price"),
}


@dataclass(frozen=True)
class Run:
    """A finished request of this visit.

    Args:
        request: what makes its images again.
        ms_per_image: milliseconds an image.
        thumbnail: its first picture, as an address.
    """

    request: Request
    ms_per_image: float
    thumbnail: str

    @classmethod
    def of(cls, done: Done) -> "Run":
        """Keep what the list of runs shows of a result."""
        return cls(
            done.request.without_pictures(), done.timing.ms_per_image, _inline(done.pictures[0])
        )


def in_words(plan: SamplePlan) -> str:
    """Return what a plan does in plain words: "1 accurate step, 5 at half the price".

    The prices are those of its steps as they are computed: a pseudo corrector that has nothing to
    reuse costs what a Heun step does.
    """
    written = re.fullmatch(r"\[(.*)\]x(\d+)|(.*)", str(SamplePlan(plan.kinds)))
    repeated, times, plain = written.groups()
    groups = re.findall(r"([EHPR])(\d+)", repeated or plain)
    words = ", ".join(_steps_in_words(kind, int(count)) for kind, count in groups)
    return f"{times} times: {words}" if times else words


def _steps_in_words(kind: str, count: int) -> str:
    one, several = _STEPS[kind]
    return f"{count} {one if count == 1 else several}"


def name_plan(plan: SamplePlan) -> str:
    """Return a plan's name in HTML, which says in plain words what it does."""
    words = in_words(plan)
    return f'<code title="{words}" aria-description="{words}">{plan}</code>'


def idle(button: str = "Generate") -> str:
    """Return the readout before the first request, which `button` starts."""
    return card("Ready", "", f"Press {button}, and see what each picture costs.")


def loading() -> str:
    """Return the readout of a request that waits for the model."""
    text = "The model is being loaded; sampling starts by itself."
    return card("Loading", "", text, f'{BAR}<div class="pending"></div></div>', said=text)


def interrupted(with_pictures: bool) -> str:
    """Return the readout after a request was stopped, or failed."""
    shown = "The pictures show how far sampling came." if with_pictures else "Nothing was sampled."
    return card("Stopped", "", shown, said=f"Stopped. {shown}")


def in_progress(preview: Preview) -> str:
    """Return the readout while blocks are computed."""
    num_blocks = len(preview.request.plan)
    return card(
        f"{preview.block}",
        f"of {num_blocks} blocks",
        f"Last block: {KINDS[preview.kind]}",
        bar(100 * preview.block / num_blocks),
    )


def bar(percent: float) -> str:
    """Return how much is done; only a readout of work in progress has it."""
    return f'{BAR}<div style="width: {percent:.0f}%"></div></div>'


def finished(done: Done, earlier: Kept | None = None) -> str:
    """Return the readout of finished images: milliseconds, evaluations, speed-up, blocks.

    It says so if they are of an earlier run, and where that was.
    """
    total, decoding = done.timing.ms_per_image, done.timing.decode_ms_per_image
    unit, facts = (
        "ms / image",
        [
            str(done.request.plan),
            f"sampling {milliseconds(total - decoding)} + decoding {milliseconds(decoding)} ms",
            evaluations(done.request.plan),
        ],
    )
    if earlier is not None and earlier.machine:
        unit = "ms / image, made before"
        facts += [f"made before on {earlier.machine}: Generate makes new ones, timed here"]
    elif earlier is not None:
        facts += ["made earlier: Generate makes them anew"]
    below = f"{_blocks(done)}{_unmeasured(done)}{hints(done.warnings)}"
    return card(milliseconds(total), unit, " · ".join(facts), _badge(done), below, said(done))


def said(done: Done) -> str:
    """Return a result in a sentence, for whoever hears the page."""
    count = len(done.pictures)
    parts = [
        "1 picture" if count == 1 else f"{count} pictures",
        f"{milliseconds(done.timing.ms_per_image)} ms each",
    ]
    if done.speed_up is not None:
        parts.append(f"{done.speed_up:.1f} times as fast as {BASELINE}")
    return ". ".join([", ".join(parts), *done.warnings])


def _badge(done: Done) -> str:
    """Return how much faster than the baseline that was."""
    if done.speed_up is None:
        return ""
    about = f"about {milliseconds(done.heun_ms_per_image)} ms"
    how = (
        f"{BASELINE}, {in_words(SamplePlan.parse(BASELINE))}, would have taken {about} an image: "
        "its 16 evaluations of the predictor, at what one took in this run, and decoding"
    )
    return (
        f'<span class="badge" title="{how}" aria-description="{how}">{done.speed_up:.1f}× as fast '
        f"as {BASELINE} ({about})</span>"
    )


def _unmeasured(done: Done) -> str:
    """Return why there is no badge, where that is not plain: the plan is the baseline itself."""
    if done.speed_up is not None or done.request.plan.kinds == SamplePlan.parse(BASELINE).kinds:
        return ""
    text = f"{BASELINE} is no measure of this model, which was distilled to few of Euler's steps."
    return f'<p class="hint">{text}</p>'


def hints(warnings: Sequence[str]) -> str:
    """Return what a person should know of what was asked for."""
    return "".join(f'<p class="hint refused">{escape(text)}</p>' for text in warnings)


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
            f'<li title="{KINDS[preview.kind]}: {_steps_in_words(preview.kind, 1)}">'
            f'<img src="{small[index]}" width="{THUMBNAIL}" '
            f'height="{THUMBNAIL}" alt="After block {preview.block}, {KINDS[preview.kind]}">'
            f'<span class="bend"><i style="height: {100 * bend / highest:.0f}%"></i></span>'
            f'<span class="kind">{preview.kind} · {number}</span></li>'
        )
    caption = escape(previews[0].request.captions[index])
    return _trajectory(f"Trajectory of {caption}", f"<ol tabindex=0>{''.join(steps)}</ol>")


def no_trajectory() -> str:
    """Return what stands where the strip will be, of its height, so that nothing jumps."""
    return _trajectory("Trajectory", "")


def _trajectory(title: str, strip: str) -> str:
    return (
        f'<section class="trajectory" aria-label="Trajectory"><h2>{title}</h2>'
        "<p>Where the velocity points after each block, x + (1 − t) v, and how sharply the path "
        "bent there (its curvature). Low bars: it has settled, and a small refiner can carry on; "
        f"at the very end it bends once more, where detail parts from noise.</p>{strip}</section>"
    )


def record(done: Done) -> dict[str, Any]:
    """Return what a program wants to know of a result, and the query that restores it."""
    return {
        **done.request.to_json(),
        "ms_per_image": done.timing.ms_per_image,
        "decode_ms_per_image": done.timing.decode_ms_per_image,
        "block_ms": done.timing.block_ms,
        "predictor_evaluations": done.request.plan.predictor_evaluations,
        "refiner_evaluations": done.request.plan.refiner_evaluations,
        "heun_ms_per_image": done.heun_ms_per_image,
        "speed_up": done.speed_up,
        "warnings": list(done.warnings),
        "query": to_query(done.request),
        "versions": dict(done.versions),
    }


def visit(runs: Sequence[Run]) -> str:
    """Return this visit's runs: a chart of latency against plan, and a list, the latest first.

    Each run is a button in both, which says by `data-index` which one it is.
    """
    if not runs:
        return ""
    numbered = list(enumerate(runs))
    history = "".join(_history(index, run) for index, run in reversed(numbered))
    return (
        '<section class="visit" aria-label="Runs of this visit"><h2>This visit</h2>'
        "<p>Milliseconds an image by plan, a dot for each run; press a dot, or a run below, to "
        f"take its settings back.</p>{_chart(numbered)}<ol>{history}</ol></section>"
    )


def _chart(numbered: Sequence[tuple[int, Run]]) -> str:
    longest = max(run.ms_per_image for _, run in numbered)
    step = _round_step(longest / 3)
    highest = step * math.ceil(longest / step)
    plans: dict[SamplePlan, list[tuple[int, Run]]] = {}
    for index, run in numbered:
        plans.setdefault(run.request.plan, []).append((index, run))
    rows = []
    for plan, item in plans.items():
        dots = "".join(
            f'<button type="button" data-index="{index}" title="{_in_words(run)}" '
            f'aria-label="{_in_words(run)}" style="left: {100 * run.ms_per_image / highest:.1f}%">'
            "</button>"
            for index, run in item
        )
        rows.append(f"{name_plan(plan)}<div>{dots}</div>")
    ticks = "".join(f"<span>{k * step:g}</span>" for k in range(round(highest / step)))
    return (
        '<div class="chart" role="group" aria-label="Milliseconds an image by plan">'
        f'{"".join(rows)}<span></span><div class="ticks" aria-hidden="true">{ticks}'
        f'<span class="last">{highest:g} ms</span></div></div>'
    )


def _round_step(least: float) -> float:
    """Return the smallest of ..., 1, 2, 5, 10, 20, ... that is at least `least`."""
    power = 10 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)


def _history(index: int, run: Run) -> str:
    request = run.request
    things = escape(", ".join(request.subject.things))
    return (
        f'<li><button type="button" data-index="{index}"><img src="{run.thumbnail}" alt="">'
        f"{name_plan(request.plan)}<span>{milliseconds(run.ms_per_image)} ms</span>"
        f'<span class="of">{things}</span>'
        f'<span class="of">{len(request.captions)} × seed {request.seed}</span></button></li>'
    )


def _in_words(run: Run) -> str:
    request, names = run.request, ", ".join(run.request.subject.things)
    return escape(
        f"{request.plan}, {milliseconds(run.ms_per_image)} ms an image: {names}, "
        f"seed {request.seed}",
        quote=True,
    )


def plan_cost(plan: SamplePlan) -> str:
    """Return the line under the sliders: the plan, its evaluations, and what it does in words."""
    blocks = "1 block" if len(plan) == 1 else f"{len(plan)} blocks"
    text = f"{blocks}, {evaluations(plan)}"
    return (
        f'<p class="cost"><code>{plan}</code> {escape(text)}'
        f'<span class="in-words">{in_words(plan)}</span></p>'
    )


def evaluations(plan: SamplePlan) -> str:
    """Return the evaluations of a plan in words."""
    kinds = ((plan.predictor_evaluations, "predictor"), (plan.refiner_evaluations, "refiner"))
    return " + ".join(f"{n} {kind}" for n, kind in kinds if n) + " evaluations"


def milliseconds(value: float) -> str:
    """Return a number of milliseconds with three digits that mean something."""
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _blocks(done: Done) -> str:
    """Return a bar of one piece a block, and one for decoding, as long as it took."""
    timed = zip(done.request.plan.kinds, done.timing.block_ms, strict=True)
    parts = [(kind, KINDS[kind], ms) for kind, ms in timed]
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


def card(
    number: str, unit: str, text: str, extra: str = "", below: str = "", said: str = ""
) -> str:
    """Return a card: a large number and its unit, what follows it, and a line of text.

    `said` is what the page says aloud of it; nothing of what changes with every block.
    """
    aloud = f' data-said="{escape(said)}"' if said else ""
    return (
        f'<div class="card"{aloud}><p class="headline"><b>{escape(number)}</b> {escape(unit)}</p>'
        f'{extra}<p class="facts">{escape(text)}</p>{below}</div>'
    )


def download(model: HubModel, state: Fetching) -> str:
    """Return what a model on a hub is, and how its download stands."""
    source = f"about {model.gigabytes:g} GB from {model.repository}"
    words = {
        "absent": source,
        "arriving": _arriving(state),
        "here": "its weights are here",
        "failed": state.error[:1].upper() + state.error[1:],
    }[state.status]
    below = bar(100 * state.done / (state.total or 1)) if state.status == "arriving" else ""
    size = f" It is {source}." if state.status == "failed" else ""
    text = f"{model.about}{size} Its weights are under {model.licence}: read what that allows."
    extra = f'<p class="facts">{escape(text)}</p>'
    return card(model.name, "", words, extra, below)


def _arriving(state: Fetching) -> str:
    if not state.total:
        return "asking the hub"
    if state.done == state.total:
        return "all has arrived, and is being read"
    return f"{state.done / 1e6:,.0f} of {state.total / 1e6:,.0f} MB have arrived"


def _inline(picture: Image.Image) -> str:
    """Return a small copy of a picture as an address that holds it whole."""
    buffer = BytesIO()
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(buffer, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
