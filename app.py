"""Start the page: `python app.py`, then open http://127.0.0.1:7860."""

import importlib.util
import ipaddress
import os
import re
import socket
import tempfile
import time
from typing import Annotated

from typer import Option

from demo.serving import cache
from demo.serving.cache import Keeping
from demo.serving.lifecycle import close, leaving
from flowturbo_core.checks import brief, whole_number
from flowturbo_core.usage import number, run

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(
    host: Annotated[
        str | None,
        Option(envvar="GRADIO_SERVER_NAME", help="Address or name; default: this machine only."),
    ] = None,
    port: Annotated[int, Option(envvar="GRADIO_SERVER_PORT", parser=number)] = 7860,
    allowed_hosts: Annotated[
        str | None,
        Option(
            envvar="FLOWTURBO_ALLOWED_HOSTS",
            help="Names to answer to besides its own, such as example.org,*.example.net; or *.",
        ),
    ] = None,
    share: Annotated[bool, Option("--share", help="Also open a public gradio.live link.")] = False,
    mcp: Annotated[bool, Option("--mcp", help="Also serve the API as MCP tools.")] = False,
    device: Annotated[str | None, Option(help="cpu, cuda, cuda:1, ...; default: the best.")] = None,
    dtype: Annotated[str | None, Option(help="float32, bfloat16, float16; default: best.")] = None,
    model: Annotated[str | None, Option(help="A bundled model's name, or a model folder.")] = None,
    queue_size: Annotated[int, Option(parser=number, help="Requests that may wait.")] = 20,
    downloads: Annotated[
        bool | None,
        Option(help="Let visitors fetch models from a hub; default: on this machine only."),
    ] = None,
    keep_hours: Annotated[int, Option(parser=number, help="Hours to keep pictures.")] = 24,
    keep_mb: Annotated[
        int,
        Option(parser=number, help="Megabytes of pictures to keep; the oldest are removed first."),
    ] = 1000,
) -> None:
    """Build the page and serve it until Ctrl+C, which ends it with 130, or SIGTERM, with 0."""
    port = whole_number("port", port, 1, 65535)
    queue_size = whole_number("queue size", queue_size, 1, 1000)
    keeping = Keeping(keep_hours, keep_mb)
    if mcp and importlib.util.find_spec("mcp") is None:
        raise ValueError("--mcp: pip install -r requirements-mcp.txt -c constraints.txt")
    listens_on = (host or LOOPBACK[0]).strip("[]")
    check_address(listens_on, port)
    from demo.serving.gate import hosts  # only now: what it imports takes half a second

    answers_to = hosts(listens_on, allowed_hosts, os.environ)
    cache.claim()
    check_cache()
    check_model(model, device, dtype)
    if downloads is None:
        downloads = not share and listens_on in LOOPBACK
    # Gradio looks for a free port at what this names, and at no address of IPv6.
    os.environ["GRADIO_SERVER_NAME"] = LOOPBACK[0]

    page, services = None, ()
    try:
        from demo.service.studio import load_services  # only now: what they import takes seconds
        from demo.ui import build, launch_options

        services = load_services(model, device, dtype, downloads)
        page = build(*services).queue(max_size=queue_size)
        page.launch(
            server_name=f"[{listens_on}]" if ":" in listens_on else listens_on,
            server_port=port,
            share=share,
            mcp_server=mcp,
            prevent_thread_lock=True,
            **launch_options(*services, keeping=keeping, answers_to=answers_to),
        )
        if page.share_url is not None:
            answers_to.allow_address(page.share_url)
        for service in services:
            if service.download is None:
                service.wait()  # a model that cannot be loaded ends the program
        while True:
            time.sleep(1)
    finally:
        close(page, services)


def check_address(host: str, port: int) -> None:
    """Refuse what cannot be listened on: no address, one of elsewhere, or a port that is taken."""
    if not (_is_address(host) or re.fullmatch(r"[\w-]+(\.[\w-]+)*", host)):
        raise ValueError(
            f"--host must be a name or an address alone, such as localhost, 0.0.0.0 or ::1, not "
            f"{brief(host)}"
        )
    # Gradio takes no port that is taken on this machine alone, whatever else it is to listen on.
    for name in dict.fromkeys((host, LOOPBACK[0])):
        try:
            family, *_, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0]
            socket.create_server(address, family=family).close()
        except OSError as error:
            where = f"[{name}]" if ":" in name else name
            reason = str(error.strerror).partition(" (")[0]
            raise ValueError(f"cannot listen on {where}:{port}: {reason}") from error


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def check_cache() -> None:
    """Refuse a folder for pictures that cannot be written, as another person's /tmp/gradio."""
    folder = cache.folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"cannot keep pictures in {error.filename or folder}: {error.strerror}; set "
            "GRADIO_TEMP_DIR to a folder that can be written"
        ) from error


def check_model(model: str | None, device: str | None, dtype: str | None) -> None:
    """Refuse a model, a device or a number format that is not there, before anything is served."""
    if model is not None:
        from flowturbo_core.models.catalog import ModelDescription

        ModelDescription.read(model)
    if device is not None or dtype is not None:
        from flowturbo_core.devices import resolve_device, resolve_dtype  # torch takes seconds

        resolve_dtype(dtype, resolve_device(device))


if __name__ == "__main__":
    with leaving():
        run(main)
