"""The server's page to drop images on, as one of the station's."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse

from dinov3.defect_serving.routes.page import page_values
from dinov3.defect_serving.service import Service
from dinov3.defect_station.screens.pages import page


def router(service: Service) -> APIRouter:
    """The route of the page."""
    routes = APIRouter()

    @routes.get("/try")
    def show(request: Request) -> HTMLResponse:
        return page(request, service, "try", **page_values())

    return routes
