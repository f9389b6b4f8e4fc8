"""`bench`: plans timed in turn, and compared with the first."""

import json
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel

from flowturbo_core.compile import can_compile
from flowturbo_core.evaluation import sizes, speed
from flowturbo_core.evaluation.sizes import random_pipeline
from flowturbo_core.evaluation.speed import bench
from flowturbo_core.models.unet import SD_REFINER, SD_UNET
from flowturbo_core.pipelines import bench as pipeline_bench
from flowturbo_core.timing import Timing


def test_plans_are_compared_with_the_first(command_line, pipeline_folder, tmp_path):
    file = tmp_path / "new" / "bench.json"
    done = command_line(
        "bench", "--model", pipeline_folder, "--plans", "H4,H1P2R1", "--batch-size", 2,
        "--repeats", 3, "--device", "cpu", "--dtype", "float32", "--json", file,
    )  # fmt: skip
    assert done.code == 0, done.err
    result = json.loads(file.read_text())
    first, second = result["rows"]
    assert (first["plan"], second["plan"]) == ("H4", "H1P2R1")
    assert first["ratio"] == 1
    for row in result["rows"]:
        assert 0 < row["ms_min"] <= row["ms_per_image"] <= row["ms_max"]
        assert 0 < row["decode_ms_per_image"] < row["ms_per_image"]
        assert row["mode"] == "eager" and row["predictor_ms_per_image"] > 0
    assert first["refiner_ms_per_image"] == 0 < second["refiner_ms_per_image"]
    assert result["peak_memory_mib"] > 10 and result["notes"] == []
    assert (result["batch_size"], result["device"] != "", result["dtype"]) == (2, True, "float32")
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"plans": ["H4", "R1H1"]}, "R1H1"),
        ({"plans": ["H4", "[H2]x2"]}, "twice"),
        ({"plans": []}, "plan"),
        ({"batch_size": 0}, "batch_size"),
        ({"repeats": 0}, "repeats"),
        ({"repeats": 1.5}, "1.5"),
        ({"guidance_scale": float("nan")}, "nan"),
        ({"modes": ["fast"]}, "'fast': choose from eager, compiled"),
        ({"modes": []}, "choose from eager, compiled"),
    ],
)
def test_wrong_benchmarks_are_refused(pipeline, changes, named):
    with pytest.raises(ValueError, match=named):
        bench(pipeline, **{"plans": ["H2"], "batch_size": 1, "repeats": 1} | changes)


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="sit-xxl-2.*sit-xl-2"):
        random_pipeline("sit-xxl-2", torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(("config", "millions"), [(SD_UNET, 859.52), (SD_REFINER, 43.5)])
def test_the_unets_of_stable_diffusions_size_have_it(config, millions):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    assert sum(p.numel() for p in unet.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_a_model_of_texts_can_be_timed_without_weights(monkeypatch):
    small = {"block_out_channels": (16, 16), "layers_per_block": 1, "norm_num_groups": 8}
    blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "sample_size": 8}
    blocks |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "attention_head_dim": 2}
    for name in ("SD_UNET", "SD_REFINER"):
        config = getattr(sizes, name) | small | blocks | {"cross_attention_dim": 24}
        monkeypatch.setattr(sizes, name, config)
    monkeypatch.setitem(sizes._CLIP, "hidden_size", 24)
    vae = sizes._RELEASED_VAE | small | {"block_out_channels": (8,) * 4}
    monkeypatch.setattr(sizes, "_RELEASED_VAE", vae)
    pipeline = random_pipeline("sd-1-5", torch.device("cpu"), torch.float32)
    rows = bench(pipeline, ["H1", "H1P1R1"], 1, 1)["rows"]
    assert [row["refiner_ms_per_image"] > 0 for row in rows] == [False, True]


def test_where_there_is_no_compiler_eager_is_timed_and_it_is_said(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline_bench, "can_compile", lambda device_type: False)
    result = bench(pipeline, ["H2"], 1, 1, modes=["eager", "compiled"])
    assert [row["mode"] for row in result["rows"]] == ["eager"]
    (note,) = result["notes"]
    assert note.startswith("eager only: torch.compile does not work on this machine")


@pytest.mark.slow
@pytest.mark.skipif(not can_compile("cpu"), reason="torch.compile does not work here")
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_compiled_blocks_are_the_eager_ones_and_compile_once(pipeline, guidance_scale):
    compiled = pipeline.compiled()
    for plan in ("H1P2R2", "E2H1"):
        asked = {"guidance_scale": guidance_scale, "seed": 1, "output_type": "latent"}
        eager = pipeline([0, 1], plan, **asked).latents
        torch.testing.assert_close(
            compiled([0, 1], plan, **asked).latents, eager, rtol=1e-4, atol=1e-4
        )
    with torch.compiler.set_stance(
        "fail_on_recompile"
    ):  # other steps, times, seeds: no new program
        compiled([1, 2], "H3P4R2", guidance_scale=guidance_scale, seed=9)


@pytest.mark.slow
@pytest.mark.skipif(not can_compile("cpu"), reason="torch.compile does not work here")
def test_both_modes_are_timed_in_turn(pipeline):
    result = bench(pipeline, ["H2", "H1P1"], 1, 3, modes=["eager", "compiled"])
    assert [(row["plan"], row["mode"]) for row in result["rows"]] == [
        ("H2", "eager"), ("H1P1", "eager"), ("H2", "compiled"), ("H1P1", "compiled"),
    ]  # fmt: skip


def test_plans_take_turns_after_a_warm_up_that_does_not_count(pipeline, monkeypatch):
    order = []
    # What each run takes: the warm-up, and then three rounds of H2 and E3.
    times = iter([900.0, 900.0, 10.0, 4.0, 20.0, 10.0, 60.0, 18.0])

    def finish(pipeline, job, contender, output_type):
        order.append(str(contender))
        first = 2 * (next(times) - 1.0)
        blocks = (first, *[0.0] * (len(contender) - 1))
        return SimpleNamespace(timing=Timing(2, blocks, decode_ms=2.0))

    monkeypatch.setattr(speed, "finish", finish)
    rows = bench(pipeline, ["H2", "E3"], 2, 3)["rows"]
    assert order == ["H2", "E3"] * 4
    assert [(row["ms_min"], row["ms_per_image"], row["ms_max"]) for row in rows] == [
        (10, 20, 60),
        (4, 10, 18),
    ]
    assert [row["ratio"] for row in rows] == [1, 0.4]  # the median of 0.4, 0.5 and 0.3
    assert [row["decode_ms_per_image"] for row in rows] == [1, 1]


def test_rivals_need_a_mode_to_be_timed_in(pipeline, monkeypatch):
    monkeypatch.setattr(type(pipeline), "compiled", lambda self: self)
    with pytest.raises(ValueError, match="rivals are timed eager"):
        bench(pipeline, ["H2"], 1, 1, modes=["compiled"], rivals=["ab2:2"])


@pytest.mark.parametrize("wrong", [".", "a-file/bench.json"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_timed(
    command_line, pipeline_folder, tmp_path, monkeypatch, wrong
):
    (tmp_path / "a-file").touch()
    monkeypatch.setattr(speed, "bench", lambda *arguments: pytest.fail("it was timed"))
    refused = command_line(
        "bench", "--model", pipeline_folder, "--plans", "H2", "--json", tmp_path / wrong
    )
    assert refused.code == 2 and refused.err.count("\n") == 1
