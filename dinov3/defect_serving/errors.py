"""What a client is told when there is no verdict."""

from __future__ import annotations

from collections.abc import Mapping


class RequestError(Exception):
    """A request without an answer.

    Args:
        status: of HTTP.
        text: what was found, what was expected and what to do.
        retry_after: seconds after which it is worth trying again.
        headers: others to send.
    """

    def __init__(
        self, status: int, text: str, retry_after: int | None = None, headers: Mapping[str, str] | None = None
    ):
        super().__init__(text)
        self.status, self.text, self.headers = status, text, dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
