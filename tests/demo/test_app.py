"""`python app.py` as a person starts it."""

import asyncio
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

import app
from demo.serving import cache
from flowturbo_core import usage
from tests.demo.conftest import free_port

ROOT = Path(__file__).parents[2]
ENDPOINT = "/generate_class_conditional"
QUICK = {"class_names": ["cat"], "heun": 1, "pseudo": 0, "refiner": 0}
LONG = {"class_names": ["cat"], "heun": 24, "pseudo": 24, "refiner": 8, "num_images": 8}
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if not k.startswith("GRADIO_")},
    "OMP_NUM_THREADS": "1",
}


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "app.py", *map(str, arguments)],
        cwd=ROOT,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


@contextmanager
def started(*arguments):
    """Start the program, and give its address once it says that it listens."""
    process = subprocess.Popen(
        [sys.executable, "app.py", *map(str, arguments)],
        cwd=ROOT,
        env=ENVIRONMENT | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"Running on local URL:\s+(\S+)", line):
                yield found.group(1)
                return
        pytest.fail("".join(said))
    finally:
        process.terminate()
        process.communicate(timeout=30)


def listening_addresses(port):
    """Return the local addresses, in hexadecimal, that the port is open on."""
    addresses = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, at = local.split(":")
            if int(at, 16) == port and state == "0A":
                addresses.append(address)
    return addresses


def test_on_loopback_with_a_queue_of_the_given_size(postcards_folder):
    port = free_port()
    options = ("--model", postcards_folder, "--device", "cpu", "--dtype", "float32")
    with started("--port", port, "--queue-size", 1, *options) as address:
        assert listening_addresses(port) == ["0100007F"]  # 127.0.0.1
        client = Client(address, verbose=False)
        running = client.submit(**LONG, api_name=ENDPOINT)
        next(iter(running))
        waiting = client.submit(**LONG, api_name=ENDPOINT)
        while waiting.status().rank is None:
            assert not waiting.done()
            time.sleep(0.05)
        with pytest.raises(Exception, match="Queue is full"):
            client.predict(**QUICK, api_name=ENDPOINT)
        running.cancel()
        waiting.cancel()
        pictures, *_ = client.predict(**QUICK, api_name=ENDPOINT)
        assert len(pictures) == 1


def test_without_options_it_serves_the_bundled_models():
    with started("--port", free_port()) as address:
        client = Client(address, verbose=False)
        pictures, record = client.predict(**QUICK, api_name=ENDPOINT)
        assert len(pictures) == 1 and record["model"] == "postcards-sit"
        asked = {"prompt": "a red sailboat at sunset", "api_name": "/generate_text_to_image"}
        pictures, record = client.predict(**asked)
        assert record["model"] == "postcards-t2i" and record["prompts"] == [asked["prompt"]]
        assert len(pictures) == record["num_images"]


def test_a_busy_port_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for ended in (run("--port", port), run(GRADIO_SERVER_PORT=str(port))):
            assert ended.returncode == 2
            expected = f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n"
            assert ended.stderr == expected and ended.stdout == ""


def test_a_wrong_device_is_told_before_any_address_is():
    ended = run("--port", free_port(), "--device", "tpu")
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("error: device 'tpu' is not on this machine; it has cpu")
    assert ended.stderr.count("\n") == 1


