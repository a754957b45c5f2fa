"""A page's session, in place of the key that it was given."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from dinov3.defect_serving.errors import RequestError
from dinov3.defect_serving.gate import COOKIE
from dinov3.defect_serving.keys import session_token
from dinov3.defect_serving.service import Service
from dinov3.defect_station.screens.requests import read_form, text_of

LONGEST_KEY = 1000
SECONDS = 180 * 24 * 3600  # until a browser asks again


def router(service: Service) -> APIRouter:
    """The routes by which a page comes and goes."""
    routes = APIRouter()

    @routes.post("/session")
    async def come(request: Request) -> JSONResponse:
        """With a key, a cookie that scripts cannot read and that other sites' pages do not send."""
        key = text_of(await read_form(request, service), "key", LONGEST_KEY)
        name = None if service.keys is None else service.keys.name_of(key)
        if name is None:
            raise RequestError(401, "the server does not know this key")
        answer = JSONResponse({"name": name})
        secure = request.url.scheme == "https"
        token = session_token(key.encode())
        answer.set_cookie(COOKIE, token, max_age=SECONDS, httponly=True, samesite="strict", secure=secure)
        return answer

    @routes.post("/session/end")
    async def go(request: Request) -> JSONResponse:
        """Forget the key."""
        await read_form(request, service)
        answer = JSONResponse({})
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    return routes
