"""A pipeline as the page uses it: previews, honest times, and what to compare them with.

All of it runs on the accelerator's thread, which also imports this: torch takes seconds.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Self

from PIL import Image

from demo.service.events import Advanced, Comparison, Done, Preview, Side
from demo.service.plan_menu import solver_of
from flowturbo_core.devices import VERSIONS, resolve_device, resolve_dtype, timed
from flowturbo_core.memory import fail_beyond_memory, in_memory
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.path import curvature
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.pipelines.bench import Progress
from flowturbo_core.pipelines.loading import load_pipeline
from flowturbo_core.plan import BASELINE, SamplePlan
from flowturbo_core.rates import Rates
from flowturbo_core.requests import Request
from flowturbo_core.timing import Timing

_WARM_UP_IMAGES = 4  # as many as the page opens with
_ROUNDS = 4  # of a comparison: in as many, each plan is the first of two


class Engine:
    """A loaded model.

    Args:
        pipeline: of classes or of texts.

    `rates` are what its parts take here; None before it was warmed up.
    """

    def __init__(self, pipeline: FlowPipeline):
        self.pipeline = pipeline
        self.rates: Rates | None = None

    @classmethod
    def load(
        cls,
        description: ModelDescription,
        device: str | None,
        dtype: str | None,
        is_warmed: bool = True,
    ) -> Self:
        """Load a model and, if it is to be warmed, run it: nobody's first pictures are slow then.

        Raises ValueError, in one sentence, for a device, a dtype or weights that are not there.
        """
        target = resolve_device(device)
        number_format = resolve_dtype(dtype, target)
        if target.type == "cpu":
            fail_beyond_memory()
        with in_memory(f"{description.name} does not fit into the memory of {target}"):
            pipeline = load_pipeline(description.folder, target, number_format)
            engine = cls(pipeline)
            if is_warmed:
                engine.warm_up()
        return engine

    @property
    def device(self) -> str:
        """Where the model runs."""
        return str(self.pipeline.device)

    @property
    def dtype(self) -> str:
        """The number format it runs in."""
        return str(self.pipeline.dtype).removeprefix("torch.")

    def warm_up(self) -> None:
        """Run a block of each kind, and the decoder, and note what they take."""
        pipeline = self.pipeline
        plan = SamplePlan.parse("H1P1" if pipeline.refiner is None else "H1P1R1")
        job = pipeline.job(pipeline.example_request(_WARM_UP_IMAGES))
        for _ in range(2):  # the second is of a machine as warm as it will be
            output = pipeline.finish(job, plan, output_type="pt")
        self.rates = Rates.of([(plan, plan.kinds, output.timing)])

    def generate(self, request: Request) -> Iterator[Preview | Done]:
        """Yield a Preview after every block, then Done."""
        pipeline, plan = self.pipeline, request.plan
        warnings = tuple(pipeline.warnings(request))
        block_ms, preview_ms, before = [], 0.0, None
        decode_ms = present_ms = 0.0
        with self._enough_memory(request):
            job, encode_ms = timed(partial(pipeline.job, request), pipeline.device)
            for progress in pipeline.run(job, plan):
                block_ms.append(progress.block_ms)
                bend = None if before is None else _curvature(before, progress)
                before = progress
                preview_ms += decode_ms + present_ms
                pictures, decode_ms, present_ms = pipeline.show(job, progress.prediction())
                yield Preview(tuple(pictures), request, progress.block, progress.kind, bend)
        # At the end the state is what it points at: the last preview is the result, and its
        # decoding the only one that counts.
        timing = Timing(
            len(pictures), tuple(block_ms), decode_ms, encode_ms, present_ms, preview_ms
        )
        heun_ms = self._heun_ms_per_image(plan, timing)
        yield Done(tuple(pictures), request, timing, heun_ms, VERSIONS, warnings)

    def _heun_ms_per_image(self, plan: SamplePlan, timing: Timing) -> float | None:
        # Eight Heun blocks measure nothing of a model that was distilled to few of Euler's steps.
        if solver_of(self.pipeline.default_plan) == "E":
            return None
        return heun_ms_per_image(plan, timing)

    def cut_warnings(self, request: Request) -> list[str]:
        """Return what of a request's texts is longer than the tokenizer's window."""
        return self.pipeline.cut_warnings(request)

    def _enough_memory(self, request: Request) -> AbstractContextManager[None]:
        of, count = f"not fit into the memory of {self.device}: ask for", len(request.captions)
        if count == 1:
            return in_memory(f"this image does {of} a smaller one")
        return in_memory(f"{count} images at once do {of} fewer, or smaller ones")

    def compare(self, requests: Sequence[Request]) -> Iterator[Advanced | Comparison]:
        """Run two requests that differ in their plans alone, in turn: A B, B A, A B, B A.

        So neither always meets the warmer machine. Yields Advanced after every block, and a
        Comparison of what there is as soon as one plan has pictures, and after every round.
        """
        pipeline, plans = self.pipeline, [request.plan for request in requests]
        job = pipeline.job(requests[0])
        warnings = tuple(pipeline.warnings(requests[0]))
        sides = [Side(request) for request in requests]
        turns = [(k, index) for k in range(_ROUNDS) for index in ((0, 1) if k % 2 == 0 else (1, 0))]
        with self._enough_memory(requests[0]):
            for k, index in turns:
                block_ms = []
                for progress in pipeline.run(job, plans[index]):
                    block_ms.append(progress.block_ms)
                    plan, num_blocks = str(plans[index]), progress.num_blocks
                    yield Advanced(plan, progress.block, num_blocks, k + 1, _ROUNDS)
                pictures, decode_ms, present_ms = pipeline.show(job, progress.state.x)
                timing = Timing(len(pictures), tuple(block_ms), decode_ms, present_ms=present_ms)
                sides[index] = _with_run(sides[index], pictures, timing)
                shown = tuple(side for side in sides if side.timings)
                if k == 0 or len(sides[0].timings) == len(sides[1].timings):
                    yield Comparison(shown, _ROUNDS, VERSIONS, self.rates, warnings)


def _with_run(side: Side, pictures: Sequence[Image.Image], timing: Timing) -> Side:
    """Return the side with one run more; its pictures stay those of the first."""
    return replace(side, pictures=side.pictures or tuple(pictures), timings=(*side.timings, timing))


def heun_ms_per_image(plan: SamplePlan, timing: Timing) -> float | None:
    """Return what H8, the papers' baseline, would have taken an image; None if the plan is H8.

    Its 16 evaluations of the predictor at what one took on average in this very run, and this
    run's decoding: both then meet the same machine in the same moment. A run of H8 measured
    earlier was at times faster, at times slower than what was compared with it.
    """
    baseline = SamplePlan.parse(BASELINE)
    if plan.kinds == baseline.kinds:
        return None
    predictor_ms = sum(
        ms for kind, ms in zip(plan.kinds, timing.block_ms, strict=True) if kind != "R"
    )
    evaluation_ms = predictor_ms / plan.predictor_evaluations
    evaluations_ms = baseline.predictor_evaluations * evaluation_ms
    return (evaluations_ms + timing.decode_ms) / timing.num_images


def _curvature(before: Progress, after: Progress) -> tuple[float, ...]:
    return tuple(curvature(before.state.v, after.state.v, after.t - before.t).tolist())
