"""What the station's pages send, and how the database's troubles reach them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request

from dinov3.defect_errors import DefectError
from dinov3.defect_serving.errors import RequestError
from dinov3.defect_serving.service import Service
from dinov3.defect_serving.uploads import read_body

LARGEST_MB = 0.02  # of what a page sends


async def read_form(request: Request, service: Service) -> dict[str, Any]:
    """The JSON object that a page of this server sends.

    Raises:
        RequestError: 403, a page of another site had it sent; 415, it is no JSON, which another site's page could not
            send without asking first; 422, no object.
    """
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise RequestError(403, "a request from another site's page; expected one of this server's own")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, "expected JSON, with Content-Type: application/json")
    body = await read_body(request, service.config, LARGEST_MB)
    try:
        form = json.loads(body)
    except (ValueError, RecursionError):
        form = None
    if not isinstance(form, dict):
        raise RequestError(422, "expected a JSON object")
    return form


def text_of(form: dict[str, Any], name: str, longest: int, needed: bool = False) -> str:
    """A text of a form, without blanks at its ends. RequestError (422): it is none, too long, or missing."""
    value = form.get(name) or ""
    text = value.replace("\0", "").strip() if isinstance(value, str) else ""
    if not isinstance(value, str) or len(value) > longest or (needed and not text):
        raise RequestError(422, f"{name}: expected a text of {int(needed)} to {longest} characters")
    return text.encode(errors="replace").decode()  # half a character is no text to a database


def number_of(form: dict[str, Any], name: str) -> int:
    """A whole number of a form, from 0 to what a database takes. RequestError (422): it is none."""
    value = form.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise RequestError(422, f"{name}: expected a whole number")
    return value


@contextmanager
def database_errors() -> Iterator[None]:
    """The database cannot be used: RequestError, 503, with the reason."""
    try:
        yield
    except DefectError as error:
        raise RequestError(503, str(error), 10) from None
