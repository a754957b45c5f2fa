"""``GET /v1/drift``: whether what comes in is still like the reference."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from dinov3.defect_serving.errors import RequestError
from dinov3.defect_serving.gate import expect_key
from dinov3.defect_serving.schemas import DriftAnswer, ErrorAnswer
from dinov3.defect_serving.service import Service


def router(service: Service) -> APIRouter:
    """The route of drift."""
    routes = APIRouter(prefix="/v1/drift", tags=["station"])
    refused = {
        401: {"model": ErrorAnswer, "description": "no valid key"},
        403: {"model": ErrorAnswer, "description": "a page of another site, or another host"},
        404: {"model": ErrorAnswer, "description": "there is no reference to compare with"},
    }

    @routes.get("", response_model=DriftAnswer, responses=refused)
    def drift(request: Request) -> dict[str, Any]:
        """Where the test for drift is, and the images that moved it most."""
        expect_key(request, service.keys)
        if service.drift is None:
            raise RequestError(404, "nothing to compare with; start the server with --drift_reference")
        return service.drift.state() | {"in_use": service.tests_drift(service.models.current)}

    return routes
