"""The one training loop: accelerate, gradient clipping, EMA, a time budget, exact resumption.

Everything a step depends on is a function of the seed, the step and the checkpoint: which
examples it sees, the noise it draws, its learning rate. A run that was killed and resumed
therefore takes the same steps, to the bit, as one that was not.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence, Sized
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from flowturbo_core.compile import can_compile
from flowturbo_core.data.workers import read_batches
from flowturbo_core.devices import VERSIONS, bfloat16_is_fast, describe_device, resolve_device
from flowturbo_core.files import check_folder, writing, written_whole


@dataclass(frozen=True)
class Hyperparameters:
    """What a recipe fixes about the optimisation."""

    batch_size: int  # examples a step, over all processes
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup_steps: int = 200
    decay_fraction: float = 0.3  # last part of the budget, in which the rate falls to zero
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    muon_dims: tuple[int, ...] = (2,)  # of what Muon takes: matrices, and 4 for kernels
    seed: int = 0


@dataclass(frozen=True)
class Budget:
    """When a run ends: after `minutes` of training or `steps`, whichever is given."""

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("give a budget in either minutes or steps")
        amount = self.minutes if self.steps is None else self.steps
        if not (math.isfinite(amount) and amount > 0):
            raise ValueError(f"a training budget must be positive and finite, not {amount}")

    def progress(self, step: int, minutes: float) -> float:
        """Return the part of the budget that is used, 0 to 1."""
        used = minutes / self.minutes if self.steps is None else step / self.steps
        return min(used, 1.0)


class Objective(nn.Module):
    """What a run minimises: a module whose forward gives losses, around the `model` it trains.

    Subclasses set `model`, the trained part, alone saved and averaged, and `data`, a data set
    that `data[indices]` gives a batch of: endless, or of `len(data)` examples that are shuffled
    anew each epoch.
    """

    model: nn.Module
    data: Dataset

    def heavy_parts(self, device: torch.device) -> list[nn.Module]:
        """Return the modules whose calls are worth compiling on `device`."""
        return []

    def settings(self) -> dict[str, Any]:
        """Return what a person chose about the objective itself, for the model's card."""
        return {}

    def forward(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return named scalars; the one called "loss" is minimised."""
        raise NotImplementedError  # pragma: no cover

    def sheet(self) -> Image.Image:
        """Return a picture that shows a person how far `model` has come."""
        raise NotImplementedError  # pragma: no cover

    def export(self, folder: Path, record: dict[str, Any]) -> None:
        """Save `model`, its weights the averaged ones at this point, for use."""
        raise NotImplementedError  # pragma: no cover


@dataclass
class Position:
    """How far a run has come: its steps, the examples that they took, and the time."""

    step: int = 0
    minutes: float = 0.0
    examples: int = 0


class StepBatches:
    """The example indices of each step on one process: a batch sampler that can start anywhere.

    `first` is how many examples the steps before took, whatever their batches were.
    """

    def __init__(
        self, first: int, batch_size: int, data: Dataset, seed: int, rank: int, ranks: int
    ):
        self.first, self.seed = first, seed
        self.stride, self.offset = batch_size, rank * (batch_size // ranks)
        self.size = batch_size // ranks
        self.length = len(data) if isinstance(data, Sized) else None

    def __iter__(self) -> Iterator[list[int]]:
        first, epoch, order = self.first, None, None
        while True:
            start = first + self.offset
            positions = range(start, start + self.size)
            if self.length is None:
                yield list(positions)
            else:
                indices = []
                for position in positions:
                    if position // self.length != epoch:
                        epoch = position // self.length
                        order = torch.randperm(
                            self.length, generator=step_generator(self.seed, epoch, 0)
                        )
                    indices.append(int(order[position % self.length]))
                yield indices
            first += self.stride


def step_generator(
    seed: int, step: int, rank: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return the source of all randomness of one step on one process."""
    mixed = (seed * 1_000_003 + step) * 1_009 + rank
    return torch.Generator(device).manual_seed(mixed % 2**63)


def learning_rate_factor(step: int, progress: float, settings: Hyperparameters) -> float:
    """Return the share of the peak rate: a linear warm-up, a plateau, a linear fall to zero.

    The plateau lets a later run continue from the weights (Zhai et al., 2106.04560, section 3.5).
    """
    warmup = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    fall = min(1.0, (1 - progress) / settings.decay_fraction) if settings.decay_fraction else 1.0
    return warmup * fall


class KernelMuon(torch.optim.Muon):
    """Muon on the kernels (O, I, h, w) of convolutions, each as its matrix (O, I h w)."""

    def __init__(self, kernels: Sequence[nn.Parameter], **options: Any):
        self.kernels = kernels
        # On the same storage (contiguous, or view raises): to step these is to step the kernels.
        self.matrices = [nn.Parameter(kernel.detach().view(len(kernel), -1)) for kernel in kernels]
        super().__init__(self.matrices, **options)

    def step(self, closure: Any = None) -> Any:
        """Take a step along the kernels' gradients."""
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.reshape(matrix.shape)
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of both."""
        super().zero_grad(set_to_none)
        for kernel in self.kernels:
            kernel.grad = None


def build_optimizers(model: nn.Module, settings: Hyperparameters) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the repeated blocks and AdamW for all the rest.

    Muon's updates are scaled to the size of AdamW's, so that one learning rate serves both (Liu
    et al., 2502.16982, section 2.2). From the same weights it reached a loss in 8,192 images
    that AdamW did not reach in as many, at 15% more time a step. With 4 among `muon_dims` it
    takes the kernels of the blocks' convolutions too, with none of them it takes nothing.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    repeated = ("blocks.", "mid_block.", "layers.")
    inside = [p for name, p in parameters.items() if any(part in name for part in repeated)]
    matrices, kernels = (
        [p for p in inside if p.ndim == ndim] if ndim in settings.muon_dims else []
        for ndim in (2, 4)
    )
    chosen = {id(p) for p in (*matrices, *kernels)}
    rest = [p for p in parameters.values() if id(p) not in chosen]
    common = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    optimizers = [torch.optim.AdamW(rest, betas=settings.betas, fused=True, **common)]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **common))
    if kernels:
        optimizers.append(KernelMuon(kernels, adjust_lr_fn="match_rms_adamw", **common))
    return optimizers


def check_run(settings: Hyperparameters, output: Path, resume: bool, sheet_every: int) -> None:
    """Refuse a run that cannot be, before anything is computed for it."""
    exists = (output / "checkpoint.pt").exists()
    if exists and not resume:
        raise FileExistsError(f"{output} holds a run; continue it with --resume, or name another")
    if resume and not exists:
        raise FileNotFoundError(f"{output} holds no checkpoint to resume from")
    for name, count in (("batch_size", settings.batch_size), ("sheet_every", sheet_every)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")
    check_folder(output)
    if not (math.isfinite(settings.learning_rate) and settings.learning_rate > 0):
        raise ValueError(f"learning_rate must be positive, not {settings.learning_rate}")


def fit(
    objective: Objective,
    settings: Hyperparameters,
    budget: Budget,
    output: Path,
    *,
    resume: bool = False,
    workers: int = 1,
    sheet_every: int = 1000,
    checkpoint_minutes: float = 5.0,
    device: str | None = None,
    compiled: bool = True,
    earlier_runs: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Train `objective.model` within `budget` and return the record that goes into its card.

    The heavy parts are compiled, if `compiled` is true and the machine can. The record's `runs`
    are `earlier_runs`, those of the weights it started from, and this one. A run that is resumed
    with other settings, or on another machine, is another one from there on: each entry says what
    was true of its own steps.

    `output` receives `checkpoint.pt` (everything `resume` needs, replaced atomically),
    `model/` (the averaged weights as a model folder), `log.jsonl` and `sheets/`.
    Raises FileExistsError if `output` holds a run and `resume` is false, FileNotFoundError if
    there is none to resume, FloatingPointError if the loss is no longer finite.
    """
    check_run(settings, output, resume, sheet_every)
    target = resolve_device(device)
    accelerator = Accelerator(
        cpu=target.type == "cpu",
        mixed_precision="bf16" if bfloat16_is_fast(target) else "no",
    )
    checkpoint_file = output / "checkpoint.pt"
    if settings.batch_size % accelerator.num_processes:
        raise ValueError(
            f"a batch of {settings.batch_size} does not divide over "
            f"{accelerator.num_processes} processes"
        )
    with writing(output):
        (output / "sheets").mkdir(parents=True, exist_ok=True)

    objective = objective.to(accelerator.device)
    if compiled and objective.heavy_parts(accelerator.device):
        if can_compile(accelerator.device.type):
            for part in objective.heavy_parts(accelerator.device):
                part.compile()
        else:
            print("training without torch.compile, which does not work on this machine", flush=True)
    parameters = [p for p in objective.model.parameters() if p.requires_grad]
    optimizers = build_optimizers(objective.model, settings)
    ema = EMAModel(parameters, decay=settings.ema_decay, foreach=True)
    position, begun, runs = Position(), Position(), list(earlier_runs)
    about = json.loads(json.dumps(objective.settings() | _about(settings, objective, accelerator)))
    latest: dict[str, float] = {}
    if resume:
        state = _load_checkpoint(checkpoint_file, objective.model, optimizers, ema)
        position = _position(state, settings)
        runs = state.get("runs", runs)  # earlier versions kept none
        if "runs" in state and about.items() <= runs[-1].items():  # it goes on as it was
            begun, latest = Position(**state["begun"]), runs.pop()["losses"]
        elif "runs" in state:
            begun = replace(position)
    wrapped, *optimizers = accelerator.prepare(objective, *optimizers)

    batches = StepBatches(
        position.examples,
        settings.batch_size,
        objective.data,
        settings.seed,
        accelerator.process_index,
        accelerator.num_processes,
    )
    loader = read_batches(objective.data, batches, workers, prefetch_factor=4 if workers else None)
    started, last_saved = time.monotonic() - 60 * position.minutes, time.monotonic()
    log = _Log(output / "log.jsonl", enabled=accelerator.is_main_process)
    log.latest = latest

    def save() -> dict[str, Any]:
        if not all(torch.isfinite(parameter).all() for parameter in parameters):
            raise FloatingPointError(f"the weights are no longer finite at step {position.step}")
        log.flush(position)
        record = {"runs": [*runs, _progress(position, begun, log.latest) | about]}
        if accelerator.is_main_process:
            state = {"position": asdict(position), "begun": asdict(begun)} | record
            _save_checkpoint(checkpoint_file, objective.model, optimizers, ema, state)
            with writing(output / "model"), _averaged(ema, parameters):
                objective.export(output / "model", record)
        return record

    for batch in loader:
        elapsed = torch.tensor((time.monotonic() - started) / 60, device=accelerator.device)
        # Every process must agree on the time, or they would stop at different steps.
        position.minutes = float(accelerator.reduce(elapsed, "mean"))
        progress = budget.progress(position.step, position.minutes)
        if progress >= 1:
            break
        rate = learning_rate_factor(position.step, progress, settings) * settings.learning_rate
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        generator = step_generator(
            settings.seed, position.step, accelerator.process_index, accelerator.device
        )
        losses = wrapped(_to(batch, accelerator.device), generator)
        accelerator.backward(losses["loss"])
        accelerator.clip_grad_norm_(parameters, settings.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        ema.step(parameters)
        position.step += 1
        position.examples += settings.batch_size

        log.add(position, losses, settings.batch_size)
        if position.step % sheet_every == 0 and accelerator.is_main_process:
            file = output / "sheets" / f"{position.step:07d}.png"
            _save_sheet(objective, ema, parameters, file)
        if time.monotonic() - last_saved > 60 * checkpoint_minutes:
            save()
            last_saved = time.monotonic()

    record = save()
    if accelerator.is_main_process:
        _save_sheet(objective, ema, parameters, output / "sheets" / "final.png")
    return record


def _save_sheet(
    objective: Objective, ema: EMAModel, parameters: list[nn.Parameter], file: Path
) -> None:
    # Compiling for the sheet's few batches would take longer than drawing it.
    with _averaged(ema, parameters), torch.compiler.set_stance("force_eager"):
        sheet = objective.sheet()
    with written_whole(file) as partial:
        sheet.save(partial, "PNG")


class _averaged:  # noqa: N801 - reads as a verb phrase at its uses
    """Put the averaged weights in place for the length of a `with` block."""

    def __init__(self, ema: EMAModel, parameters: list[nn.Parameter]):
        self.ema, self.parameters = ema, parameters

    def __enter__(self) -> None:
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)

    def __exit__(self, *_: object) -> None:
        self.ema.restore(self.parameters)


class _Log:
    """Prints progress and appends it to a file, as means since the line before."""

    def __init__(self, file: Path, enabled: bool, every_seconds: float = 20.0):
        self.file, self.enabled, self.every_seconds = file, enabled, every_seconds
        self.since, self.steps, self.images, self.sums = time.monotonic(), 0, 0, {}
        self.latest: dict[str, float] = {}

    def add(self, position: Position, losses: dict[str, Tensor], batch_size: int) -> None:
        """Take in one step's losses; write a line if the last is old enough."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
        self.steps, self.images = self.steps + 1, self.images + batch_size
        if position.step == 1 or time.monotonic() - self.since > self.every_seconds:
            self.flush(position)

    def flush(self, position: Position) -> None:
        """Write what was taken in since the last line, and keep its means in `latest`."""
        if not self.steps:
            return
        means = {name: float(total) / self.steps for name, total in self.sums.items()}
        if not all(math.isfinite(value) for value in means.values()):
            raise FloatingPointError(f"the loss is no longer finite at step {position.step}")
        rate = self.images / max(time.monotonic() - self.since, 1e-9)
        line = {"step": position.step, "minutes": round(position.minutes, 2), **means}
        line["images_per_second"] = round(rate, 1)
        if self.enabled:
            with writing(self.file), self.file.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
            print("  ".join(f"{k} {v:.5g}" for k, v in line.items()), flush=True)
        self.latest = means
        self.since, self.steps, self.images, self.sums = time.monotonic(), 0, 0, {}


def _progress(position: Position, begun: Position, losses: dict[str, float]) -> dict[str, Any]:
    """Return what a run did since it begun."""
    return {
        "steps": position.step - begun.step,
        "images_seen": position.examples - begun.examples,
        "minutes": round(position.minutes - begun.minutes, 1),
        "losses": losses,
    }


def _about(
    settings: Hyperparameters, objective: Objective, accelerator: Accelerator
) -> dict[str, Any]:
    """Return what is true of all steps of a run."""
    data = {"num_examples": len(objective.data)} if isinstance(objective.data, Sized) else {}
    return {
        "settings": asdict(settings),
        **data,
        "device": describe_device(accelerator.device),
        "precision": accelerator.mixed_precision.replace("no", "float32"),
        "versions": VERSIONS,
    }


def _to(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    return [_to(part, device) for part in batch]


def _save_checkpoint(
    file: Path,
    model: nn.Module,
    optimizers: Sequence[Any],
    ema: EMAModel,
    run: dict[str, Any],
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "ema": {"parameters": ema.shadow_params, "step": ema.optimization_step},
        **run,
    }
    with written_whole(file) as partial:  # whoever is killed here leaves the old one whole
        torch.save(state, partial)


def _load_checkpoint(
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


def _position(state: dict[str, Any], settings: Hyperparameters) -> Position:
    position = Position(**state["position"])
    if "examples" not in state["position"]:
        position.examples = position.step * settings.batch_size
        print(
            "the checkpoint is of an earlier version, which did not count the images: all "
            f"{position.step} steps are taken to have had {settings.batch_size} of them",
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
