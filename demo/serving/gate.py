"""What every request passes: the names that the server answers to, and what answers when it breaks.

An ASGI middleware, beneath Gradio's own for cross-origin requests, which it does not replace.
"""

import errno
import ipaddress
import logging
import re
import socket
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flowturbo_core.checks import brief

_HOST = re.compile(r"(\[[0-9a-f:.%]+\]|[^\[\]:@/\\?#\s]+)(:\d*)?", re.IGNORECASE)
_NAME = re.compile(r"\*|(\*\.)?[\w-]+(\.[\w-]+)*")
_CALL = re.compile(r"/gradio_api/(?:call/v2|call|run|api)/([^/]+)/?$")
_EVERYWHERE = ("0.0.0.0", "::")
REFUSED = "flowturbo.refused"  # in the scope of a request whose values were refused
_MAX_WORDS = 200  # characters of a library's own words in an answer

_log = logging.getLogger(__name__)


class Hosts:
    """The names that the server answers to; `*.example.org` is all below one, and `*` any.

    A page of another site can make its own name mean this machine (DNS rebinding), and would then
    read what is served here as if it were its own; but its requests carry that name. Addresses in
    figures are no names, so they are always answered.
    """

    def __init__(self, names: Iterable[str]):
        self._names = {name.lower() for name in names}

    def allow_address(self, address: str) -> None:
        """Answer to the name in an address such as https://name.gradio.live, too."""
        self._names.add(_name_in(address.partition("://")[2].partition("/")[0]) or "")

    def __contains__(self, host: str) -> bool:
        """Tell whether a Host header, or what follows `://` in an Origin, is of such a name."""
        name = _name_in(host)
        if name is None:
            return False
        above = {f"*.{name.split('.', k)[k]}" for k in range(1, name.count(".") + 1)}
        return _address(name) is not None or bool(self._names & {"*", name, *above})


def hosts(
    listens_on: str, allowed: str | None = None, environment: Mapping[str, str] | None = None
) -> Hosts:
    """Return the names of a server that `listens_on` a name or an address.

    They are localhost, what it listens on, the machine's own where that is every address, what is
    `allowed` besides (names, separated by commas), and a Space's in its `environment`. Raises
    ValueError for something else than a name.
    """
    names = ["localhost", *_split((environment or {}).get("SPACE_HOST"))]
    if listens_on in _EVERYWHERE:
        names += [socket.gethostname(), f"{socket.gethostname()}.local"]
    else:
        names.append(listens_on)
    for name in _split(allowed):
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"allowed hosts must be names such as example.org, *.example.org or *, without "
                f"scheme and port, not {brief(name)}"
            )
        names.append(name)
    return Hosts(names)


class Gate:
    """Let in what is asked of this server by its name, and answer in a sentence what breaks.

    Args:
        app: what serves the requests.
        hosts: the names that it answers to.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts):
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, as ASGI wants it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refused = self._refusal(scope)
        if refused is not None:
            await refused(scope, receive, send)
            return
        if not any(name == b"host" for name, _ in scope["headers"]):
            # Of HTTP/1.0, which no browser speaks; Gradio reads it, from this very list.
            scope["headers"].append((b"host", b"localhost"))
        headers = MutableHeaders(scope=scope)
        if "," in headers.get("range", ""):  # Gradio reads one part; all of it is an answer, too
            del headers["range"]
        await self._serve(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        for host in headers.getlist("host"):
            if host not in self._hosts:
                return _answer(
                    421,
                    f"this server does not answer to {brief(host)}: open it by its address, or "
                    "start it with --allowed-hosts and that name",
                )
        # Gradio keeps answers from other sites' pages; what is sent by a form, it would take.
        origin = headers.get("origin", "").rpartition("://")[2]
        if (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and headers.get("sec-fetch-site") == "cross-site"
            and _is_local(headers.get("host", ""))
            and not _is_local(origin)
        ):
            return _answer(403, f"pages of {brief(origin)} may not send anything to this machine")
        return None

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {}

        async def watch(message: Message) -> None:
            if message["type"].endswith(".start"):
                start.update(message)
                if message["status"] == 500 and REFUSED in scope:
                    message = {**message, "status": 400}  # Gradio tells no mistake from a fault
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except ClientDisconnect:
            return
        except Exception as error:
            _log.error("%s: %s", scope["path"][:_MAX_WORDS], in_one_line(error))
            if not start:
                status, sentence = _explain(scope, error)
                await _answer(status, sentence)(scope, receive, send)
            elif Headers(raw=start["headers"]).get("content-type", "").startswith("text/event-st"):
                await send({"type": "http.response.body", "body": b""})  # it has said so itself
            else:
                raise


async def refuse_body(request: Request, error: RequestValidationError) -> JSONResponse:
    """Answer a body that is not of the kind that an address takes."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][:4])[:_MAX_WORDS]
    sentence = f"this request could not be understood: {where}: {first['msg'].lower()}"
    if (name := _name_endpoint(request.scope)) is not None:
        sentence += (
            f'; send {{"data": [...]}} to /gradio_api/call/{name[:_MAX_WORDS]}, or values by name '
            f"to /gradio_api/call/v2/{name[:_MAX_WORDS]}"
        )
    return _answer(422, sentence)


def in_one_line(error: BaseException) -> str:
    """Return an error and where it was raised, for a log."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    words = " ".join(str(error).split())[:_MAX_WORDS]
    return f"{type(error).__name__}{where}: {words}"


def _explain(scope: Scope, error: Exception) -> tuple[int, str]:
    """Return with which status and sentence a request is answered that could not be served."""
    if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
        return 500, "the server could not do this now; its log has the reason"
    name = _name_endpoint(scope)
    endpoints = {} if name is None else _endpoints(scope["app"].get_blocks())
    if name is not None and name != "predict" and name not in endpoints:
        return 404, f"there is no endpoint {brief(name)}; there are {', '.join(endpoints)}"
    if name in endpoints and isinstance(error, TypeError):  # of values by name
        said = str(error).partition(". ")[0]
        return 400, f"{said[:_MAX_WORDS]}: {name} takes {', '.join(endpoints[name])}"
    return 400, "this request could not be understood"


def _endpoints(blocks: Any) -> dict[str, list[str]]:
    """Return the names of what each endpoint takes, by the endpoint's own."""
    return {
        fn.api_name: [item.label for item in fn.inputs]
        for fn in blocks.fns.values()
        if fn.api_visibility == "public"
    }


def _name_endpoint(scope: Scope) -> str | None:
    found = _CALL.search(scope["path"])
    return None if found is None else found.group(1)


def _answer(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"detail": sentence}, status)


def _split(names: str | None) -> list[str]:
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def _name_in(host: str) -> str | None:
    found = _HOST.fullmatch(host)
    return None if found is None else found.group(1).strip("[]").lower().removesuffix(".")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _is_local(host: str) -> bool:
    name = _name_in(host)
    address = None if name is None else _address(name)
    if address is None:
        return name == "localhost"
    return address.is_loopback or str(address) in _EVERYWHERE
