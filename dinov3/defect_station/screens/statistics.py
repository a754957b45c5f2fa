"""Statistics: what came out by day, model and class, what people say to it, and whether it drifts."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import HTMLResponse

from dinov3.defect_serving.gate import has_key
from dinov3.defect_serving.service import Service
from dinov3.defect_station.screens.charts import heat_map, share_lines, stacked_bars
from dinov3.defect_station.screens.drift import NAMES, drift_state
from dinov3.defect_station.screens.pages import clock, page
from dinov3.defect_station.screens.requests import database_errors
from dinov3.defect_station.screens.summary import VERDICTS, Summary, summarize
from dinov3.defect_station.store import Store
from dinov3.defect_station.store.figures import decided_by_day, inspected_by_day

PERIODS = (7, 30, 90)  # days
SECONDS = 600.0  # that the figures of a past day are used for: its images hardly change


class PastDays:
    """Figures by day, of which those of past days are kept for a while. May be used by several threads."""

    def __init__(self, store: Store):
        self.store, self._lock = store, threading.Lock()
        self._kept: dict[date, tuple[float, list[dict[str, Any]]]] = {}

    def inspected(self, days: Sequence[date]) -> list[dict[str, Any]]:
        """As :func:`inspected_by_day`."""
        today, found = date.today(), []
        for day in days:
            with self._lock:  # whoever asks for the same day waits, and has it then
                now = time.monotonic()
                until, rows = self._kept.get(day, (0.0, []))
                if now >= until:
                    rows = inspected_by_day(self.store, [day])
                    self._kept = {kept: one for kept, one in self._kept.items() if one[0] > now}
                    if day < today:
                        self._kept[day] = now + SECONDS, rows
            found += rows
        return found


def router(service: Service, store: Store) -> APIRouter:
    """The page."""
    routes, past = APIRouter(), PastDays(store)

    @routes.get("/statistics")
    def show(
        request: Request, days: Literal["7", "30", "90"] = "30", model: Annotated[str, Query(max_length=64)] = ""
    ) -> HTMLResponse:
        """Of so many days up to today; ``model``: fingerprint, or empty: all."""
        if not has_key(request, service.keys):
            return page(request, service, "statistics")
        today = date.today()
        shown_days = [today - timedelta(n) for n in reversed(range(int(days)))]
        with database_errors():
            inspected, decided = past.inspected(shown_days), decided_by_day(store, shown_days)
        figures = summarize(shown_days, inspected, decided, model or None)
        brief = service.models.current.brief
        limits = brief["thresholds"] if model in ("", brief["fingerprint"]) else {}
        return page(
            request,
            service,
            "statistics",
            figures=figures,
            charts=charts(figures, limits),
            periods=PERIODS,
            period=int(days),
            model=model,
            current=brief,
            shown_verdicts=VERDICTS,
            drift=drift_state(service),
            drift_names=NAMES,
            clock=clock,
        )

    return routes


def charts(figures: Summary, limits: dict[str, float | None]) -> dict[str, Any]:
    """By name."""
    tallies = [figures.by_day[day] for day in figures.days]
    marks = {"reject": limits.get("classification"), "review": limits.get("review")}
    return {
        "verdicts": stacked_bars(figures.days, {name: [t.verdicts[name] for t in tallies] for name in VERDICTS}),
        "shares": share_lines(figures.days, {n: [t.share(n) for t in tallies] for n in ("review", "reject")}),
        "probabilities": heat_map(
            figures.days,
            [figures.bins[day] for day in figures.days],
            {name: value for name, value in marks.items() if value is not None},
        ),
        "agreement": share_lines(
            figures.days,
            {"accept": [t.agreement for t in tallies], "review": [t.doubtful_rejected for t in tallies]},
            least=1.0,
        ),
    }
