"""`bench`: plans timed in turn, and compared with the first."""

import json

import pytest
import torch

from flowturbo_core.evaluation.speed import bench, random_pipeline


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
    ],
)
def test_wrong_benchmarks_are_refused(pipeline, changes, named):
    with pytest.raises(ValueError, match=named):
        bench(pipeline, **{"plans": ["H2"], "batch_size": 1, "repeats": 1} | changes)


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="sit-xxl-2.*sit-xl-2"):
        random_pipeline("sit-xxl-2", torch.device("cpu"), torch.float32)
