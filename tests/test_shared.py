"""What a test may not leave different: each kind of change is seen, and no other."""

import pytest
import torch

from tests.conftest import tiny_pipeline
from tests.shared import differing, fingerprint, global_state

pytest_plugins = ["pytester"]
CHANGES = {
    "a weight": lambda p: p.refiner.pos_embed.data.mul_(2),
    "a weight, as training does": lambda p: torch.nn.init.zeros_(p.predictor.pos_embed),
    "a format": lambda p: p.to(torch.bfloat16),
    "a part": lambda p: setattr(p, "refiner", None),
    "a mode": lambda p: p.vae.decoder.train(),
    "a hook": lambda p: p.predictor.blocks[0].register_forward_hook(lambda *_: None),
    "gradients": lambda p: p.predictor.requires_grad_(False),
    "a config": lambda p: p.refiner.register_to_config(variant="released"),
    "a plan": lambda p: setattr(p, "default_plan", "H1"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_pipeline_is_seen(change):
    pipeline = tiny_pipeline()
    before = fingerprint(pipeline)
    pipeline([0], "H1P1R1", seed=1)
    assert fingerprint(pipeline) == before
    change(pipeline)
    assert fingerprint(pipeline) != before


def test_a_changed_container_or_folder_is_seen(tmp_path):
    shared = {"plans": ["H8"], "folder": tmp_path, "v": torch.zeros(2)}
    before = fingerprint(shared)
    for change in (
        lambda: shared["plans"].append("H4"),
        lambda: (tmp_path / "file").touch(),
        lambda: shared["v"].add_(1),
    ):
        assert fingerprint(shared) == before
        change()
        assert fingerprint(shared) != before
        before = fingerprint(shared)


def test_a_changed_process_is_seen(monkeypatch, tmp_path):
    before = global_state()
    monkeypatch.setenv("FLOWTURBO_TEST", "1")
    monkeypatch.chdir(tmp_path)
    with torch.no_grad():
        now = global_state()
    assert {*differing(before, now)} == {
        "$FLOWTURBO_TEST",
        "the working folder",
        "torch's gradients",
    }


def test_a_test_that_leaves_something_behind_fails_by_name(pytester, monkeypatch):
    monkeypatch.setenv("FLOWTURBO_TEST", "0")  # and so it is taken back here
    pytester.makeconftest("from tests.conftest import *  # noqa: F403")
    pytester.makepyfile(
        """
        import os

        import pytest

        LIMITS = {"steps": 100}

        @pytest.fixture(scope="module")
        def plans():
            return ["H8"]

        def test_environment():
            os.environ["FLOWTURBO_TEST"] = "1"

        def test_module():
            LIMITS["steps"] = 1

        def test_fixture(plans):
            plans.append("H4")

        def test_the_next(plans):
            assert plans == ["H8", "H4"]
        """
    )
    done = pytester.runpytest_inprocess("-q")
    done.assert_outcomes(passed=4, errors=3)
    done.stdout.fnmatch_lines(
        [
            "test_environment leaves different for the next test: $FLOWTURBO_TEST",
            "test_module leaves different for the next test: LIMITS",
            "test_fixture leaves different for the next test: the fixture plans",
        ]
    )
