"""Start the page: `python app.py`, then open http://127.0.0.1:7860."""

import argparse
import os
import socket
import sys
from typing import NoReturn


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail(message)  # without the usage, which argparse would print above it


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; a mistake ends the program with one sentence and exit code 2."""
    parser = _Parser(description="FlowTurbo in the browser.")
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")
    parser.add_argument("--host", help="address to listen on; default: 127.0.0.1, this machine")
    parser.add_argument("--port", type=_whole(1, 65535), default=port, help="default: %(default)s")
    parser.add_argument("--share", action="store_true", help="also open a public gradio.live link")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: the best there is")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16; default: the best there is")
    parser.add_argument("--model", help="name of a bundled model, or a model folder")
    parser.add_argument("--queue-size", type=_whole(1, 1000), default=20, help="requests that wait")
    return parser.parse_args(arguments)


def _whole(low: int, high: int):
    def convert(text: str) -> int:
        if not (text.isdecimal() and low <= int(text[:9]) <= high):
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {low} to {high}, not {text!r}"
            )
        return int(text)

    return convert


def main() -> None:
    """Build the page and serve it until interrupted."""
    options = parse_arguments()
    host = options.host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    try:
        socket.create_server((host, options.port)).close()
        from demo import ui  # only now: torch takes seconds to import
        from demo.service import Service

        page = ui.build(Service.load(options.model, options.device, options.dtype))
        page.queue(max_size=options.queue_size).launch(
            server_name=options.host, server_port=options.port, share=options.share, **ui.LAUNCH
        )
    except OSError as error:
        _fail(f"cannot listen on {host}:{options.port}: {error.strerror or error}")
    except ValueError as error:
        _fail(str(error))


if __name__ == "__main__":
    main()
