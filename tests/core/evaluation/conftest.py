"""Tiny postcards, and what judges them."""

import pytest

from flowturbo_core.models.evaluator import PostcardsEvaluator
from tests.conftest import randomize
from tests.demo.conftest import make_pipeline


@pytest.fixture(scope="module")
def postcards():
    return make_pipeline()


@pytest.fixture(scope="module")
def evaluator():
    return randomize(PostcardsEvaluator(widths=(8,) * 5, feature_size=4), 5, scale=0.3)
