"""The application: the gate, and the routes behind it."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from dinov3 import __version__
from dinov3.defect_serving.errors import RequestError
from dinov3.defect_serving.gate import Gate
from dinov3.defect_serving.routes import drift, health, inspect, model, page, parts
from dinov3.defect_serving.service import Service

ABOUT = """Send images, get verdicts.

An answer without `verdict` never means that a part is good: an error, an overload or a time-out has none.
Each answer names the model that gave it, and `X-Model-Fingerprint` the one in use."""


def create_app(service: Service) -> FastAPI:
    """The application of one service; more routes may be added to it (``app.include_router``)."""
    app = FastAPI(
        title="DINOv3 defect inspection",
        version=__version__,
        description=ABOUT,
        docs_url=None,  # these pages load scripts from outside
        redoc_url=None,
    )
    app.state.service = service
    app.add_middleware(Gate, service=service)
    for routes in (inspect, parts, model, drift, health):
        app.include_router(routes.router(service))
    if service.store is None:
        app.include_router(page.router(service))
    else:
        from dinov3.defect_station import screens  # needs the extra 'station'

        app.include_router(screens.router(service, service.store))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    return app


async def _http_error(request: Request, error: HTTPException) -> None:
    headers = dict(error.headers or {})
    if error.status_code == 405:  # Starlette names the methods of the first route that has this path
        methods = request.app.openapi()["paths"].get(request.url.path, {})
        headers["Allow"] = ", ".join(sorted(map(str.upper, methods))) or headers.get("Allow", "")
    raise RequestError(error.status_code, str(error.detail), headers=headers) from None


async def _validation_error(request: Request, error: RequestValidationError) -> None:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    raise RequestError(422, f"{place}: {first['msg']}") from None