def call(name, arguments, address):
    """Call an MCP tool as a program that speaks the protocol does; return what it gives."""

    async def converse():
        async with (
            streamablehttp_client(f"{address}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            return tools, await session.call_tool(name, arguments)

    return asyncio.run(converse())


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_the_api_is_served_as_mcp_tools_at_an_address_of_ipv6_too(postcards_folder):
    options = ("--model", postcards_folder, "--device", "cpu", "--dtype", "float32")
    host, port = ("::1" if has_ipv6() else "127.0.0.1"), free_port()
    at = ("--host", host, "--port", port, "--allowed-hosts", "example.org")
    with started(*at, "--mcp", *options) as address:
        assert address == f"http://[::1]:{port}" or host != "::1"
        for name, status in (("example.org", 200), ("example.net", 421)):
            assert httpx.get(f"{address}/health", headers={"host": name}).status_code in (
                (status, 503) if status == 200 else (status,)
            )
        name = "generate_class_conditional"
        arguments = QUICK | {"guidance_scale": 1, "num_images": 1, "seed": 3, "randomise": False}
        tools, answer = call(name, arguments, address)
        schemas = {tool.name: json.dumps(tool.inputSchema) for tool in tools}
        texts = {"generate_text_to_image", "compare_plans_of_text"}
        pictures = {"edit_image", "inpaint_image"}
        pictures |= {f"{tool}_of_class" for tool in pictures}
        assert schemas.keys() == {name, "compare_plans"} | texts | pictures
        assert "a whole number from 0 to 24" in schemas[name]
        assert not answer.isError
        said = json.dumps([part.model_dump(mode="json") for part in answer.content])
        assert "H1" in said and "seed3.png" in said
        _, refused = call(name, arguments | {"heun": 99}, address)
        assert refused.isError
        assert "99 is greater than the maximum of 24" in refused.content[0].text  # by its schema


def test_mcp_without_its_package_is_one_sentence(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "mcp" else find(n, *a)
    )
    said = refusal(monkeypatch, capsys, "--mcp")
    assert said == "error: --mcp: pip install -r requirements-mcp.txt -c constraints.txt\n"


def refusal(monkeypatch, capsys, arguments):
    """Return what the program says of a mistake, in one line, before it ends with code 2."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(cache.folder().parent))  # the program sets it
    port = "" if "--port" in arguments else f"--port {free_port()}"
    monkeypatch.setattr(sys, "argv", ["app.py", *arguments.split(), *port.split()])
    with pytest.raises(SystemExit) as ended:
        usage.run(app.main)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--model no-such --device cpu", "there is no model 'no-such'"),
        ("--port 70000", "port must be a whole number from 1 to 65535, not 70000"),
        ("--port -1", "port must be a whole number from 1 to 65535, not -1"),
        ("--port http", "port must be a whole number from 1 to 65535, not 'http'"),
        ("--queue-size 0", "queue size must be a whole number from 1 to 1000, not 0"),
        ("--queue-size 2.5", "queue size must be a whole number from 1 to 1000, not 2.5"),
        ("--host *", "--host must be a name or an address alone, such as localhost, 0.0.0.0"),
        ("--host localhost:80", "address alone, such as localhost, 0.0.0.0 or ::1, not 'localhost"),
        ("--host http://localhost", "--host must be a name or an address alone"),
        ("--host [::1]:80", "--host must be a name or an address alone"),
        ("--host 256.0.0.1", "cannot listen on 256.0.0.1:"),
        ("--host 2001:db8::1", "cannot listen on [2001:db8::1]:"),
        ("--host [2001:db8::1]", "cannot listen on [2001:db8::1]:"),
        ("--host no-such-host.invalid", "cannot listen on no-such-host.invalid:"),
        ("--allowed-hosts http://a", "allowed hosts must be names such as example.org"),
        ("--device tpu", "device 'tpu' is not on this machine; it has cpu"),
        ("--device cpu --dtype int4", "dtype 'int4' is not known; it can be float32"),
        ("--colour red", "No such option: --colour"),
    ],
)
def test_a_mistake_is_one_sentence(monkeypatch, capsys, arguments, sentence):
    assert sentence in refusal(monkeypatch, capsys, arguments)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::", "::1"])
def test_every_address_of_this_machine_can_be_listened_on(host):
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    app.check_address(host, free_port())


def test_a_port_that_is_taken_on_this_machine_alone_is_told(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(monkeypatch, capsys, f"--host localhost --port {port}")
    assert f":{port}: Address already in use" in said


def test_a_temporary_folder_that_cannot_be_written_is_told_with_what_to_do(
    monkeypatch, capsys, tmp_path
):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
        said = refusal(monkeypatch, capsys, "")
        assert f"cannot keep pictures in {folder}" in said
        assert "set GRADIO_TEMP_DIR to a folder that can be written" in said
