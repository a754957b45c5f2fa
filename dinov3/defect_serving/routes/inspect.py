"""``POST /v1/inspect``: images in, a result for each out."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from dinov3.defect_serving.errors import RequestError
from dinov3.defect_serving.gate import expect_key
from dinov3.defect_serving.logs import now
from dinov3.defect_serving.occasion import Occasion
from dinov3.defect_serving.results import Extras
from dinov3.defect_serving.schemas import EXAMPLE_ANSWER, ErrorAnswer, InspectAnswer
from dinov3.defect_serving.service import Service
from dinov3.defect_serving.uploads import FIELD, LABELS, LONGEST, read_upload

Label = Annotated[str | None, Query(max_length=LONGEST, description="the client's own; echoed")]
REFUSALS = {
    400: "the request is cut off or no form",
    401: "no valid key",
    403: "a page of another site, or another host",
    408: "the request took too long to come",
    413: "too large",
    415: "neither a form nor an image",
    422: "no image could be read, too many images, or a field is wrong",
    500: "the inspection failed",
    503: "too much to do, or shutting down; try again after Retry-After seconds",
    504: "no result in time",
}
FILE = {"type": "string", "format": "binary"}


def body_schema(most: int) -> dict[str, Any]:
    """What a request with at most so many images holds, as OpenAPI tells it."""
    form = {
        "type": "object",
        "required": [FIELD],
        "properties": {
            FIELD: {"type": "array", "minItems": 1, "maxItems": most, "items": FILE},
            **{label: {"type": "string", "maxLength": LONGEST} for label in LABELS},
        },
        "additionalProperties": False,
    }
    kinds = {"multipart/form-data": form, "image/*": FILE, "application/octet-stream": FILE}
    return {"required": True, "content": {kind: {"schema": schema} for kind, schema in kinds.items()}}


def router(service: Service) -> APIRouter:
    """The routes of inspection."""
    routes = APIRouter(tags=["inspection"])
    answers: dict[int | str, dict[str, Any]] = {
        200: {"model": InspectAnswer, "content": {"application/json": {"example": EXAMPLE_ANSWER}}}
    }
    for status, meaning in REFUSALS.items():
        told = InspectAnswer | ErrorAnswer if status in (422, 500, 504) else ErrorAnswer
        answers[status] = {"model": told, "description": meaning}

    body = body_schema(service.config.max_images)

    @routes.post("/v1/inspect", responses=answers, openapi_extra={"requestBody": body})
    async def inspect(
        request: Request,
        part_id: Label = None,
        camera: Label = None,
        trigger_id: Label = None,
        name: Annotated[str | None, Query(max_length=LONGEST, description="of an image that is the whole body")] = None,
        mask: Annotated[bool, Query(description="add each mask as PNG")] = False,
        attention: Annotated[bool, Query(description="add where the classifier looked, as PNG")] = False,
        explain: Annotated[bool, Query(description="add the reason in two languages, and bounds of verdicts")] = False,
    ) -> Response:
        """Inspect one image or many.

        Send a form with files in the field `images`, or one image as the whole body. The labels may be form fields or
        in the query. If some images fail, the status is 200 and their results have an `error` and no `verdict`; if
        all do, it is 422, 500 or 504. `parts` has one verdict for the images of each part in this request.
        """
        expect_key(request, service.keys)
        if service.problem:
            raise RequestError(503, service.problem, 5)
        _reserve(service, 1)
        reserved = 1
        try:
            deadline = asyncio.get_running_loop().time() + service.config.timeout
            upload = await read_upload(request, service.config)
            _reserve(service, len(upload.images) - 1)
            reserved = len(upload.images)
            model = service.models.current
            inspecting = service.inspect(upload.images, model, Extras(mask, attention, explain), deadline=deadline)
            reserved = 0  # the worker gives the room back
            outcomes = await inspecting
            occasion = Occasion(request.state.request_id, upload.labels, service.part_of)
            await service.keep(occasion, model, upload.images, outcomes)
        finally:
            if reserved:
                service.worker.release(reserved)
        answer = {
            "request_id": request.state.request_id,
            "time": now(),
            **upload.labels,
            "model": model.brief,
            "parts": list(service.parts(occasion, model, outcomes).values()),
            "results": [outcome.record for outcome in outcomes],
        }
        verdicts = Counter(outcome.record.get("verdict", "error") for outcome in outcomes)
        request.state.facts.update(
            **upload.labels, images=len(outcomes), verdicts=dict(verdicts), fingerprint=model.brief["fingerprint"]
        )
        status = min(outcome.status for outcome in outcomes)
        return Response(json.dumps(answer, ensure_ascii=False), status, media_type="application/json")

    return routes


def _reserve(service: Service, count: int) -> None:
    if count and not service.worker.reserve(count):
        text = "too much to do just now: --queue_size images are under way; send it again later"
        raise RequestError(503, text, service.worker.retry_after)
