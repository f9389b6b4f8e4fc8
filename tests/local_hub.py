"""A hub on this machine, for tests: it serves one repository, and misbehaves as it is told."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from safetensors.torch import load_file

from flowturbo_core.models.catalog import HUB_MODELS
from tests.core.pipelines.tiny_text import tiny_text_pipeline, write_sd_folder

UNKNOWN = 404, b"{}", {"X-Error-Code": "RepoNotFound"}
GATED = 403, b"{}", {"X-Error-Code": "GatedRepo"}
FAILING = 500, b"", {}
NO_HUB = 200, b"<html>Welcome</html>", {}
SHA = "0123456789abcdef0123456789abcdef01234567"
MODEL = HUB_MODELS[0]


class Hub(ThreadingHTTPServer):
    """Serves the files of a folder as the hub does those of one repository.

    `broken` names files that break off half-way; `refusal` is what every request gets instead:
    a status, a body and headers; `asked` holds the paths of the files that were sent.
    """

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.broken, self.refusal, self.asked = folder, set(), None, []
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"

    def listing(self):
        files = sorted(file for file in self.folder.rglob("*") if file.is_file())
        names = [str(file.relative_to(self.folder)) for file in files]
        sizes = [file.stat().st_size for file in files]
        siblings = [{"rfilename": n, "size": s} for n, s in zip(names, sizes, strict=True)]
        about = {"id": MODEL.repository, "modelId": MODEL.repository, "sha": SHA}
        return about | {"siblings": siblings, "private": False, "tags": []}

    def tree(self):
        return [
            {"type": "file", "path": its["rfilename"], "size": its["size"], "oid": SHA}
            for its in self.listing()["siblings"]
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, with_body):
        path = self.path.partition("?")[0]
        if self.server.refusal is not None:
            return self._send(*self.server.refusal, with_body)
        if path.startswith("/api/"):
            content = self.server.tree() if "/tree/" in path else self.server.listing()
            return self._send(200, json.dumps(content).encode(), {}, with_body)
        name = path.partition(f"/resolve/{SHA}/")[2]
        data = (self.server.folder / name).read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": SHA}
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        if with_body:
            self.server.asked.append((name, start))
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self._send(
            206 if start else 200, data[start:], headers, with_body, name in self.server.broken
        )

    def _send(self, status, body, headers, with_body, breaks=False):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if with_body:
            self.wfile.write(body[: len(body) // 2] if breaks else body)
        self.close_connection = breaks


def publish(folder, is_pickled=True):
    """Fill a folder as text-to-image models are published, with parts that nobody here reads."""
    write_sd_folder(tiny_text_pipeline(), folder)
    for file in folder.rglob("*.safetensors") if is_pickled else ():
        name = "pytorch_model.bin" if file.parent.name == "text_encoder" else f"{file.stem}.bin"
        torch.save(load_file(file), file.parent / name)
        file.unlink()
    (folder / "README.md").write_text("a card")
    (folder / "unet" / "diffusion_pytorch_model.fp16.bin").write_bytes(b"half")
    return folder


@contextmanager
def serving(folder):
    """Serve a folder for the length of a `with` block."""
    server = Hub(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
