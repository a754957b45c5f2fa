"""Live: what comes in, and the counts of the shift."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import HTMLResponse

from dinov3.defect_serving.gate import expect_key
from dinov3.defect_serving.service import Service
from dinov3.defect_station.screens.drift import drift_alarm
from dinov3.defect_station.screens.pages import clock, page, piece, shown
from dinov3.defect_station.screens.requests import database_errors
from dinov3.defect_station.screens.shifts import parse_shifts, shift_began
from dinov3.defect_station.screens.waiting import Waiting
from dinov3.defect_station.store import Store
from dinov3.defect_station.store.inspected import ERROR, time_text

SHOWN = 24  # images
Kind = Literal["all", "review", "reject", "error"]


def router(service: Service, store: Store, waiting: Waiting) -> APIRouter:
    """The page at ``/``, and its news."""
    routes = APIRouter()
    hours = parse_shifts(service.config.shifts)

    def state(kind: Kind, after: int) -> dict[str, Any]:
        began = shift_began(datetime.now().astimezone(), hours)
        with database_errors():
            rows = list(store.rows(order="newest", limit=SHOWN, verdict=None if kind == "all" else kind, after=after))
            counts = store.counts(since=began)
            left = waiting.count()
        return {
            "newest": max((row["id"] for row in rows), default=after),
            "cards": [piece("card", row=shown(row)) for row in rows],
            "counts": {name: counts.get(name, 0) for name in ("accept", "review", "reject", ERROR)},
            "since": clock(time_text(began), seconds=False),
            "left": left,
            "problem": service.problem,
            "drift": drift_alarm(service),
        }

    @routes.get("/")
    def show(request: Request) -> HTMLResponse:
        return page(request, service, "live", most=SHOWN)

    @routes.get("/live/news")
    def news(request: Request, kind: Kind = "all", after: Annotated[int, Query(ge=0, lt=2**63)] = 0) -> dict[str, Any]:
        """Images that came after the row ``after``, the newest first and the latest ones alone if they are many."""
        expect_key(request, service.keys)
        return state(kind, after)

    return routes
