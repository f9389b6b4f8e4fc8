"""The one training loop: accelerate, gradient clipping, EMA, a time budget, exact resumption.

Everything a step depends on is a function of the seed, the step and the checkpoint: which
examples it sees, the noise it draws, its learning rate. A run that was killed and resumed
therefore takes the same steps, to the bit, as one that was not.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
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
from flowturbo_core.training.checkpoint import (
    Position,
    load_checkpoint,
    read_position,
    save_checkpoint,
)
from flowturbo_core.training.optimization import (
    Hyperparameters,
    build_optimizers,
    learning_rate_factor,
)


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
    accelerator = _choose_accelerator(device, settings.batch_size)
    with writing(output):
        (output / "sheets").mkdir(parents=True, exist_ok=True)
    objective = objective.to(accelerator.device)
    if compiled:
        _compile_heavy_parts(objective, accelerator.device)
    run = _Run(objective, settings, output, accelerator, list(earlier_runs))
    if resume:
        run.restore()
    batches, last_saved = run.start(workers), time.monotonic()
    for batch in batches:
        progress = budget.progress(run.position.step, run.read_clock())
        if progress >= 1:
            break
        run.step(batch, progress)
        if run.position.step % sheet_every == 0:
            run.save_sheet(f"{run.position.step:07d}")
        if time.monotonic() - last_saved > 60 * checkpoint_minutes:
            run.save()
            last_saved = time.monotonic()
    record = run.save()
    run.save_sheet("final")
    return record


def _choose_accelerator(device: str | None, batch_size: int) -> Accelerator:
    """Return what runs the steps, in bfloat16 where that is fast.

    Raises ValueError if the batch does not divide over the processes.
    """
    target = resolve_device(device)
    accelerator = Accelerator(
        cpu=target.type == "cpu",
        mixed_precision="bf16" if bfloat16_is_fast(target) else "no",
    )
    if batch_size % accelerator.num_processes:
        raise ValueError(
            f"a batch of {batch_size} does not divide over {accelerator.num_processes} processes"
        )
    return accelerator


def _compile_heavy_parts(objective: Objective, device: torch.device) -> None:
    parts = objective.heavy_parts(device)
    if parts and not can_compile(device.type):
        print("training without torch.compile, which does not work on this machine", flush=True)
        return
    for part in parts:
        part.compile()


class _Run:
    """A run: what it trains, by what, how far it has come, and the folder that it writes to.

    `earlier` has the entries of the runs before it, `begun` the position in which it began.
    """

    def __init__(
        self,
        objective: Objective,
        settings: Hyperparameters,
        output: Path,
        accelerator: Accelerator,
        earlier: list[dict[str, Any]],
    ):
        self.objective, self.settings, self.output = objective, settings, output
        self.accelerator, self.earlier = accelerator, earlier
        self.parameters = [p for p in objective.model.parameters() if p.requires_grad]
        self.optimizers = build_optimizers(objective.model, settings)
        self.ema = EMAModel(self.parameters, decay=settings.ema_decay, foreach=True)
        self.position, self.begun = Position(), Position()
        about = objective.settings() | _describe_run(settings, objective, accelerator)
        self.about = json.loads(json.dumps(about))  # as it is read back
        self.latest: dict[str, float] = {}

    def restore(self) -> None:
        """Go on from the checkpoint: as the same entry, if nothing is different about the run."""
        model = self.objective.model
        state = load_checkpoint(self._checkpoint, model, self.optimizers, self.ema)
        self.position = read_position(state, self.settings.batch_size)
        if "runs" not in state:  # earlier versions kept none
            return
        self.earlier = state["runs"]
        if self.about.items() <= self.earlier[-1].items():
            self.begun, self.latest = Position(**state["begun"]), self.earlier.pop()["losses"]
        else:
            self.begun = replace(self.position)

    def start(self, workers: int) -> Iterator[Any]:
        """Begin to count the time, and return the batches of the steps that are left."""
        self.wrapped, *self.optimizers = self.accelerator.prepare(self.objective, *self.optimizers)
        data, processes = self.objective.data, self.accelerator
        indices = StepBatches(
            self.position.examples,
            self.settings.batch_size,
            data,
            self.settings.seed,
            processes.process_index,
            processes.num_processes,
        )
        batches = read_batches(data, indices, workers, prefetch_factor=4 if workers else None)
        self.started = time.monotonic() - 60 * self.position.minutes
        self.log = _Log(self.output / "log.jsonl", enabled=processes.is_main_process)
        self.log.latest = self.latest
        return batches

    def read_clock(self) -> float:
        """Return the minutes of training, on which every process must agree to stop together."""
        minutes = (time.monotonic() - self.started) / 60
        elapsed = torch.tensor(minutes, device=self.accelerator.device)
        self.position.minutes = float(self.accelerator.reduce(elapsed, "mean"))
        return self.position.minutes

    def step(self, batch: Any, progress: float) -> None:
        """Take one step; `progress` is the part of the budget that is used."""
        settings, position, accelerator = self.settings, self.position, self.accelerator
        rate = learning_rate_factor(position.step, progress, settings) * settings.learning_rate
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        generator = step_generator(
            settings.seed, position.step, accelerator.process_index, accelerator.device
        )
        losses = self.wrapped(_move(batch, accelerator.device), generator)
        accelerator.backward(losses["loss"])
        accelerator.clip_grad_norm_(self.parameters, settings.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.parameters)
        position.step += 1
        position.examples += settings.batch_size
        self.log.add(position, losses, settings.batch_size)

    def save(self) -> dict[str, Any]:
        """Write the checkpoint and the model, and return the record."""
        if not all(torch.isfinite(parameter).all() for parameter in self.parameters):
            step = self.position.step
            raise FloatingPointError(f"the weights are no longer finite at step {step}")
        self.log.flush(self.position)
        entry = _describe_progress(self.position, self.begun, self.log.latest) | self.about
        record = {"runs": [*self.earlier, entry]}
        if self.accelerator.is_main_process:
            state = {"position": asdict(self.position), "begun": asdict(self.begun)} | record
            model = self.objective.model
            save_checkpoint(self._checkpoint, model, self.optimizers, self.ema, state)
            with writing(self.output / "model"), _averaging(self.ema, self.parameters):
                self.objective.export(self.output / "model", record)
        return record

    def save_sheet(self, name: str) -> None:
        """Write the sheet of the averaged weights, on the first process."""
        if not self.accelerator.is_main_process:
            return
        # Compiling for the sheet's few batches would take longer than drawing it.
        with _averaging(self.ema, self.parameters), torch.compiler.set_stance("force_eager"):
            sheet = self.objective.sheet()
        with written_whole(self.output / "sheets" / f"{name}.png") as partial:
            sheet.save(partial, "PNG")

    @property
    def _checkpoint(self) -> Path:
        return self.output / "checkpoint.pt"


@contextmanager
def _averaging(ema: EMAModel, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Put the averaged weights in place for the length of a `with` block."""
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)


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


def _describe_progress(
    position: Position, begun: Position, losses: dict[str, float]
) -> dict[str, Any]:
    """Return what a run has done since it began."""
    return {
        "steps": position.step - begun.step,
        "images_seen": position.examples - begun.examples,
        "minutes": round(position.minutes - begun.minutes, 1),
        "losses": losses,
    }


def _describe_run(
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


def _move(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    return [_move(part, device) for part in batch]
