"""What an evaluation may be asked for, and what tells its weights from others."""

import copy
from dataclasses import replace

import pytest
import torch

from flowturbo_core.evaluation.settings import weights_of
from tests.core.evaluation.evaluating import SETTINGS


def test_other_weights_have_another_hash(postcards, evaluator):
    others = copy.deepcopy(postcards)
    assert weights_of(postcards, evaluator) == weights_of(others, evaluator)
    with torch.no_grad():
        others.refiner.pos_embed[0, 0, 0] += 1
    released = copy.deepcopy(postcards)
    released.refiner.register_to_config(variant="released")
    models = (postcards, others, released)
    hashes = {weights_of(model, evaluator) for model in models} | {weights_of(postcards)}
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_samples": 1}, "num_samples must be a whole number from 2"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1"),
        ({"plans": ()}, "at least one plan"),
        ({"plans": ("H8", "H8")}, "a plan is named twice in H8, H8"),
        ({"metrics": ("beauty",)}, "'beauty': choose from frechet, accuracy, solver"),
        ({"metrics": ()}, "choose from"),
        ({"seed": 2**32 - 63}, "the first seed of 6 samples must be a whole number from 0 to"),
        ({"plans": ("H8",), "rivals": ("ab2:2", "ab2:2")}, "a rival is named twice"),
    ],
)
def test_settings_that_cannot_be(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(SETTINGS, **changes)


def test_numbers_may_be_written_as_floats():
    settings = replace(SETTINGS, num_samples=6.0, batch_size=4.0)
    assert settings == SETTINGS and isinstance(settings.num_samples, int)
