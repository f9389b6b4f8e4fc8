"""Memory that runs out on the command line, and how much there is."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from flowturbo_core import memory
from flowturbo_core.memory import in_memory
from tests.conftest import tiny_pipeline

# The command line in a program that may hold 200 MiB more than it does before it begins.
PROGRAM = """
    from flowturbo_core import cli, memory

    held = int(open("/proc/self/status").read().partition("VmData:")[2].split()[0]) * 1024
    memory.installed_memory = lambda: held + 200 * 2**20
    cli.main()
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what is held")
def test_pictures_that_do_not_fit_are_refused_in_a_sentence(tmp_path):
    tiny_pipeline(sample_size=256).save_pretrained(tmp_path / "large")
    asked = ("sample", "--model", tmp_path / "large", "--plan", "E1", "--num-images", "8")
    where = ("--output-dir", tmp_path / "out", "--device", "cpu", "--dtype", "float32")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *map(str, (*asked, *where))],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: this does not fit into memory: ask for smaller pictures, or fewer at once"
    ]


def test_other_errors_are_not_taken_for_it():
    with pytest.raises(RuntimeError, match="shape"), in_memory("this does not fit"):
        torch.zeros(6).view(4, 4)
    with pytest.raises(ValueError, match="this does not fit"), in_memory("this does not fit"):
        raise MemoryError


def test_a_container_may_hold_less_than_its_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_LIMITS", (str(tmp_path / "none"), str(tmp_path / "max")))
    (tmp_path / "max").write_text("max\n")
    whole = memory.installed_memory()
    assert whole > 2**28
    (tmp_path / "max").write_text("123456789\n")
    assert memory.installed_memory() == 123456789
