"""What a client is told when there is no verdict."""

from __future__ import annotations


class RequestError(Exception):
    """A request without an answer.

    Args:
        status: of HTTP.
        text: what was found, what was expected and what to do.
        retry_after: seconds after which it is worth trying again.
    """

    def __init__(self, status: int, text: str, retry_after: int | None = None):
        super().__init__(text)
        self.status, self.text, self.retry_after = status, text, retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
