"""What `make soak` counts as unsound, and that a short one finds nothing."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from tests import soak
from tests.demo.test_app import ENVIRONMENT, ROOT

SOUND = {"mb_a_request": 0.0, "rms_levels": 0.0}


def sample(request, memory_mb=700.0, folder_mb=1.0, open_files=50):
    return {
        "request": request,
        "memory_mb": memory_mb,
        "folder_mb": folder_mb,
        "open_files": open_files,
    }


def test_growth_is_the_slope_once_warm():
    warming = [sample(k, 500 + k) for k in range(0, 200, 50)]
    assert soak.growth([*warming, *(sample(k) for k in range(200, 1001, 50))]) == 0
    leaking = [sample(k, 700 + 0.9 * k) for k in range(200, 1001, 50)]
    assert soak.growth([*warming, *leaking]) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("changes", "last", "sentence"),
    [
        ({"mb_a_request": 0.9}, {"memory_mb": 1446}, "memory grows by 0.90 MB a request, from 700"),
        ({}, {"folder_mb": 188}, "the folder of pictures holds 188 MB, where 10 are kept"),
        ({}, {"open_files": 1000}, "1000 files were open at once"),
        ({"rms_levels": 60.0}, {}, "a picture is 60.0 levels from what the library makes"),
    ],
)
def test_what_is_unsound_is_a_sentence(changes, last, sentence):
    samples = [sample(0), sample(1000, **last)]
    (fault,) = soak.judge(SOUND | changes | {"samples": samples})
    assert fault.startswith(sentence)


def test_what_is_flat_is_sound():
    assert not list(soak.judge(SOUND | {"samples": [sample(0), sample(1000)]}))


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (("SIGINT", -6, 1.0, 20, "x"), "SIGINT ended the program with -6, not 130: x"),
        (("SIGTERM", 143, 1.0, 20, "x"), "SIGTERM ended the program with 143, not 0: x"),
        (("SIGTERM", 0, 1.0, 20, "terminate called"), "SIGTERM ended the program with: terminate"),
        (("SIGINT", 130, 1.0, 19, ""), "at SIGINT, 19 of 20 clients were told"),
    ],
)
def test_a_bad_end_is_a_sentence(end, sentence):
    (fault,) = soak.judge_end(soak.End(*end), 20)
    assert fault.startswith(sentence)
    assert not list(soak.judge_end(soak.End("SIGINT", 130, 1.0, 20, ""), 20))


def test_pictures_are_compared_in_levels():
    dark, light = (Image.new("RGB", (4, 4), (level,) * 3) for level in (10, 13))
    assert soak.rms(dark, dark) == 0 and soak.rms(dark, light) == pytest.approx(3)


@pytest.mark.slow
def test_a_short_soak_is_sound(tmp_path):
    file = tmp_path / "soak.json"
    arguments = ["--requests", "30", "--clients", "25", "--json", file]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.soak", *map(str, arguments)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    record = json.loads(file.read_text()) if file.exists() else ended.stderr
    # So few requests do not tell what memory comes to.
    faults = [fault for fault in record["faults"] if not fault.startswith("memory grows")]
    assert faults == [] and record["requests"] == 30 and record["compared"] == 2
    assert [end["code"] for end in record["ends"]] == [130, 0]
