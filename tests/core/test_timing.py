"""Milliseconds an image: the device's work from noise to picture, and nothing besides."""

from types import SimpleNamespace

import pytest
import torch

from flowturbo_core import devices, timing
from flowturbo_core.timing import Timing, timed
from tests.conftest import tiny_pipeline

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that stands still unless `clock.pass_by(seconds)` is called."""
    now = SimpleNamespace(seconds=100.0)
    now.pass_by = lambda seconds: setattr(now, "seconds", now.seconds + seconds)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    return now


def slow_down(module, clock, seconds):
    """Let every call of `module` take that long."""
    module.register_forward_hook(lambda *_: clock.pass_by(seconds))


def test_an_image_costs_its_share_of_blocks_and_decoding():
    spent = Timing(num_images=4, block_ms=(10.0, 20.0, 30.0), decode_ms=20.0)
    assert spent.ms_per_image == 20.0
    assert spent.decode_ms_per_image == 5.0


def test_work_is_timed_in_milliseconds(clock):
    def work():
        clock.pass_by(0.25)
        return "done"

    result, milliseconds = timed(work, CPU)
    assert result == "done"
    assert milliseconds == pytest.approx(250)


def test_the_device_is_waited_for_before_and_after(monkeypatch):
    events = []
    monkeypatch.setattr(devices, "synchronize", lambda device: events.append("wait"))
    timed(lambda: events.append("work"), CPU)
    assert events == ["wait", "work", "wait"]


def test_a_slow_consumer_is_not_counted(clock):
    pipeline = tiny_pipeline()
    slow_down(pipeline.predictor, clock, 1)
    times = []
    for progress in pipeline.stream([0, 1], "H1P2R1"):
        times.append(progress.block_ms)
        clock.pass_by(1000)  # somebody looks at the preview
    assert times == pytest.approx([2000, 1000, 1000, 0])  # H evaluates twice, P once, R never


def test_a_call_is_timed_from_noise_to_pictures_without_the_warm_up(clock):
    pipeline = tiny_pipeline()
    slow_down(pipeline.predictor, clock, 1)
    slow_down(pipeline.vae.decoder, clock, 7)
    for _ in range(2):  # the first call warms up, the second does not: neither counts it
        spent = pipeline([0, 1], "H1P2").timing
        assert spent.num_images == 2
        assert spent.block_ms == pytest.approx((2000, 1000, 1000))
        assert spent.decode_ms == pytest.approx(7000)
        assert spent.ms_per_image == pytest.approx(5500)


def test_one_block_of_each_kind_is_warmed_up_once_for_a_shape():
    pipeline = tiny_pipeline()
    calls = []
    pipeline.predictor.register_forward_hook(lambda *_: calls.append(1))

    def evaluations(*args):
        calls.clear()
        pipeline(*args, output_type="latent")
        return len(calls)

    assert evaluations([0], "H2P2") == 6 + 3  # one H and one P beforehand
    assert evaluations([0], "H2P2") == 6
    assert evaluations([0], "H4E1") == 9 + 1  # only the E is new
    assert evaluations([0, 1], "H1") == 2 + 2  # another batch is another shape


@pytest.mark.parametrize("guided_channels", [None, 3])
def test_decoding_is_warmed_up_at_the_size_it_then_has(guided_channels):
    # Where the loop carries a doubled batch, only half of it is decoded.
    pipeline = tiny_pipeline(guided_channels=guided_channels)
    sizes = []
    pipeline.vae.decoder.register_forward_hook(lambda module, args, out: sizes.append(len(out)))
    pipeline([0, 1, 2], "H1", 2.0)
    assert sizes == [3, 3]
