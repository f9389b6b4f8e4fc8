"""What the tests of evaluation evaluate, and how."""

from dataclasses import replace

from flowturbo_core.evaluation.evaluate import evaluate
from flowturbo_core.evaluation.parts import Parts
from flowturbo_core.evaluation.settings import Settings

SETTINGS = Settings(
    "tiny", "weights", ("H2", "H1P1R1"), 6, ("frechet", "accuracy"), 1.5, 3, 4, "cpu", "float32"
)


def run(pipeline, evaluator, parts, **changes):
    return evaluate(pipeline, replace(SETTINGS, **changes), Parts(parts), evaluator)
