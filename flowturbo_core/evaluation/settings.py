"""What an evaluation is asked for, and what identifies the weights that it runs."""

import hashlib
from dataclasses import dataclass
from typing import Any, Self

from torch import nn

from flowturbo_core.checks import brief, check_known, whole_number
from flowturbo_core.data.postcards.scene import SPLITS
from flowturbo_core.evaluation.rivals import parse_contenders
from flowturbo_core.evaluation.solver_error import NUM_NOISES
from flowturbo_core.models.evaluator import PostcardsEvaluator
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.requests import MAX_SEED

METRICS = ("frechet", "accuracy", "solver", "reference")
DEFAULT_METRICS = METRICS[:3]
MAX_SAMPLES = 1_000_000


@dataclass(frozen=True)
class Settings:
    """The settings of a run. A run that goes on must have the same ones.

    `weights` is what `weights_of` returns for the models that make and judge the pictures.
    `scenes` is a split of Postcards: its scenes say what is asked for.
    """

    model: str
    weights: str
    plans: tuple[str, ...]
    num_samples: int
    metrics: tuple[str, ...]
    guidance_scale: float
    seed: int
    batch_size: int
    device: str
    dtype: str
    rivals: tuple[str, ...] = ()
    scenes: str = "train"

    @classmethod
    def of(cls, pipeline: FlowPipeline, evaluator: PostcardsEvaluator | None, **asked: Any) -> Self:
        """Return the settings of a run of `pipeline`: where it is, and in its number format."""
        return cls(
            weights=weights_of(pipeline, evaluator),
            device=pipeline.device.type,
            dtype=str(pipeline.dtype).removeprefix("torch."),
            **asked,
        )

    def __post_init__(self) -> None:
        for name, low, high in (("num_samples", 2, MAX_SAMPLES), ("batch_size", 1, 256)):
            # Files are named by it, so 200.0 becomes 200.
            value = whole_number(name, getattr(self, name), low, high)
            object.__setattr__(self, name, value)
        parse_contenders(self.plans, self.rivals)
        last = MAX_SEED - max(self.num_samples, NUM_NOISES) + 1
        whole_number(f"the first seed of {self.num_samples} samples", self.seed, 0, last)
        check_known("metrics", self.metrics, METRICS)
        if self.scenes not in SPLITS:
            raise ValueError(f"scenes {brief(self.scenes)} is not one of {', '.join(SPLITS)}")
        if "reference" in self.metrics and "solver" not in self.metrics:
            raise ValueError("the metric reference checks that of solver: name both")


def weights_of(pipeline: FlowPipeline, evaluator: PostcardsEvaluator | None = None) -> str:
    """Return the SHA-256 of all parameters (names and float32 values) and the refiner's variant."""
    digest = hashlib.sha256()
    if pipeline.refiner is not None:
        digest.update(pipeline.refiner.variant.encode())
    for model in (*pipeline.parts().values(), evaluator):
        tensors = model.state_dict() if isinstance(model, nn.Module) else {}
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
