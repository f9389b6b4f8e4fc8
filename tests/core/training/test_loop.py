"""The training loop: killed and resumed it takes the same steps to the bit, and it does learn."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from flowturbo_core.models.sit import SiTPredictor
from flowturbo_core.training import loop
from flowturbo_core.training.flow import FlowObjective
from flowturbo_core.training.loop import Budget, StepBatches, fit, step_generator
from flowturbo_core.training.optimization import Hyperparameters
from tests.core.training.tiny import (
    SETTINGS,
    Killed,
    assert_same,
    checkpoint,
    flow_objective,
    latents,
    mortal,
    train,
)

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("deaths", [[1], [4], [3, 2]])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, whole_run, deaths):
    for number, lifetime in enumerate(deaths):
        with pytest.raises(Killed):
            # Other initial weights: all that counts is in the checkpoint.
            train(
                mortal(lifetime, init_seed=number),
                tmp_path,
                7,
                checkpoint_minutes=0,
                resume=number > 0,
            )
    assert checkpoint(tmp_path)["position"]["step"] == sum(deaths)
    train(flow_objective(init_seed=99), tmp_path, 7, resume=True)
    assert_same(checkpoint(tmp_path), whole_run)


def test_another_seed_is_another_run(tmp_path, whole_run):
    train(flow_objective(), tmp_path, 7, replace(SETTINGS, seed=6))
    assert not torch.equal(
        checkpoint(tmp_path)["model"]["x_embedder.proj.weight"],
        whole_run["model"]["x_embedder.proj.weight"],
    )


def test_resuming_a_finished_run_takes_no_step(tmp_path, whole_run):
    train(flow_objective(), tmp_path, 7)
    record = train(flow_objective(), tmp_path, 7, resume=True)
    assert_same(checkpoint(tmp_path), whole_run)
    assert record["runs"][-1]["steps"] == 7


@pytest.mark.parametrize("change", [{"batch_size": 2}, {"learning_rate": 1e-3}, {"seed": 6}])
def test_a_run_resumed_with_other_settings_is_another_one_from_there(tmp_path, change):
    first = train(flow_objective(), tmp_path, 3)["runs"][0]
    changed = replace(SETTINGS, **change)
    record = train(flow_objective(), tmp_path, 5, changed, resume=True)
    again = train(flow_objective(), tmp_path, 6, changed, resume=True)["runs"]
    assert record["runs"][0] == again[0] == first
    assert (first["steps"], first["images_seen"]) == (3, 12)
    for runs, steps in ((record["runs"], 2), (again, 3)):
        assert len(runs) == 2 and runs[1]["steps"] == steps
        assert runs[1]["images_seen"] == steps * changed.batch_size
        assert runs[1]["settings"] == json.loads(json.dumps(asdict(changed)))
    assert again[1]["losses"] and checkpoint(tmp_path)["position"]["step"] == 6
    assert checkpoint(tmp_path)["position"]["examples"] == 12 + 3 * changed.batch_size


class Watching(FlowObjective):
    """Remembers which examples it was given."""

    def forward(self, batch, generator):
        self.seen = [*getattr(self, "seen", []), *(batch[0][:, 0, 0, 0].tolist())]
        return super().forward(batch, generator)


def test_a_run_resumed_with_another_batch_goes_on_at_its_place_in_the_data(tmp_path):
    whole, parts = flow_objective(kind=Watching), []
    train(whole, tmp_path / "whole", 5)
    for steps, size, resume in ((2, 4, False), (8, 2, True)):
        parts.append(flow_objective(kind=Watching))
        changed = replace(SETTINGS, batch_size=size)
        train(parts[-1], tmp_path / "parts", steps, changed, resume=resume)
    assert parts[0].seen + parts[1].seen == whole.seen


def test_another_machine_and_other_data_are_other_entries(tmp_path, monkeypatch):
    train(flow_objective(), tmp_path, 2)
    monkeypatch.setattr(loop, "describe_device", lambda device: "another")
    train(flow_objective(), tmp_path, 3, resume=True)
    more = flow_objective()
    more.data = latents(12)
    runs = train(more, tmp_path, 4, resume=True)["runs"]
    assert [run["steps"] for run in runs] == [2, 1, 1]
    assert [run["device"] == "another" for run in runs] == [False, True, True]
    assert [run["num_examples"] for run in runs] == [10, 10, 12]


def test_a_resumed_run_keeps_the_record_of_the_weights_it_began_with(tmp_path):
    earlier = [{"steps": 100, "settings": {"seed": 1}}]
    train(flow_objective(), tmp_path, 2, earlier_runs=earlier)
    runs = train(flow_objective(), tmp_path, 3, resume=True)["runs"]
    assert runs[0] == earlier[0] and [run["steps"] for run in runs] == [100, 3]


@pytest.mark.slow
def test_a_run_that_the_system_kills_resumes_to_the_same_bits(tmp_path):
    steps = 12
    program = [sys.executable, "-m", "tests.core.training.tiny"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def run(output, *options):
        return subprocess.Popen(
            [*program, str(tmp_path / output), str(steps), *options],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
        )

    process = run("killed")
    file = tmp_path / "killed" / "checkpoint.pt"
    while not file.exists():  # then it is training, and writing a checkpoint at every step
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint(tmp_path / "killed")["position"]["step"] < steps
    assert run("killed", "resume").wait() == 0
    assert run("whole").wait() == 0
    assert_same(checkpoint(tmp_path / "killed"), checkpoint(tmp_path / "whole"))


def test_what_a_run_leaves(tmp_path):
    record = train(flow_objective(), tmp_path, 4, sheet_every=2)
    state = checkpoint(tmp_path)
    assert state["position"]["step"] == 4
    # The model folder holds the averaged weights, as they ship: in float16.
    exported = SiTPredictor.from_pretrained(tmp_path / "model")
    trainable = [name for name, p in flow_objective().model.named_parameters() if p.requires_grad]
    for name, average in zip(trainable, state["ema"]["parameters"], strict=True):
        assert torch.equal(exported.state_dict()[name].float(), average.half().float()), name
        assert not torch.equal(average, state["model"][name]), name
    run = record["runs"][-1]
    assert (run["steps"], run["images_seen"]) == (4, 16)
    assert math.isfinite(run["losses"]["loss"])
    written = (tmp_path / "model" / "training.json").read_text()
    assert json.loads(written) == json.loads(json.dumps(record))
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[0]["step"] == 1 and log[0]["loss"] > 0
    sheets = sorted(file.name for file in (tmp_path / "sheets").iterdir())
    assert sheets == ["0000002.png", "0000004.png", "final.png"]
    with Image.open(tmp_path / "sheets" / "final.png") as sheet:
        assert sheet.size[0] > 16


def test_sheets_and_exports_leave_the_trained_weights_alone(tmp_path, whole_run):
    # Both show the averaged weights; training must go on from its own.
    train(flow_objective(), tmp_path, 7, sheet_every=1, checkpoint_minutes=0)
    assert_same(checkpoint(tmp_path), whole_run)


def test_a_run_is_not_written_over(tmp_path):
    train(flow_objective(), tmp_path, 1)
    with pytest.raises(FileExistsError, match="--resume"):
        train(flow_objective(), tmp_path, 1)


def test_there_must_be_something_to_resume(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        train(flow_objective(), tmp_path, 1, resume=True)


class Diverging(FlowObjective):
    """Its loss is NaN from the third step on."""

    steps = 0

    def forward(self, batch, generator):
        losses = super().forward(batch, generator)
        self.steps += 1
        return losses if self.steps < 3 else {"loss": losses["loss"] * float("nan")}


def test_a_loss_that_is_no_number_stops_the_run_and_spoils_no_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError):
        train(flow_objective(kind=Diverging), tmp_path, 5, checkpoint_minutes=0)
    for value in checkpoint(tmp_path)["model"].values():
        assert torch.isfinite(value).all()


@pytest.mark.parametrize(
    "budget",
    [
        {},
        {"minutes": 1.0, "steps": 10},
        {"minutes": 0.0},
        {"minutes": -1.0},
        {"minutes": math.nan},
        {"minutes": math.inf},
        {"steps": 0},
        {"steps": -3},
    ],
)
def test_a_wrong_budget_is_refused(budget):
    with pytest.raises(ValueError):
        Budget(**budget)


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"batch_size": 0}, {}),
        ({"batch_size": -4}, {}),
        ({"learning_rate": math.nan}, {}),
        ({"learning_rate": -1e-3}, {}),
        ({}, {"sheet_every": 0}),
        ({}, {"workers": -1}),
    ],
)
def test_wrong_settings_are_refused_before_the_first_step(tmp_path, changes, options):
    steps = []

    class Watched(FlowObjective):
        def forward(self, batch, generator):
            steps.append(1)
            return super().forward(batch, generator)

    with pytest.raises(ValueError):
        train(flow_objective(kind=Watched), tmp_path, 2, replace(SETTINGS, **changes), **options)
    assert not steps


def test_a_budget_in_minutes_ends_the_run(tmp_path, monkeypatch):
    # Every look at the clock takes six seconds.
    now = [0.0]

    def monotonic():
        now[0] += 6.0
        return now[0]

    monkeypatch.setattr(loop.time, "monotonic", monotonic)
    record = fit(
        flow_objective(), SETTINGS, Budget(minutes=1.0), tmp_path,
        workers=0, sheet_every=10**9, device="cpu",
    )  # fmt: skip
    assert 1 <= record["runs"][-1]["steps"] <= 10
    assert record["runs"][-1]["minutes"] >= 1.0


def batches(count, data, first_step=0, batch_size=6, seed=3, rank=0, ranks=1):
    stream = iter(StepBatches(first_step * batch_size, batch_size, data, seed, rank, ranks))
    return [next(stream) for _ in range(count)]


def test_every_epoch_sees_every_example_once_in_an_order_of_its_own():
    data = range(15)  # no multiple of the batch: batches reach from one epoch into the next
    seen = [i for batch in batches(5, data) for i in batch]
    first, second = seen[:15], seen[15:]
    assert sorted(first) == sorted(second) == list(data)
    assert first != second != list(data)
    assert batches(5, data, seed=4) != batches(5, data)


def test_data_smaller_than_a_batch_is_seen_as_often_as_it_fits():
    assert sorted(batches(1, range(2))[0]) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("first_step", [1, 2, 3, 7])
def test_batches_from_a_later_step_are_those_it_would_have_come_to(first_step):
    data = range(15)
    assert batches(3, data, first_step) == batches(first_step + 3, data)[first_step:]


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_share_a_batch_between_them(ranks):
    data = range(15)
    shares = [batches(4, data, rank=rank, ranks=ranks) for rank in range(ranks)]
    for step, whole in enumerate(batches(4, data)):
        assert sum((share[step] for share in shares), []) == whole


def test_endless_data_is_taken_in_order_and_never_twice():
    endless = object()
    assert batches(2, endless) == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert batches(1, endless, first_step=3, rank=1, ranks=2) == [[21, 22, 23]]


def test_every_step_and_process_has_noise_of_its_own():
    def draw(*position):
        return torch.randn(4, generator=step_generator(*position)).tolist()

    assert draw(0, 5, 0) == draw(0, 5, 0)
    places = [(0, 5, 0), (0, 6, 0), (0, 5, 1), (1, 5, 0)]
    assert len({tuple(draw(*place)) for place in places}) == 4


def test_it_learns(tmp_path):
    # One batch, learned by heart: each class is one grey level. Knowing it, the loss could be 0;
    # at the start it is E|x1 - x0|^2.
    settings = Hyperparameters(
        batch_size=12, learning_rate=5e-3, warmup_steps=5, ema_decay=0.9, seed=1
    )
    objective = flow_objective()
    levels = torch.tensor([-2.0, 0.0, 2.0]).view(3, 1, 1, 1).expand(3, 4, 8, 8)
    objective.data = TensorDataset(levels.clone(), torch.arange(3))
    batch = [levels.repeat(10, 1, 1, 1), torch.arange(3).repeat(10)]

    def loss():
        with torch.no_grad():
            return objective(batch, torch.Generator().manual_seed(0))["loss"].item()

    before = loss()
    assert before == pytest.approx(1 + 8 / 3, rel=0.1)
    train(objective, tmp_path, 100, settings)
    assert loss() < 0.2 * before


def test_a_run_with_stepped_kernels_resumes_to_the_bit(tmp_path):
    def run(output, steps, resume=False):
        torch.manual_seed(0)
        objective = Convolved()
        settings = replace(SETTINGS, decay_fraction=0.0, muon_dims=(2, 4))
        fit(objective, settings, Budget(steps=steps), output, resume=resume, workers=0)
        return objective.model["blocks"][0].weight.detach()

    whole = run(tmp_path / "whole", 6)
    run(tmp_path / "parts", 3)
    torch.testing.assert_close(run(tmp_path / "parts", 6, resume=True), whole, rtol=0, atol=0)


class Convolved(loop.Objective):
    """Teaches a convolution to give back what it is given."""

    def __init__(self):
        super().__init__()
        self.model = torch.nn.ModuleDict(
            {"blocks": torch.nn.ModuleList([torch.nn.Conv2d(2, 2, 3, padding=1)])}
        )
        self.data = TensorDataset(torch.randn(32, 2, 5, 5))

    def forward(self, batch, generator):
        return {"loss": (self.model["blocks"][0](batch[0]) - batch[0]).square().mean()}

    def sheet(self):
        return Image.new("RGB", (1, 1))

    def export(self, folder, record):
        folder.mkdir(exist_ok=True)


def test_without_a_compiler_a_run_says_so_and_goes_on(tmp_path, monkeypatch, capsys, whole_run):
    monkeypatch.setattr(loop, "can_compile", lambda device_type: False)
    train(flow_objective(), tmp_path, 7, compiled=True)
    assert "without torch.compile" in capsys.readouterr().out
    assert_same(checkpoint(tmp_path), whole_run)
