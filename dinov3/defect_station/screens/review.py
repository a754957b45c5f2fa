"""Review: people decide on the images that the model doubts, the most doubtful first."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse

from dinov3.defect_serving.errors import RequestError
from dinov3.defect_serving.gate import expect_key, key_name
from dinov3.defect_serving.service import Service
from dinov3.defect_station.screens.claims import Claims
from dinov3.defect_station.screens.pages import clock, page, piece, shown
from dinov3.defect_station.screens.pictures import image_size
from dinov3.defect_station.screens.requests import database_errors, number_of, read_form, text_of
from dinov3.defect_station.screens.waiting import Waiting
from dinov3.defect_station.store import DecidedError, Store
from dinov3.defect_station.store.store import DECISIONS

LONGEST_NAME, LONGEST_COMMENT, LONGEST_CLASS, LONGEST_PAGE = 80, 2000, 200, 64  # characters
Page = Annotated[str, Query(min_length=1, max_length=LONGEST_PAGE, description="tells this page from all others")]


def router(service: Service, store: Store, waiting: Waiting) -> APIRouter:
    """The page, and what it asks and says."""
    routes, claims = APIRouter(), Claims()

    def item(row: dict[str, Any]) -> dict[str, Any]:
        size = image_size(row["image_path"]) if row["image_path"] else None
        history = [one | {"clock": clock(one["time"])} for one in store.decisions(row["id"])]
        html = piece("review_item", row=shown(row), size=size, focus=focus(row, size), history=history)
        return {"id": row["id"], "name": row["name"], "decisions": row["decisions"], "html": html}

    @routes.get("/review")
    def show(request: Request) -> HTMLResponse:
        return page(request, service, "review", classes=defect_classes(service))

    @routes.get("/review/next")
    def following(
        request: Request,
        page: Page,
        count: Annotated[int, Query(ge=0, le=5)] = 1,
        keep: Annotated[str, Query(pattern=r"^(\d{1,18}(,\d{1,18}){0,9})?$")] = "",
        image: Annotated[int | None, Query(ge=0, lt=2**63, description="this one first")] = None,
    ) -> dict[str, Any]:
        """Images that are this page's own to decide, beside those that it shows (``keep``)."""
        expect_key(request, service.keys)
        kept = [int(number) for number in keep.split(",") if number]
        claims.renew(page, kept)
        with database_errors():
            wanted = [] if image is None else list(store.rows(id=image))
            look = count + len(kept) + claims.spoken_for(page)
            rows = store.rows(doubtful=True, undecided=True, order="doubt", limit=look)
            found = claims.take(page, (row for row in rows if row["id"] not in kept), count)
            items = [item(row) for row in wanted + [row for row in found if row["id"] != image]]
            return {"items": items, "left": waiting.count(), "of_others": claims.of_others(page)}

    @routes.post("/review/decision")
    async def decide(request: Request) -> JSONResponse:
        """Store a decision; 409: somebody else was faster, and who that is."""
        expect_key(request, service.keys)
        form = await read_form(request, service)
        image, after, decision = number_of(form, "image"), number_of(form, "after"), text_of(form, "decision", 20)
        if decision not in DECISIONS:
            raise RequestError(422, f"decision: expected one of {', '.join(DECISIONS)}")
        person = key_name(request) or text_of(form, "person", LONGEST_NAME, needed=True)
        what = {"class_name": text_of(form, "class_name", LONGEST_CLASS) or None}
        what["comment"] = text_of(form, "comment", LONGEST_COMMENT)
        request.state.facts.update(image=image, decision=decision)
        claimant = text_of(form, "page", LONGEST_PAGE, needed=True)
        answer, status = await asyncio.to_thread(_decide, image, person, decision, after, what)
        claims.release(claimant, image)
        waiting.decided()
        return JSONResponse(answer, status)

    def _decide(image: int, person: str, decision: str, after: int, what: dict[str, Any]) -> tuple[dict[str, Any], int]:
        with database_errors():
            try:
                return {"decisions": store.decide(image, person, decision, after=after, **what)}, 200
            except DecidedError as error:
                latest = store.decisions(image)[-1]
                return {"error": str(error), "person": latest["person"], "decision": latest["decision"]}, 409

    @routes.post("/review/put_off")
    async def put_off(request: Request) -> dict[str, Any]:
        """Show the image to others, and to this page when nothing else is left."""
        expect_key(request, service.keys)
        form = await read_form(request, service)
        claims.release(text_of(form, "page", LONGEST_PAGE, needed=True), number_of(form, "image"), put_off=True)
        return {}

    @routes.post("/review/leave")
    async def leave(request: Request) -> dict[str, Any]:
        """The page is closed: its images are free."""
        expect_key(request, service.keys)
        claims.leave(text_of(await read_form(request, service), "page", LONGEST_PAGE, needed=True))
        return {}

    return routes


def defect_classes(service: Service) -> list[str]:
    """What a rejected part can have, in the order of the number keys."""
    facts = service.models.current.predictor.engine.facts
    return list(facts.classes[1:] if len(facts.classes) > 2 else facts.mask_classes)[:9]


def focus(row: dict[str, Any], size: tuple[int, int] | None) -> tuple[float, float]:
    """Where to zoom in, as shares of width and height: the middle of the surest region, or of the image."""
    boxes = [(region.get("peak") or 0, region["box"]) for region in row["regions"] if region.get("box")]
    if size is None or not boxes:
        return 0.5, 0.5
    x, y, width, height = max(boxes)[1]
    return (x + width / 2) / size[0], (y + height / 2) / size[1]
