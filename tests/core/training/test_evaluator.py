"""The evaluator: what it is taught, and what its accuracy is of."""

import json

import pytest
import torch

from flowturbo_core.data.postcards.scene import ATTRIBUTES, NOTHING, sample_scene
from flowturbo_core.data.scenes import AttributedScenes
from flowturbo_core.making.bundle import bundle_evaluator
from flowturbo_core.models.autoencoder import reconstruct
from flowturbo_core.models.evaluator import PostcardsEvaluator
from flowturbo_core.models.storage import load_model, read_record, save_model
from flowturbo_core.training import evaluator as module
from flowturbo_core.training.evaluator import EvaluatorObjective, measure
from tests.core.training.tiny import SETTINGS, train
from tests.demo.conftest import make_pipeline


@pytest.fixture(scope="module")
def vae():
    return make_pipeline().vae


def tiny():
    torch.manual_seed(0)
    return PostcardsEvaluator(widths=(8,) * 5, feature_size=16)


def test_attributes_are_the_scenes():
    _, attributes = AttributedScenes(0)[range(60)]
    for row, seed in zip(attributes.tolist(), range(60), strict=True):
        scene = sample_scene(seed, "all")
        for label, (name, values) in zip(row, ATTRIBUTES.items(), strict=True):
            value = getattr(scene, name)
            assert (label == NOTHING) if value is None else (values[label] == value)
    assert (attributes == NOTHING).any(1).sum() == (attributes[:, 0] == 16).sum() > 0


def test_half_of_a_batch_goes_through_the_autoencoder(vae, monkeypatch):
    objective, seen = EvaluatorObjective(tiny(), vae, 0), []
    monkeypatch.setattr(
        module, "reconstruct", lambda v, images: seen.append(images) or torch.zeros_like(images)
    )
    images, attributes = objective.data[range(6)]
    whole = objective([images, attributes], torch.Generator())
    images[:3] = 255 - images[:3]  # what is reconstructed anyway, here to grey, changes nothing
    assert torch.equal(objective([images, attributes], torch.Generator())["loss"], whole["loss"])
    assert [len(part) for part in seen] == [3, 3]


def test_what_has_no_colour_teaches_none(vae):
    objective = EvaluatorObjective(tiny(), vae, 0)
    images, attributes = objective.data[range(4)]
    attributes[1:, 1] = NOTHING
    alone = objective([images, attributes], torch.Generator())["colour"]
    logits = objective.model.logits(objective.model(reconstruct(vae, images[:1] / 127.5 - 1)))
    expected = torch.nn.functional.cross_entropy(logits["colour"], attributes[:1, 1])
    torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-4)


def test_it_learns_one_batch_by_heart(vae, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_UNSEEN", 4)
    monkeypatch.setattr(module, "_CALIBRATION", 4)
    objective = EvaluatorObjective(tiny(), vae, 0)
    fixed = objective.data[range(4)]
    objective.data = torch.utils.data.TensorDataset(*fixed)
    before = float(objective(list(fixed), torch.Generator())["loss"].detach())
    train(objective, tmp_path / "run", steps=60, settings=SETTINGS)
    after = float(objective(list(fixed), torch.Generator())["loss"].detach())
    assert after < before / 3
    stored = load_model(PostcardsEvaluator, tmp_path / "run" / "model")
    assert stored.num_parameters() == objective.model.num_parameters()


def test_accuracy_is_of_what_there_is(vae):
    class Oracle(torch.nn.Linear):
        """Tells every attribute right, but for the time of day, which it never knows."""

        def logits(self, _):
            given = attributes[self.done : self.done + 64].clamp_min(0)
            self.calls += 1
            self.done += 64 * (self.calls % 2 == 0)  # drawn first, then reconstructed
            right = {
                name: torch.nn.functional.one_hot(labels, len(names)).float()
                for (name, names), labels in zip(ATTRIBUTES.items(), given.T, strict=True)
            }
            return right | {"time": 1 - right["time"]}

        def forward(self, images):
            return images

    attributes = AttributedScenes(0)[range(80)][1]
    oracle = Oracle(1, 1)
    oracle.calls = oracle.done = 0
    found = measure(oracle, vae, AttributedScenes(0), 80)
    for kind in ("drawn", "reconstructed"):
        assert found[kind] == {"subject": 1, "colour": 1, "time": 0, "position": 1}


def test_the_command_trains_one(command_line, tmp_path, monkeypatch, vae):
    monkeypatch.setattr(module, "_UNSEEN", 8)
    monkeypatch.setattr(module, "_CALIBRATION", 8)
    save_model(vae, tmp_path / "vae")
    done = command_line(
        "train", "evaluator", "--autoencoder", tmp_path / "vae", "--steps", 1, "--batch-size", 4,
        "--output", tmp_path / "run", "--device", "cpu", "--workers", 0, "--no-compile",
    )  # fmt: skip
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "run" / "model" / "training.json").read_text())
    assert set(record["unseen"]) == {"drawn", "reconstructed"}
    assert set(record["unseen"]["drawn"]) == set(ATTRIBUTES)


@pytest.mark.parametrize("config", [{"widths": (8, 8)}, {"feature_size": 65}])
def test_a_network_of_another_shape_is_refused(config):
    with pytest.raises(ValueError, match="feature_size from 1 to 64"):
        PostcardsEvaluator(**config)


def test_features_come_in_units_of_their_spread_and_the_heads_do_not_notice():
    model = tiny()
    images, _ = AttributedScenes(3)[range(32)]
    images = images.float() / 127.5 - 1
    with torch.no_grad():
        before = model.logits(model(images))
        model.calibrate(images)
        features = model(images)
        torch.testing.assert_close(features.std(0), torch.ones(16), atol=1e-3, rtol=1e-3)
        for name, logits in model.logits(features).items():
            torch.testing.assert_close(logits, before[name], atol=1e-4, rtol=1e-4)
        scale = model.feature_scale.clone()
        model.calibrate(images)  # what is calibrated stays as it is
    torch.testing.assert_close(model.feature_scale, scale)


def test_a_feature_that_never_varies_is_left_alone():
    model = tiny()
    with torch.no_grad():
        model.features[1].weight[0] = 0
        images, _ = AttributedScenes(3)[range(8)]
        model.calibrate(images.float() / 127.5 - 1)
    assert model.feature_scale[0] == 1 and torch.isfinite(model.feature_scale).all()


def test_the_bundled_folder_has_a_card_of_what_was_measured(vae, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_UNSEEN", 8)
    monkeypatch.setattr(module, "_CALIBRATION", 8)
    trained = tmp_path / "run" / "model"
    train(EvaluatorObjective(tiny(), vae, 0), tmp_path / "run", steps=1, settings=SETTINGS)
    bundle_evaluator(trained, tmp_path)
    folder = tmp_path / "postcards-evaluator"
    card, unseen = (folder / "README.md").read_text(), read_record(folder)["unseen"]
    for its in unseen.values():
        assert " | ".join(f"{100 * share:.2f}%" for share in its.values()) in card
    load_model(PostcardsEvaluator, folder)
    record = json.loads((trained / "training.json").read_text())
    (trained / "training.json").write_text(json.dumps({"runs": record["runs"]}))
    with pytest.raises(ValueError, match="no record of what it tells"):
        bundle_evaluator(trained, tmp_path)
    assert (folder / "README.md").read_text() == card
