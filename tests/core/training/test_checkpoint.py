"""The state of a run on the disk: whole or not at all, and refused where it is none."""

from pathlib import Path

import pytest
import torch

from tests.core.training.tiny import Killed, assert_same, checkpoint, flow_objective, mortal, train


def test_a_checkpoint_of_an_earlier_version_goes_on_and_says_what_it_takes_for_granted(
    tmp_path, whole_run, capsys
):
    train(flow_objective(), tmp_path, 3)
    state = checkpoint(tmp_path)
    old = {name: state[name] for name in ("model", "optimizers", "ema", "position")}
    del old["position"]["examples"]
    torch.save(old, tmp_path / "checkpoint.pt")
    (run,) = train(flow_objective(), tmp_path, 7, resume=True)["runs"]
    assert "earlier version, which did not count the images" in capsys.readouterr().out
    assert (run["steps"], run["images_seen"]) == (7, 28)
    assert_same(checkpoint(tmp_path), whole_run)


def test_a_disk_that_is_full_is_one_sentence_and_leaves_the_last_checkpoint(
    tmp_path, monkeypatch, whole_run
):
    train(flow_objective(), tmp_path, 3)
    genuine = torch.save

    def full(state, file):
        Path(file).write_bytes(b"half of it")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ValueError, match="checkpoint.pt cannot be written: writing broke off"):
        train(flow_objective(), tmp_path, 7, resume=True)
    assert not list(tmp_path.glob("*.partial"))
    monkeypatch.setattr(torch, "save", genuine)
    train(flow_objective(), tmp_path, 7, resume=True)
    assert_same(checkpoint(tmp_path), whole_run)


def test_dying_while_writing_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch, whole_run):
    with pytest.raises(Killed):
        train(mortal(3), tmp_path, 7, checkpoint_minutes=0)
    genuine = torch.save

    def half(state, file):
        genuine(state, file)
        content = Path(file).read_bytes()
        Path(file).write_bytes(content[: len(content) // 2])
        raise Killed

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(Killed):
        train(flow_objective(), tmp_path, 7, checkpoint_minutes=0, resume=True)
    monkeypatch.setattr(torch, "save", genuine)
    assert checkpoint(tmp_path)["position"]["step"] == 3
    train(flow_objective(), tmp_path, 7, resume=True)
    assert_same(checkpoint(tmp_path), whole_run)


def other_model(file):
    state = torch.load(file, weights_only=True)
    state["model"] = {"weight": torch.zeros(2)}
    torch.save(state, file)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-200]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_text("not a checkpoint"),
        lambda file: torch.save({"weight": torch.zeros(2)}, file),
        other_model,
    ],
    ids=["truncated", "empty", "text", "another file", "another model"],
)
def test_a_checkpoint_that_is_none_is_refused_in_a_sentence(tmp_path, spoil):
    train(flow_objective(), tmp_path, 1)
    spoil(tmp_path / "checkpoint.pt")
    with pytest.raises((ValueError, OSError), match="checkpoint"):
        train(flow_objective(), tmp_path, 2, resume=True)
