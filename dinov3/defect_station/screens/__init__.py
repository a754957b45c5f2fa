"""The station's pages, served by a server that has a results database: Live, Review, Statistics, Model, and the page to
try images on, which is all there is without a database."""

from __future__ import annotations

from fastapi import APIRouter

from dinov3.defect_serving.service import Service
from dinov3.defect_station.screens import live, model, pictures, review, session, statistics, trying
from dinov3.defect_station.screens.waiting import Waiting
from dinov3.defect_station.store import Store


def router(service: Service, store: Store) -> APIRouter:
    """All routes of the pages. Where the server has keys, each needs one.

    Raises:
        DefectError: ``--shifts`` cannot be read.
    """
    routes = APIRouter(include_in_schema=False)
    waiting = Waiting(store)
    for one in (
        session.router(service),
        live.router(service, store, waiting),
        review.router(service, store, waiting),
        statistics.router(service, store),
        model.router(service, store),
        pictures.router(service, store),
        trying.router(service),
    ):
        routes.include_router(one)
    return routes
