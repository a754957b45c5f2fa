"""``/v1/model``: what is in use, and the change to another one."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.requests import Request

from dinov3.defect_serving.errors import RequestError
from dinov3.defect_serving.gate import expect_key
from dinov3.defect_serving.schemas import ErrorAnswer, ModelAnswer, ModelChange
from dinov3.defect_serving.service import Service
from dinov3.defect_serving.uploads import read_body

CHANGE = ModelChange.model_json_schema()
LARGEST_MB = 0.01  # of a request for a change


def router(service: Service) -> APIRouter:
    """The routes of models."""
    routes = APIRouter(prefix="/v1/model", tags=["model"])
    refused = {
        401: {"model": ErrorAnswer, "description": "no valid key"},
        403: {"model": ErrorAnswer, "description": "changes are not allowed, or a page of another site"},
    }

    def describe() -> dict[str, Any]:
        return service.models.current.describe() | {"available": service.models.available()}

    @routes.get("", response_model=ModelAnswer, responses=refused)
    async def model(request: Request) -> dict[str, Any]:
        """The model in use."""
        expect_key(request, service.keys)
        return describe()

    @routes.post(
        "",
        response_model=ModelAnswer,
        responses=refused
        | {
            404: {"model": ErrorAnswer, "description": "no such file"},
            409: {"model": ErrorAnswer, "description": "another change is under way"},
            413: {"model": ErrorAnswer, "description": "too large"},
            422: {"model": ErrorAnswer, "description": "no such request, or it cannot be used; the model stays"},
        },
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": CHANGE}}}},
    )
    async def change(request: Request) -> dict[str, Any]:
        """Change the model, with an admin's key: it is loaded and run beside the one in use, then takes its place.
        Requests that came before have the model of their time. After a restart, the server runs `--checkpoint`."""
        if service.admin_keys is None:
            raise RequestError(403, "the model cannot be changed here; start the server with --admin_key_file")
        expect_key(request, service.admin_keys)
        try:
            wanted = ModelChange.model_validate_json(await read_body(request, service.config, LARGEST_MB))
        except ValidationError:
            raise RequestError(422, 'expected JSON such as {"name": "best_accuracy.onnx"}') from None
        request.state.facts["wanted"] = wanted.name
        try:
            await asyncio.to_thread(service.models.change, wanted.name)
        except RequestError:
            service.metrics.swaps.labels("refused").inc()
            raise
        service.metrics.swaps.labels("done").inc()
        return describe()

    return routes
