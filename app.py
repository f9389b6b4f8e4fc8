"""Start the page: `python app.py`, then open http://127.0.0.1:7860."""

import argparse
import os
import socket
import sys
from collections.abc import Callable
from typing import NoReturn


def fail(message: str) -> NoReturn:
    """End the program with one sentence and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a type of argument: a whole number from `low` to `high`."""

    def convert(text: str) -> int:
        if text.isdecimal() and len(text) < 10 and low <= int(text) <= high:
            return int(text)
        raise argparse.ArgumentTypeError(f"must be whole, from {low} to {high}, not {text!r}")

    return convert


def main() -> None:
    """Build the page and serve it until interrupted."""
    parser = argparse.ArgumentParser(description="FlowTurbo in the browser.")
    parser.error = fail  # argparse's own prints the usage too
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")
    parser.add_argument("--host", help="address to listen on; default: 127.0.0.1, this machine")
    parser.add_argument("--port", type=whole(1, 65535), default=port, help="default: %(default)s")
    parser.add_argument("--share", action="store_true", help="also open a public gradio.live link")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: the best there is")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16; default: the best there is")
    parser.add_argument("--model", help="name of a bundled model, or a model folder")
    parser.add_argument("--queue-size", type=whole(1, 1000), default=20, help="requests that wait")
    options = parser.parse_args()
    host = options.host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    try:
        socket.create_server((host, options.port)).close()
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        fail(f"cannot listen on {host}:{options.port}: {reason}")
    try:
        from demo import service, ui  # only now: torch takes seconds to import

        page = ui.build(service.Service.load(options.model, options.device, options.dtype))
        page.queue(max_size=options.queue_size).launch(
            server_name=options.host, server_port=options.port, share=options.share, **ui.LAUNCH
        )
    except (OSError, ValueError) as error:
        fail(str(error))


if __name__ == "__main__":
    main()
