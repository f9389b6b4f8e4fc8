"""Fifty clients at once, a thousand requests: is the server as it was, and does it end well?

`make soak` runs this: it starts `app.py` itself, talks to it over loopback, and writes what it
measured. It ends with 1, and says why, where memory or folder grow, a picture is not the one that
was asked for, or the server does not end as it should.
"""

import itertools
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from threading import Semaphore
from typing import Annotated, Any

import httpx
import numpy as np
from PIL import Image
from typer import Option

from demo.serving.lifecycle import EXIT_CODES
from flowturbo_core.devices import VERSIONS, describe_device, resolve_device
from flowturbo_core.metadata import read_png
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.usage import run

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "assets" / "benchmarks" / "soak.json"
ENDPOINT = "generate_class_conditional"

KEEP_MB = 10
_FOLDER_MB = 2 * KEEP_MB  # as much of what is shown now stays as well, beside what is kept
_SWEPT_WITHIN_S = 60
_MB_A_REQUEST = 0.05  # a session that is kept takes 0.9
_WARM = 0.2  # of the requests, until memory is what it will be
_MAX_OPEN_FILES = 400
_RMS_LEVELS = 2.0  # another seed's picture is some 60 away
_COMPARED_EVERY = 25
_SAMPLES = 20
_PATIENCE_S = 120


class Unsound(Exception):
    """What the server must not do, in one sentence."""


@dataclass(frozen=True)
class Server:
    """The program, started.

    Args:
        process: it.
        address: what it says it listens on.
        folder: where its pictures go.
    """

    process: subprocess.Popen
    address: str
    folder: Path

    def measure(self, request: int) -> dict[str, float]:
        """Return what it holds after so many requests; sizes in 10^6 bytes."""
        proc = Path("/proc") / str(self.process.pid)
        status = dict(
            line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
        )
        sizes = [size for file in self.folder.rglob("*") if (size := _size(file)) is not None]
        return {
            "request": request,
            "memory_mb": int(status["VmRSS"].split()[0]) * 1024 / 1e6,
            "threads": int(status["Threads"]),
            "open_files": len(list((proc / "fd").iterdir())),
            "files": len(sizes),
            "folder_mb": sum(sizes) / 1e6,
        }


@dataclass(frozen=True)
class Answer:
    """What a request came to: its seed, its picture, and how often it was told to come again."""

    seed: int
    png: bytes
    num_busy: int


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size if file.is_file() else None
    except FileNotFoundError:  # swept meanwhile
        return None


@contextmanager
def started() -> Iterator[Server]:
    """Start the program with a folder of its own, wait until its models are there, and end it."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port), "--keep-mb", str(KEEP_MB)],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "GRADIO_TEMP_DIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield Server(process, _listening(process), Path(folder))
        finally:
            process.kill()
            process.communicate()


def _listening(process: subprocess.Popen) -> str:
    said = []
    for line in process.stdout:
        said.append(line)
        if found := re.search(r"Running on local URL:\s+(\S+)", line):
            address = found.group(1)
            break
    else:
        raise Unsound(f"the server did not start: {' '.join(said)}")
    until = time.monotonic() + _PATIENCE_S
    while httpx.get(f"{address}/health", timeout=_PATIENCE_S).status_code != 200:
        if time.monotonic() > until:
            raise Unsound(f"the models were not loaded within {_PATIENCE_S} seconds")
        time.sleep(0.2)
    return address


def values(seed: int, plan: tuple[int, int, int] = (1, 0, 0), images: int = 1) -> list[Any]:
    """Return the endpoint's arguments: by default, one picture in one step, without guidance."""
    return [["cat"] * images, *plan, 1, images, seed, False]


def call(client: httpx.Client, data: list[Any], begun: Semaphore | None = None) -> Any:
    """Ask as a program does; return what it is told at the end, or None where it is busy."""
    path = f"gradio_api/call/{ENDPOINT}"
    answer = client.post(path, json={"data": data})
    if answer.status_code == 503:
        return None
    event = answer.raise_for_status().json()["event_id"]
    with client.stream("GET", f"{path}/{event}") as stream:
        if begun is not None:
            begun.release()
        *_, kind, told = [line for line in stream.iter_lines() if line]
    return kind.removeprefix("event: "), json.loads(told.removeprefix("data: "))


