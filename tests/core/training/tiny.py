"""A training run of seconds: a tiny predictor on random latents. Also run as a program."""

import sys
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

from flowturbo_core.models.sit import SiTPredictor
from flowturbo_core.training.flow import FlowObjective
from flowturbo_core.training.loop import Budget, fit
from flowturbo_core.training.optimization import Hyperparameters
from tests.conftest import TINY_SIT, tiny_vae

SETTINGS = Hyperparameters(batch_size=4, learning_rate=2e-3, warmup_steps=3, ema_decay=0.9, seed=5)


def latents(count=10, seed=0):
    """Return random latents and labels, fewer than two batches and a half."""
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.randn(count, 4, 8, 8, generator=generator).half(), torch.arange(count) % 3
    )


def flow_objective(init_seed=0, kind=FlowObjective):
    torch.manual_seed(init_seed)
    model = SiTPredictor(**TINY_SIT | {"depth": 1})
    return kind(model, latents(), tiny_vae(), ["a", "b", "c"])


def train(objective, output, steps, settings=SETTINGS, **options):
    """Run the loop on the CPU, in this process; sheets and checkpoints only when asked for."""
    quiet = {"workers": 0, "sheet_every": 10**9, "device": "cpu", "compiled": False}
    return fit(objective, settings, Budget(steps=steps), output, **quiet | options)


def checkpoint(output):
    return torch.load(output / "checkpoint.pt", weights_only=True)


def assert_same(one, other, path="checkpoint"):
    """Compare two checkpoints to the bit; the clock may differ, and over what losses are means."""
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one.keys() - {"minutes", "losses"}:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for k, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{path}[{k}]")
    else:
        assert one == other, path


class Killed(BaseException):
    """What stops a run in a test; nothing catches it."""


class Mortal(FlowObjective):
    """Dies in its `lifetime`-th step after the run began."""

    lifetime = 0

    def forward(self, batch, generator):
        self.lifetime -= 1
        if self.lifetime < 0:
            raise Killed
        return super().forward(batch, generator)


def mortal(lifetime, init_seed=0):
    objective = flow_objective(init_seed, Mortal)
    objective.lifetime = lifetime
    return objective


def assert_refused(done, *named):
    assert done.code == 2, done.err
    assert len(done.err.strip().splitlines()) == 1, done.err
    for part in named:
        assert str(part) in done.err


if __name__ == "__main__":  # python -m tests.core.training.tiny OUTPUT STEPS [resume]
    train(
        flow_objective(),
        Path(sys.argv[1]),
        int(sys.argv[2]),
        resume="resume" in sys.argv,
        checkpoint_minutes=0,  # after every step
    )
