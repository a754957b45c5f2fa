"""What every request passes: who may come in, an error's form, the log and the figures."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dinov3.defect_serving.errors import RequestError
from dinov3.defect_serving.keys import Keys
from dinov3.defect_serving.logs import LOGGER, log
from dinov3.defect_serving.service import LOOPBACK, Service

COOKIE = "defect_session"  # of a page, in place of a key: pictures and links cannot send a header
QUIET = ("/healthz", "/readyz", "/metrics")  # asked every few seconds


class Gate:
    """ASGI middleware, outside of all else. Routes add what the log should say to ``request.state.facts``."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0
        request_id, facts = uuid.uuid4().hex, {}
        scope.setdefault("state", {}).update(request_id=request_id, facts=facts)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Model-Fingerprint"] = self.service.models.current.brief["fingerprint"]
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Cache-Control"] = "no-store"
            await send(message)

        try:
            self._expect_own(scope)
            await self.app(scope, receive, answer)
        except RequestError as error:
            facts["error"] = error.text
            await answer_error(answer, error, request_id)
        except Exception:
            LOGGER.exception("a request failed", extra={"facts": {"request_id": request_id}})
            if status:  # it has begun to answer: the connection ends without the rest
                raise
            await answer_error(answer, RequestError(500, "the server failed; see its log"), request_id)
        finally:
            self._note(scope, status, time.perf_counter() - begun, request_id, facts)

    def _expect_own(self, scope: Scope) -> None:
        """Refuse what a page of another site makes a browser send: it could not read the answer, but start things."""
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        try:
            host = urlsplit(f"//{headers.get('host', '')}")
            foreign = origin is not None and urlsplit(origin).netloc != host.netloc
        except ValueError:  # no address
            raise RequestError(403, "the header Host or Origin is no address") from None
        if foreign:
            raise RequestError(403, f"a request from a page of {origin[:100]}; expected one of this server's own")
        # A name that leads to this machine from outside (DNS rebinding); whoever has a key is no such page.
        if self.service.keys is None and host.hostname not in LOOPBACK:
            raise RequestError(403, "the header Host names another machine; ask for localhost or 127.0.0.1")

    def _note(self, scope: Scope, status: int, seconds: float, request_id: str, facts: dict[str, Any]) -> None:
        route = scope.get("route")
        path = getattr(route, "path", None) or "other"
        self.service.metrics.requests.labels(path, status).inc()
        if path in QUIET and status < 400:
            return
        self.service.metrics.stages.labels("total").observe(seconds)
        client = scope.get("client")
        log(
            "request",
            request_id=request_id,
            method=scope["method"],
            path=scope["path"],
            status=status,
            milliseconds=round(seconds * 1000, 1),
            client=client[0] if client else None,
            **facts,
        )


async def answer_error(send: Send, error: RequestError, request_id: str) -> None:
    """Send what went wrong, and no verdict."""
    body = json.dumps({"error": error.text, "request_id": request_id}, ensure_ascii=False).encode(errors="replace")
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))} | error.headers
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def expect_key(request: Request, keys: Keys | None) -> None:
    """Let in whoever has one of the keys, or everyone if there are none.

    Raises:
        RequestError: 401.
    """
    if not has_key(request, keys):
        raise RequestError(401, "no valid key; send one that the server knows in the header X-API-Key")


def has_key(request: Request, keys: Keys | None) -> bool:
    """Whether the request has one of the keys, in its header or as the session of a page, or none is needed. The log
    has the key's name (:func:`key_name`)."""
    if keys is None:
        return True
    name = keys.name_of(request.headers.get("x-api-key", "")) or keys.session_of(request.cookies.get(COOKIE, ""))
    if name is not None:
        request.state.facts["key"] = name
    return name is not None


def key_name(request: Request) -> str | None:
    """The name of the key that the request was let in with; None: no keys are used."""
    return request.state.facts.get("key")
