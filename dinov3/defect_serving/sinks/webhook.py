"""Results by HTTP: a JSON array of up to 50 at a time, by POST; a status of 200 to 299 means that they are received."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from dinov3.defect_errors import DefectError
from dinov3.defect_serving.metrics import Metrics
from dinov3.defect_serving.sinks.outbox import Outbox, Stored
from dinov3.defect_serving.sinks.secrets import read_secret
from dinov3.defect_serving.sinks.sender import Sender, SendError

SECONDS = 10.0  # for a receiver to answer


class Webhook(Sender):
    """Posts to one address, over a connection that is kept. Redirections are not followed.

    Raises:
        DefectError: the address or the token cannot be used.
    """

    name = "webhook"

    def __init__(self, url: str, token_file: Path | None, outbox: Outbox, metrics: Metrics):
        super().__init__(outbox, metrics)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DefectError(f"--webhook {url}: expected an address such as https://host:8443/results")
        self.path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.headers = {"Content-Type": "application/json", "User-Agent": "defect-serve"}
        if token_file is not None:
            self.headers["Authorization"] = f"Bearer {read_secret(token_file, '--webhook_token_file')}"
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self.connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=SECONDS, context=context
            )
        else:
            self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=SECONDS)

    def send(self, messages: Sequence[Stored]) -> None:
        body = f"[{','.join(message.message for message in messages)}]".encode()
        try:
            self.connection.request("POST", self.path, body, self.headers)
            response = self.connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            raise SendError(f"{type(error).__name__}: {error}") from None
        if not 200 <= response.status < 300:
            self.connection.close()
            raise SendError(f"status {response.status} {response.reason}; expected 200 to 299")
        self.delivered(messages)
