"""From a request to the images in it, within limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from dinov3.data.defect_images import ImageBytes
from dinov3.defect_serving.config import ServeConfig
from dinov3.defect_serving.errors import RequestError

FIELD = "images"
LABELS = ("part_id", "camera", "trigger_id")  # the client's own, echoed
LONGEST = 200  # characters of a label or a name
SWALLOWED = 2.0  # seconds in which more of a request that is too large is taken, so that its sender gets to read why


@dataclass(frozen=True)
class Upload:
    """What a client wants inspected; a label that is not given is None."""

    images: list[ImageBytes]
    labels: dict[str, str | None]


class _InMemory(MultiPartParser):
    spool_max_size = 1 << 62  # as all of the request is


async def read_upload(request: Request, config: ServeConfig) -> Upload:
    """The images of a request: of its field ``images``, or its whole body.

    Raises:
        RequestError: it is too large, not complete, or not of this form.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    labels = {name: request.query_params.get(name) for name in LABELS}
    name = request.query_params.get("name") or "image"
    if kind == b"multipart/form-data":
        upload = await _read_form(request, config, options.get(b"boundary", b""), labels)
    elif kind == b"application/octet-stream" or kind.startswith(b"image/"):
        upload = Upload([ImageBytes(name, await read_body(request, config))], labels)
    else:
        raise RequestError(
            415,
            f"content type {kind.decode(errors='replace')[:100]!r}; expected multipart/form-data with images in the "
            f"field {FIELD}, or one image as application/octet-stream or image/...",
        )
    if len(upload.images) > config.max_images:
        raise RequestError(422, f"{len(upload.images)} images; expected at most {config.max_images} in a request")
    for text in (*upload.labels.values(), *(image.name for image in upload.images)):
        if text is not None and len(text) > LONGEST:
            raise RequestError(422, f"{text[:20]!r}...: a label or name of more than {LONGEST} characters")
    return upload


async def _read_form(request: Request, config: ServeConfig, boundary: bytes, labels: dict[str, str | None]) -> Upload:
    body = await read_body(request, config)
    # The parser takes the end of the body for the end of the form, and would drop an image that is cut off in silence.
    if not boundary or not body.rstrip(b"\r\n").endswith(b"--" + boundary + b"--"):
        raise RequestError(400, "the form is cut off: it does not end with its boundary; send it again")

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _InMemory(request.headers, whole(), max_files=config.max_images, max_fields=len(LABELS))
    try:
        form = await parser.parse()
    except MultiPartException as error:
        status = 422 if error.message.startswith("Too many files") else 400
        raise RequestError(status, f"not a form that can be read: {error.message}") from None
    images = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile) and name == FIELD:
            images.append(ImageBytes(value.filename or "image", await value.read()))
        elif isinstance(value, str) and name in LABELS:
            labels[name] = value
        else:
            kind = "file" if isinstance(value, UploadFile) else "field"
            raise RequestError(
                422, f"{kind} {name[:LONGEST]!r}; expected files {FIELD} and fields {', '.join(LABELS)} alone"
            )
    if not images:
        raise RequestError(422, f"no image: expected one or more files in the field {FIELD}")
    return Upload(images, labels)


async def read_body(request: Request, config: ServeConfig, most_mb: float | None = None) -> bytes:
    """The body of a request, of which ``most_mb`` millions of bytes are taken, or ``config.max_request_mb``.

    Raises:
        RequestError: 413, it is larger, whether its length was told before or not; 408, it was not there in
            ``config.timeout`` seconds; 400, its sender went away.
    """
    most_mb = config.max_request_mb if most_mb is None else most_mb
    most = round(most_mb * 1e6)
    told = request.headers.get("content-length", "")
    body = None
    if not told.isdecimal() or int(told) <= most:
        try:
            body = await asyncio.wait_for(_take(request, most), config.timeout)
        except asyncio.TimeoutError:
            raise RequestError(408, f"the request was not here after {config.timeout:g} s; send it again") from None
    if body is None:
        if "expect" not in request.headers:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_take(request, most), SWALLOWED)
        raise RequestError(413, f"a request of more than {most_mb:g} MB; send less at a time")
    return body


async def _take(request: Request, most: int) -> bytes | None:
    """What comes, or None once it is more than ``most`` bytes."""
    length, pieces = 0, []
    while True:
        message = await request.receive()
        if message["type"] != "http.request":
            raise RequestError(400, "the sender went away in the middle of its request")
        pieces.append(message.get("body", b""))
        length += len(pieces[-1])
        if length > most:
            return None
        if not message.get("more_body", False):
            return b"".join(pieces)
