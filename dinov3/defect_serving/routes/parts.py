"""``GET /v1/parts/{part_id}``: what all images of a part come to, over all requests."""

from __future__ import annotations

from collections import deque
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Path as InPath
from starlette.requests import Request

from dinov3.defect_serving.errors import RequestError
from dinov3.defect_serving.gate import expect_key
from dinov3.defect_serving.occasion import part_answer, storable
from dinov3.defect_serving.schemas import ErrorAnswer, StoredPart
from dinov3.defect_serving.service import Service
from dinov3.defect_serving.uploads import LONGEST
from dinov3.inference.parts import Views

MOST = 1000  # views that are listed


def router(service: Service) -> APIRouter:
    """The route of parts."""
    routes = APIRouter(prefix="/v1/parts", tags=["station"])
    refused = {
        401: {"model": ErrorAnswer, "description": "no valid key"},
        403: {"model": ErrorAnswer, "description": "a page of another site, or another host"},
        404: {"model": ErrorAnswer, "description": "no such part, or no results database"},
        422: {"model": ErrorAnswer, "description": "no such name of a part"},
        503: {"model": ErrorAnswer, "description": "the results database cannot be read"},
    }

    @routes.get("/{part_id:path}", response_model=StoredPart, responses=refused)
    def part(request: Request, part_id: Annotated[str, InPath(max_length=LONGEST)]) -> dict[str, Any]:
        """All images of a part in the results database. What a person decided on an image counts in place of its
        verdict."""
        expect_key(request, service.keys)
        if service.store is None:
            raise RequestError(404, "there is no results database; start the server with --store")
        views, listed = Views(), deque(maxlen=MOST)
        for row in service.store.rows(part=storable(part_id)):
            decided = row["decision"] in ("accept", "reject")
            verdict = row["decision"] if decided else row["verdict"]
            error = row["error"] if not decided else ""
            views.add(row | {"image": row["name"], "verdict": verdict, "error": error})
            listed.append(row | {"camera": row["labels"].get("camera"), "decision": verdict if decided else None})
        if not views.counts:
            raise RequestError(404, f"{part_id!r}: no image of such a part")
        return part_answer(part_id, views, service.views_to_reject(service.models.current)) | {"views": list(listed)}

    return routes
