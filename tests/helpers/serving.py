"""A real server in a process of its own, and clients of it."""

from __future__ import annotations

import http.client
import json
import socket
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from helpers.forking import Child, Launcher

MODULES = (
    "serve_defect_model",
    "inference_defect_model",
    "dinov3.defect_serving.running",
    "dinov3.defect_station.screens",
    "onnxruntime",
)
KEY = "0123456789abcdefghij"
# Python to run before a server: its engine takes a while for each batch, or fails on those numbered.
SLOW = """
import time
from dinov3.models.defect_engines.onnx_engine import OnnxEngine as Engine
start = Engine.start
def slow(self, images):
    time.sleep({seconds})
    return start(self, images)
Engine.start = slow
"""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any  # what the JSON holds

    @property
    def results(self) -> list[dict[str, Any]]:
        return self.body["results"]


class Server:
    """A running server; ``events`` are the lines of its log so far."""

    def __init__(self, child: Child):
        self.child, self.port = child, 0
        deadline = time.monotonic() + 60
        while not (serving := [event for event in self.events if event.get("event") == "serving"]):
            assert child.status() is None and time.monotonic() < deadline, child.log.read_text()
            time.sleep(0.02)
        self.port = serving[-1]["port"]

    @property
    def events(self) -> list[dict[str, Any]]:
        log = self.child.log  # not there yet as the process begins
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        connection: http.client.HTTPConnection | None = None,
    ) -> Answer:
        kept = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            kept.request(method, path, body, headers or {})
            response = kept.getresponse()
            content = response.read()
        finally:
            if connection is None:
                kept.close()
        told = {name.lower(): value for name, value in response.getheaders()}
        is_json = told.get("content-type", "").startswith("application/json")
        return Answer(response.status, told, json.loads(content) if is_json else content)

    def inspect(self, *images: Path, query: str = "", **more: Any) -> Answer:
        """Send image files as a form."""
        kind, body = form([(path.name, path.read_bytes()) for path in images])
        return self.ask("POST", f"/v1/inspect{query}", body, {"Content-Type": kind} | more.pop("headers", {}), **more)

    def inspect_all(self, images: Sequence[Path], clients: int = 8) -> list[Answer]:
        """Send each image in a request of its own, many at a time."""
        with ThreadPoolExecutor(clients) as pool:
            return list(pool.map(self.inspect, images))

    def raw(self, *pieces: bytes) -> socket.socket:
        """A connection on which these bytes were sent, and no more."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        for piece in pieces:
            connection.sendall(piece)
        return connection


class Servers:
    """Starts servers from a process that has their modules."""

    def __init__(self, launcher: Launcher):
        self.launcher = launcher
        launcher.load(*MODULES)

    def start(self, model: Path, *flags: object, before: str = "") -> Server:
        return Server(self.begin(model, *flags, before=before))

    def begin(self, model: Path, *flags: object, before: str = "") -> Child:
        """As ``start``, without waiting for it."""
        line = ["--checkpoint", model, "--port", 0, "--threads", 1, *flags]
        return self.launcher.start(line, before=before, script="serve_defect_model")

    def script(self, name: str, *flags: object) -> int | None:
        """Run another script to its end, for its exit status."""
        return self.launcher.start(flags, script=name).status(60)


def form(files: Sequence[tuple[str, bytes]], field: str = "images", **labels: str) -> tuple[str, bytes]:
    """Content type and body of a form."""
    boundary = uuid.uuid4().hex
    body = b""
    for name, value in labels.items():
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    for name, content in files:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        body += head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + content + b"\r\n"
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()
