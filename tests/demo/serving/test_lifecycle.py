"""How the program ends: what runs and what waits is told, and the process ends as it was asked."""

import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore

import httpx
import pytest

from tests.demo.conftest import free_port
from tests.demo.test_app import ENVIRONMENT, ROOT

CALL = "gradio_api/call/generate_class_conditional"
REFUSAL = "the server is being stopped, and computes nothing more"
ASKED = {"class_names": ["cat"], "plan": "H1P7"}
LONG = (["cat"] * 8, 24, 24, 8, 1.5, 8, 0, False)


def test_what_runs_what_waits_and_what_comes_later_is_refused(scripted, scripted_service):
    scripted.gate.clear()
    with ThreadPoolExecutor() as pool:
        running, waiting = (
            pool.submit(list, scripted_service.run(scripted_service.request(ASKED))) for _ in "ab"
        )
        while not scripted_service._accelerator._running:
            time.sleep(0.01)
        scripted_service.close()
        for refused in (running, waiting):  # at once, though a block is still under way
            with pytest.raises(ValueError, match=REFUSAL):
                refused.result(10)
        scripted.gate.set()
    with pytest.raises(ValueError, match=REFUSAL):
        list(scripted_service.run(scripted_service.request(ASKED)))
    assert len(scripted.blocks) <= 1
    loading = scripted_service._accelerator.submit(lambda: 1)
    assert str(loading.exception(10)) == REFUSAL
    scripted_service.close()  # again


SLEEPER = """
import sys, time
from demo.serving.lifecycle import leaving
with leaving():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("ending", flush=True)
        if sys.argv[1:]:
            time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
@pytest.mark.parametrize("is_stuck", [False, True])
def test_signals_end_the_program_and_a_second_one_ends_it_at_once(number, code, is_stuck):
    program = [sys.executable, "-c", SLEEPER, *["stuck"] * is_stuck]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "ending\n"
        if is_stuck:
            process.send_signal(number)
        assert process.wait(20) == (128 + number if is_stuck else code)


def start(*arguments):
    process = subprocess.Popen(
        [sys.executable, "app.py", *map(str, arguments)],
        cwd=ROOT,
        env=ENVIRONMENT | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if found := re.search(r"Running on local URL:\s+(\S+)", line):
            return process, f"{found.group(1)}/"
    raise AssertionError(process.communicate()[1])


def ask(address, begun):
    """Ask for something long; return the last line of what the server says, and tell `begun`."""
    call = httpx.post(f"{address}{CALL}", json={"data": LONG}, timeout=60)
    with httpx.stream("GET", f"{address}{CALL}/{call.json()['event_id']}", timeout=60) as stream:
        begun.release()
        *_, last = [line for line in stream.iter_lines() if line]
    return last


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_twenty_clients_are_told_and_the_process_ends_without_a_word_more(
    postcards_folder, number, code
):
    process, address = start("--port", free_port(), "--model", postcards_folder, "--device", "cpu")
    with process, ThreadPoolExecutor(20) as pool:
        while httpx.get(f"{address}health", timeout=60).status_code != 200:
            time.sleep(0.1)
        begun = Semaphore(0)
        answers = [pool.submit(ask, address, begun) for _ in range(20)]
        assert all(begun.acquire(timeout=60) for _ in answers)
        process.send_signal(number)
        assert all(REFUSAL[1:] in answer.result(60) for answer in answers)
        said, complaints = process.communicate(timeout=60)
    assert process.returncode == code
    assert complaints == "stopping; a second time ends at once\n"
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_as_quietly_while_models_are_loaded(number):
    process, _ = start("--port", free_port())
    with process:
        process.send_signal(number)
        _, complaints = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 0}[number]
    assert complaints == "stopping; a second time ends at once\n"


@pytest.mark.slow
def test_a_truncated_model_is_one_sentence_while_the_other_one_loads(tmp_path, postcards_folder):
    shutil.copytree(postcards_folder, tmp_path / "model")
    (weights,) = (tmp_path / "model/predictor").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    ended = subprocess.run(
        [sys.executable, "app.py", "--port", str(free_port()), "--model", tmp_path / "model"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1
    assert "is truncated or damaged" in ended.stderr
