"""Start the page: `python app.py`, then open http://127.0.0.1:7860."""

import importlib.util
import socket
import sys
import time
from typing import Annotated

from typer import Option

from demo import cache
from demo.cache import Keeping
from demo.lifecycle import Interrupted, close, leaving, watch_signals
from flowturbo_core.requests import whole_number
from flowturbo_core.usage import number, run


def main(
    host: Annotated[
        str | None, Option(envvar="GRADIO_SERVER_NAME", help="Address; default: this machine only.")
    ] = None,
    port: Annotated[int, Option(envvar="GRADIO_SERVER_PORT", parser=number)] = 7860,
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
    keep_hours: Annotated[
        int, Option(parser=number, help="How long pictures stay to be had.")
    ] = 24,
    keep_mb: Annotated[
        int, Option(parser=number, help="At most, of pictures; then the oldest go.")
    ] = 1000,
) -> int:
    """Build the page and serve it until Ctrl+C, which ends it with 130, or SIGTERM, with 0."""
    port = whole_number("port", port, 1, 65535)
    queue_size = whole_number("queue size", queue_size, 1, 1000)
    keeping = Keeping(keep_hours, keep_mb)
    cache.claim()
    if mcp and importlib.util.find_spec("mcp") is None:
        raise ValueError("--mcp: pip install -r requirements-mcp.txt -c constraints.txt")
    try:
        socket.create_server((host or "127.0.0.1", port)).close()
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise ValueError(f"cannot listen on {host or '127.0.0.1'}:{port}: {reason}") from error

    page, services = None, ()
    try:
        watch_signals()
        from demo.studio import load_services  # only now: what they import takes a second
        from demo.ui import build, launch_options

        if downloads is None:
            downloads = not share and host in (None, "127.0.0.1", "localhost", "::1")
        classes, texts = load_services(model, device, dtype, downloads)
        services = (classes, *texts)
        page = build(classes, *texts).queue(max_size=queue_size)
        page.launch(
            server_name=host,
            server_port=port,
            share=share,
            mcp_server=mcp,
            prevent_thread_lock=True,
            **launch_options(classes, *texts, keeping=keeping),
        )
        for service in services:
            if service.download is None:
                service.wait()  # a model that cannot be loaded ends the program
        while True:
            time.sleep(1)
    except Interrupted as end:
        print("stopping; a second time ends at once", file=sys.stderr)
        return end.code
    finally:
        close(page, services)


if __name__ == "__main__":
    with leaving():
        run(main)
