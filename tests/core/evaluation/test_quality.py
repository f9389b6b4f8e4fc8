"""What an evaluator sees in pictures: how well they are drawn, and against what."""

import numpy as np
import pytest
import torch

from flowturbo_core.data.postcards.scene import sample_scene
from flowturbo_core.data.scenes import Scenes
from flowturbo_core.evaluation import quality
from flowturbo_core.evaluation.quality import evaluator_of
from flowturbo_core.models.autoencoder import reconstruct
from flowturbo_core.models.evaluator import PostcardsEvaluator
from tests.core.evaluation.evaluating import run


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch):
    """Compare with eight scenes instead of ten thousand."""
    monkeypatch.setattr(quality, "REFERENCE_SCENES", 8)


def test_accuracy_precision_and_recall_are_of_what_was_told(postcards, tmp_path, monkeypatch):
    labels = [sample_scene(quality.ASKED_SEED + k).label for k in range(6)]
    subjects = torch.tensor(labels[:5] + [(labels[5] + 1) % 17])  # the last one is mistaken
    told = torch.stack([subjects, *[torch.zeros(6, dtype=torch.long)] * 3], dim=1)
    told_in_turn = iter([told[:4], told[4:]])
    near = torch.linspace(0, 1, 8)[:, None].repeat(1, 4)
    features = iter([near[:1].repeat(4, 1), near[:1].repeat(2, 1)])  # one point, again and again
    monkeypatch.setattr(quality, "look", lambda *_: (next(features), next(told_in_turn)))
    first = torch.arange(8)[:, None].repeat(1, 4)

    def scenes(*asked, split, reconstructed):
        count = asked[-1]
        away = 5 if reconstructed else 0
        return (near + away)[:count], torch.zeros_like(first)[:count], first[:count]

    monkeypatch.setattr(quality, "_look_at_scenes", scenes)
    content = run(postcards, "an evaluator", tmp_path / "parts", plans=("H2",))
    (row,) = content["rows"]
    assert row["class_accuracy"] == pytest.approx(5 / 6)
    # All that was drawn is among the scenes, of which it covers one.
    assert row["precision"] == 1 and row["recall"] == pytest.approx(1 / 6)
    reconstructed = content["floor"]["reconstructed"]
    assert reconstructed["class_accuracy"] == pytest.approx(1 / 6)
    assert reconstructed["precision"] == 0
    drawn = content["floor"]["drawn"]
    assert drawn["precision"] == 1 and drawn["frechet_distance"] < reconstructed["frechet_distance"]


def test_the_floor_is_of_other_scenes_through_the_autoencoder(postcards, evaluator):
    ours = quality._look_at_scenes(postcards, evaluator, 7, 5, split="train", reconstructed=True)
    images, labels = Scenes(7)[range(5)]
    seen = reconstruct(postcards.vae, images.float() / 127.5 - 1)
    torch.testing.assert_close(ours[0], quality.look(evaluator, seen)[0])
    assert torch.equal(ours[2][:, 0], labels)
    seeds = sorted((quality.REFERENCE_SEED, quality.FLOOR_SEED, quality.ASKED_SEED))
    assert all(b - a >= 1_000_000 for a, b in zip(seeds, seeds[1:], strict=False))


def test_postcards_alone_have_an_evaluator(pipeline, postcards):
    assert evaluator_of(pipeline) is None
    assert isinstance(evaluator_of(postcards), PostcardsEvaluator)


def test_images_reach_the_evaluator_on_their_scale(postcards, evaluator, tmp_path, monkeypatch):
    seen, look = [], quality.look
    monkeypatch.setattr(quality, "look", lambda e, images: seen.append(images) or look(e, images))
    run(postcards, evaluator, tmp_path / "parts")
    values = np.concatenate([images.numpy().ravel() for images in seen])
    assert -1.001 <= values.min() < -0.5 and 0.5 < values.max() <= 1.001
