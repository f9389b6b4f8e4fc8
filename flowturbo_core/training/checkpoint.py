"""The state of a run on the disk: all that its next step depends on, whole or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import nn

from flowturbo_core.files import written_whole


@dataclass
class Position:
    """How far a run has come: its steps, the examples that they took, and the time."""

    step: int = 0
    minutes: float = 0.0
    examples: int = 0


def save_checkpoint(
    file: Path,
    model: nn.Module,
    optimizers: Sequence[Any],
    ema: EMAModel,
    run: dict[str, Any],
) -> None:
    """Write the weights, the optimizers, the averages and what else `run` says."""
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "ema": {"parameters": ema.shadow_params, "step": ema.optimization_step},
        **run,
    }
    with written_whole(file) as partial:  # whoever is killed here leaves the old one whole
        torch.save(state, partial)


def load_checkpoint(
    file: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], ema: EMAModel
) -> dict[str, Any]:
    """Restore what a checkpoint holds, and return it."""
    device = next(model.parameters()).device
    for stale in file.parent.glob(f"{file.stem}.*.partial"):  # of a run that was killed
        stale.unlink()
    try:
        state = torch.load(file, map_location=device, weights_only=True)
        _restore(state, model, optimizers, ema)
        Position(**state["position"])
    except Exception as error:  # noqa: BLE001 - a damaged file fails in every way there is
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"checkpoint {file} is damaged, or of another run: {reason}") from error
    return state


def read_position(state: dict[str, Any], batch_size: int) -> Position:
    """Return where a checkpoint was written; an earlier version counted steps alone."""
    position = Position(**state["position"])
    if "examples" not in state["position"]:
        position.examples = position.step * batch_size
        print(
            "the checkpoint is of an earlier version, which did not count the images: all "
            f"{position.step} steps are taken to have had {batch_size} of them",
            flush=True,
        )
    return position


def _restore(
    state: dict[str, Any],
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    ema: EMAModel,
) -> None:
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    ema.shadow_params = state["ema"]["parameters"]
    ema.optimization_step = state["ema"]["step"]
