"""Compares refiners of one predictor by the solver error of the same plans.

The refiner "none" has an offset of zero: R blocks carry the velocity on unchanged. The difference
from it is what a refiner earns; the rest is what the plan does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from flowturbo_core.checks import brief
from flowturbo_core.evaluation.solver_error import (
    ends,
    estimate_error,
    solve_reference,
    solver_errors,
)
from flowturbo_core.files import read_json
from flowturbo_core.models.sit import REFINER_VARIANTS, SiTRefiner
from flowturbo_core.models.storage import load_model, read_record
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.plan import SamplePlan

NONE = "none"


class NoRefiner(nn.Module):
    """A refiner for the predictor of this config that never corrects anything."""

    variant = "consistent"
    dtype = torch.float32

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.config = config

    def forward(self, x: Tensor, t: Tensor, v: Tensor, condition: Tensor) -> Tensor:
        """Return an offset of zero, shaped as v (B, C, H, W)."""
        return torch.zeros_like(v)


@dataclass(frozen=True)
class Refiner:
    """A trained refiner to compare, and the variant of its R blocks."""

    folder: Path
    variant: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "runs/wide/model", in the variant it says, or "runs/wide/model:released"."""
        folder, _, variant = text.partition(":")
        if not variant:
            variant = read_json(Path(folder) / "config.json").get("variant", "consistent")
        if variant not in REFINER_VARIANTS:
            raise ValueError(f"refiner variant {brief(variant)} is not one of {REFINER_VARIANTS}")
        return cls(Path(folder), variant)

    def load(self) -> SiTRefiner:
        """Return it, in float32."""
        model = load_model(SiTRefiner, self.folder)
        model.register_to_config(variant=self.variant)
        return model

    def describe(self) -> dict[str, Any]:
        """Return the columns of a row that describe it, with the settings of its last training."""
        last = (read_record(self.folder)["runs"] or [{}])[-1]
        names = ("max_dt", "guidance_scale", "minutes")
        return {"refiner": str(self.folder), "variant": self.variant} | {
            name: last[name] for name in names if name in last
        }


def compare_refiners(
    pipeline: ClassConditionalPipeline,
    refiners: Sequence[Refiner],
    plans: Sequence[SamplePlan],
    guidance_scale: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Return a row for each refiner and plan: the solver error, and how it differs from "none".

    The model must be in float32, as the reference is. Raises ValueError if a refiner does not
    belong to the predictor, if a plan has no R, or if a refiner is missing or named twice.
    """
    if not refiners:
        raise ValueError("name at least one refiner")
    if len(set(refiners)) != len(refiners):
        raise ValueError("a refiner is named twice")
    for plan in plans:
        if not plan.refiner_evaluations:
            raise ValueError(f"plan {plan} has no refiner step to compare refiners by")
    described = [{"refiner": NONE}, *(refiner.describe() for refiner in refiners)]
    pipelines = [
        ClassConditionalPipeline(pipeline.predictor, pipeline.vae, pipeline.class_names, module)
        for module in (
            NoRefiner(pipeline.predictor.config),
            *(refiner.load().to(pipeline.device) for refiner in refiners),
        )
    ]
    reference = solve_reference(pipeline, guidance_scale, seed).latents
    rows = []
    for plan in plans:
        estimates = []
        for about, with_it in zip(described, pipelines, strict=True):
            errors = solver_errors(ends(with_it, plan, guidance_scale, seed), reference)
            estimates.append(estimate_error(errors))
            difference = estimates[-1] - estimates[0]
            rows.append(
                {
                    **about,
                    "plan": str(plan),
                    "solver_error": estimates[-1].value,
                    "solver_error_interval": estimates[-1].interval,
                    "difference": difference.value,
                    "difference_interval": difference.interval,
                }
            )
    return rows
