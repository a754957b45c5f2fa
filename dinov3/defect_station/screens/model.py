"""Model: what runs, what it promises, how it was calibrated, and which models the database knows."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse

from dinov3.defect_evaluation.calibration_texts import calibration_texts
from dinov3.defect_serving.gate import has_key
from dinov3.defect_serving.service import Service
from dinov3.defect_station.screens.pages import clock, page
from dinov3.defect_station.screens.requests import database_errors
from dinov3.defect_station.store import Store
from dinov3.defect_station.store.figures import models_seen


def router(service: Service, store: Store) -> APIRouter:
    """The page."""
    routes = APIRouter()

    @routes.get("/model")
    def show(request: Request) -> HTMLResponse:
        if not has_key(request, service.keys):
            return page(request, service, "model")
        served = service.models.current
        calibration = served.predictor.calibration or {}
        with database_errors():
            seen = models_seen(store)
        return page(
            request,
            service,
            "model",
            model=served.describe(),
            temperature=served.predictor.engine.facts.thresholds.get("temperature"),
            calibration=calibration,
            said=calibration_texts(calibration),
            seen=seen,
            clock=clock,
        )

    return routes