def visit(client: httpx.Client, fn_index: int, session: str, data: list[Any]) -> Any:
    """Ask as a page does, in a session of its own; return the same."""
    asked = {"data": data, "fn_index": fn_index, "session_hash": session}
    answer = client.post("gradio_api/queue/join", json=asked)
    if answer.status_code == 503:
        return None
    answer.raise_for_status()
    with client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in filter(None, stream.iter_lines()):
            message = json.loads(line.removeprefix("data: "))
            if message["msg"] == "process_completed":
                output = message["output"]
                return ("complete", output["data"]) if message["success"] else ("error", output)
    raise Unsound(f"session {session} was told of no end")


def ask(client: httpx.Client, fn_index: int, seed: int) -> Answer:
    """Ask for the picture of `seed` until it is there, every other time as a page does."""
    for num_busy in itertools.count():
        is_page = seed % 2
        told = (
            visit(client, fn_index, f"soak{seed}x{num_busy}", values(seed))
            if is_page
            else call(client, values(seed))
        )
        if told is not None:
            break
        time.sleep(0.5)
    kind, data = told
    if kind != "complete":
        raise Unsound(f"the request of seed {seed} was answered by {data}")
    file = data[0][0]["image"]["path"]
    png = client.get(f"gradio_api/file={file}").raise_for_status().content
    found = read_png(BytesIO(png)).values
    if (found["seed"], found["class_names"]) != (seed, ["cat"]):
        raise Unsound(f"whoever asked for seed {seed} got the picture of seed {found['seed']}")
    return Answer(seed, png, num_busy)


def compare(answers: list[Answer]) -> float:
    """Return how far, at most, pictures are from those the library makes, in levels of 255."""
    pipeline = ClassConditionalPipeline.from_pretrained("postcards-sit")
    return max(
        rms(
            Image.open(BytesIO(its.png)),
            pipeline(["cat"], plan="H1", guidance_scale=1, seed=its.seed).images[0],
        )
        for its in answers
    )


def rms(first: Image.Image, second: Image.Image) -> float:
    """Return the root mean square difference of two pictures, in levels of 255."""
    apart = np.asarray(first.convert("RGB"), float) - np.asarray(second.convert("RGB"), float)
    return float(np.sqrt((apart**2).mean()))


def growth(samples: list[dict[str, float]]) -> float:
    """Return the slope of memory over requests, once warm, in 10^6 bytes a request."""
    warm = [its for its in samples if its["request"] >= _WARM * samples[-1]["request"]]
    requests, memory = ([its[name] for its in warm] for name in ("request", "memory_mb"))
    return statistics.linear_regression(requests, memory).slope


