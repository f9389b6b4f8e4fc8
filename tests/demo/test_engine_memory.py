"""Memory that runs out: one sentence, and the program goes on."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# A model of texts in a program that may hold 60 MiB more than it does once it is loaded.
PROGRAM = """
    import sys
    from demo.service.engine import Engine
    from flowturbo_core import memory
    from flowturbo_core.models.catalog import ModelDescription

    engine = Engine.load(ModelDescription.read(sys.argv[1]), "cpu", "float32")
    held = int(open("/proc/self/status").read().partition("VmData:")[2].split()[0]) * 1024
    memory.installed_memory = lambda: held + 60 * 2**20
    memory.fail_beyond_memory()
    for side in (1024, 64):  # a layer of the decoder takes 64 MiB, and 1/4
        request = engine.pipeline.request(
            "a boat", plan="E1", guidance_scale=1, num_images=8, height=side, width=side
        )
        try:
            *_, event = engine.generate(request)
            print(type(event).__name__)
        except ValueError as error:
            print(error)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what is held")
def test_what_does_not_fit_is_a_sentence_and_the_next_request_is_served(text_service):
    folder = text_service.model.folder
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines() == [
        "8 images at once do not fit into the memory of cpu: ask for fewer, or smaller ones",
        "Done",
    ], done.stderr
