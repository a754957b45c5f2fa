"""The other ends of sinks: an MQTT broker and a receiver of webhooks, which come and go."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from amqtt.broker import Broker
from amqtt.plugins.base import BasePlugin

Message = dict[str, Any]
RECEIVED: dict[int, list[tuple[str, Message]]] = {}  # by the port of a broker: topic and content


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether it comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


class Recorder(BasePlugin):
    """Notes what clients publish."""

    @dataclass
    class Config:
        port: int

    async def on_broker_message_received(self, *, client_id: str, message: Any) -> None:
        RECEIVED[self.config.port].append((message.topic, json.loads(bytes(message.data))))


class MqttBroker:
    """A broker at one port, in a thread of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        RECEIVED[self.port] = []
        self.start()

    def start(self) -> None:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(20)

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        recorder = {"helpers.sinks.Recorder": {"port": self.port}}
        plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {}} | recorder
        listeners = {"default": {"type": "tcp", "bind": f"127.0.0.1:{self.port}"}}
        broker = Broker({"listeners": listeners, "plugins": plugins})
        await broker.start()
        ready.set()
        await self._ended.wait()
        await broker.shutdown()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(20)

    @property
    def results(self) -> list[Message]:
        return [message for topic, message in list(RECEIVED[self.port]) if topic.endswith("/results")]

    @property
    def states(self) -> list[str]:
        return [message["status"] for topic, message in list(RECEIVED[self.port]) if topic.endswith("/status")]


class WebhookReceiver:
    """A receiver at one port; while it is ``sick`` it answers with status 500."""

    def __init__(self) -> None:
        self.port, self.sick, self.headers = free_port(), False, {}
        self.results: list[Message] = []
        self.start()

    def start(self) -> None:
        receiver, self._connections = self, []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                receiver._connections.append(self.connection)

            def do_POST(self) -> None:  # noqa: N802  the library's name
                content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.headers = dict(self.headers)
                if not receiver.sick:
                    receiver.results += content
                self.send_response(500 if receiver.sick else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        class Listener(ThreadingHTTPServer):
            daemon_threads, block_on_close = True, False

        self._server = Listener(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:  # that are kept
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