def soak(num_requests: int, num_clients: int) -> dict[str, Any]:
    """Let so many clients ask at once, so often together; return what was measured."""
    samples, answers = [], []
    every = max(1, num_requests // _SAMPLES)
    with started() as server, _client(server) as client:
        dependencies = client.get("config").raise_for_status().json()["dependencies"]
        fn_index = next(its["id"] for its in dependencies if its["api_name"] == ENDPOINT)
        samples.append(server.measure(0))
        began = time.monotonic()
        with ThreadPoolExecutor(num_clients) as pool:
            asked = [pool.submit(ask, client, fn_index, seed) for seed in range(num_requests)]
            for k, answer in enumerate(as_completed(asked), 1):
                answers.append(answer.result())
                if k % every == 0:
                    samples.append(server.measure(k))
        seconds = time.monotonic() - began
        samples.append(swept(server, num_requests))
    compared = answers[::_COMPARED_EVERY]
    return {
        "requests": num_requests,
        "clients": num_clients,
        "seconds": seconds,
        "told_to_come_again": sum(its.num_busy for its in answers),
        "compared": len(compared),
        "rms_levels": compare(compared),
        "mb_a_request": growth(samples),
        "samples": samples,
    }


def swept(server: Server, request: int) -> dict[str, float]:
    """Return what it holds once its folder is swept, or was not within a minute."""
    until = time.monotonic() + _SWEPT_WITHIN_S
    while (sample := server.measure(request))["folder_mb"] > _FOLDER_MB:
        if time.monotonic() > until:
            break
        time.sleep(1)
    return sample


def judge(measured: dict[str, Any]) -> Iterator[str]:
    """Yield, in a sentence each, what is wrong with what was measured."""
    samples = measured["samples"]
    if measured["mb_a_request"] > _MB_A_REQUEST:
        yield (
            f"memory grows by {measured['mb_a_request']:.2f} MB a request, from "
            f"{samples[0]['memory_mb']:.0f} to {samples[-1]['memory_mb']:.0f} MB"
        )
    left = samples[-1]["folder_mb"]
    if left > _FOLDER_MB:
        yield f"the folder of pictures holds {left:.0f} MB, where {KEEP_MB} are kept"
    most = max(its["open_files"] for its in samples)
    if most > _MAX_OPEN_FILES:
        yield f"{most:.0f} files were open at once"
    if measured["rms_levels"] > _RMS_LEVELS:
        yield f"a picture is {measured['rms_levels']:.1f} levels from what the library makes"


@dataclass(frozen=True)
class End:
    """How the program ended under load, by a signal."""

    signal: str
    code: int
    seconds: float
    told: int  # how many clients read that it ends
    said: str


def end(number: signal.Signals, num_clients: int) -> End:
    """Ask for much, send the signal once all are waiting, and see how the program ends."""
    begun, long = Semaphore(0), values(0, (24, 24, 8), 8)
    with started() as server, _client(server) as client, ThreadPoolExecutor(num_clients) as pool:
        asked = [pool.submit(call, client, long, begun) for _ in range(num_clients)]
        if not all(begun.acquire(timeout=_PATIENCE_S) for _ in asked):
            raise Unsound(f"{num_clients} clients were not let in within {_PATIENCE_S} seconds")
        began = time.monotonic()
        server.process.send_signal(number)
        said, _ = server.process.communicate(timeout=_PATIENCE_S)
        seconds = time.monotonic() - began
        told = sum("is being stopped" in str(its.result()) for its in asked)
    return End(number.name, server.process.returncode, seconds, told, said)


def judge_end(ended: End, num_clients: int) -> Iterator[str]:
    """Yield, in a sentence each, what is wrong with how the program ended."""
    code = EXIT_CODES[signal.Signals[ended.signal]]
    if ended.code != code:
        yield f"{ended.signal} ended the program with {ended.code}, not {code}: {ended.said}"
    if "Traceback" in ended.said or "terminate" in ended.said:
        yield f"{ended.signal} ended the program with: {ended.said}"
    if ended.told < num_clients:
        yield f"at {ended.signal}, {ended.told} of {num_clients} clients were told"


def _client(server: Server) -> httpx.Client:
    return httpx.Client(
        base_url=server.address,
        timeout=_PATIENCE_S,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
    )


def main(
    requests: Annotated[int, Option(min=2, max=10_000, help="How many in all.")] = 1000,
    clients: Annotated[int, Option(min=1, max=100, help="How many at once.")] = 50,
    json_file: Annotated[Path, Option("--json", help="Where to write the figures.")] = RESULT,
) -> int:
    """Ask a server of one's own for much, and write how it fared."""
    num_waiting = min(20, clients)
    try:
        measured = soak(requests, clients)
        ends = [end(number, num_waiting) for number in EXIT_CODES]
    except (Unsound, httpx.HTTPError, subprocess.TimeoutExpired) as error:
        print(f"unsound: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    faults = [*judge(measured), *itertools.chain(*(judge_end(its, num_waiting) for its in ends))]
    record = {
        "machine": describe_device(resolve_device(None)),
        "versions": VERSIONS | {"gradio": version("gradio")},
        **measured,
        "ends": [{k: v for k, v in asdict(its).items() if k != "said"} for its in ends],
        "faults": faults,
    }
    json_file.write_text(json.dumps(_rounded(record), indent=2) + "\n")
    for fault in faults:
        print(f"unsound: {fault}", file=sys.stderr)
    first, last = measured["samples"][0], measured["samples"][-1]
    print(
        f"{requests} requests of {clients} clients in {measured['seconds']:.0f} s: memory "
        f"{first['memory_mb']:.0f} to {last['memory_mb']:.0f} MB, folder {last['folder_mb']:.0f} MB"
    )
    return int(bool(faults))


def _rounded(value: Any) -> Any:
    """Return it with numbers of four digits after the point."""
    if isinstance(value, dict):
        return {name: _rounded(its) for name, its in value.items()}
    if isinstance(value, list):
        return [_rounded(its) for its in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    run(main)
