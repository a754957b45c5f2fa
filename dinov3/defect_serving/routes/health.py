"""Whether the server runs, whether it can work, and its figures."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from dinov3.defect_serving.schemas import Health
from dinov3.defect_serving.service import Service


def router(service: Service) -> APIRouter:
    """The routes for whoever watches over the server; they need no key, and say nothing of images."""
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz", response_model=Health)
    async def alive() -> JSONResponse:
        """The server runs."""
        return JSONResponse({"status": "ok", "reason": ""})

    @routes.get("/readyz", response_model=Health, responses={503: {"model": Health}})
    async def ready() -> JSONResponse:
        """The server can inspect: its engine works and it is not shutting down."""
        problem = service.problem
        return JSONResponse({"status": "not ready" if problem else "ok", "reason": problem}, 503 if problem else 200)

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def figures() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return routes
