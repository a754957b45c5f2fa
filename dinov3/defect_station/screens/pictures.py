"""Inspected images as a browser can show them, with the mask drawn in or without."""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from dinov3.data.defect_drawing import overlay_mask
from dinov3.data.defect_images import ImageReadError, exif_orientation, open_file, read_for_size
from dinov3.defect_serving.errors import RequestError
from dinov3.defect_serving.gate import expect_key
from dinov3.defect_serving.service import Service
from dinov3.defect_station.screens.requests import database_errors
from dinov3.defect_station.store import Store

SIDES = {"small": 400, "medium": 1280, "full": 6000}  # of the longer side, in pixels
KEPT = 128  # pictures in memory, a few hundred kB at most each but for full ones
AT_A_TIME = threading.BoundedSemaphore(2)  # decoded at a time: inspection comes first
Polygons = tuple[tuple[int, tuple[tuple[int, int], ...]], ...]  # class, from 1, and corners
HEADERS = {"Cross-Origin-Resource-Policy": "same-origin"}


def router(service: Service, store: Store) -> APIRouter:
    """The route of pictures."""
    routes = APIRouter()

    @routes.get("/images/{image}/picture")
    def picture(
        request: Request, image: int, size: Literal["small", "medium", "full"] = "small", mask: bool = False
    ) -> Response:
        """A JPEG file. 404: there is no such image, or its file is not kept or gone."""
        expect_key(request, service.keys)
        with database_errors():
            row = next(iter(store.rows(id=min(image, 2**63 - 1))), None)
        if row is None or not row["image_path"]:
            raise RequestError(404, f"image {image}: no picture is kept")
        facts = service.models.current.predictor.engine.facts
        draw = _draw.__wrapped__ if size == "full" else _draw
        mask_of = (row["mask_path"], _polygons(row, facts.mask_classes)) if mask else ("", ())
        try:
            with AT_A_TIME:
                content = draw(row["image_path"], SIDES[size], facts.white_level, *mask_of)
        except ImageReadError as error:
            raise RequestError(404, f"image {image}: cannot be shown ({error})") from None
        return Response(content, media_type="image/jpeg", headers=HEADERS)

    return routes


def image_size(path: str) -> tuple[int, int] | None:
    """Width and height of an image file as it is shown; None: it is gone or none."""
    try:
        with open_file(Path(path)) as image:
            width, height = image.size
        return (height, width) if exif_orientation(path) >= 5 else (width, height)
    except (ImageReadError, OSError):
        return None


def _polygons(row: dict[str, Any], classes: tuple[str, ...]) -> Polygons:
    """Of the regions."""
    index = {name: number for number, name in enumerate(classes, start=1)}
    return tuple(
        (index.get(region.get("class_name", ""), 1), tuple(map(tuple, region["polygon"])))
        for region in row["regions"]
        if region.get("polygon")
    )


@lru_cache(KEPT)
def _draw(path: str, side: int, white_level: int, mask_path: str, polygons: Polygons) -> bytes:
    """A JPEG file of an image whose longer side is at most ``side`` pixels; the mask is that of the file or, if there
    is none, of the outlines."""
    try:
        image, (height, width) = read_for_size(Path(path), (side, side), white_level)
    except ImageReadError:  # brighter than the camera's range
        image, (height, width) = read_for_size(Path(path), (side, side))
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size != image.shape[1::-1]:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    mask = _mask(mask_path, polygons, (height, width))
    if mask is not None:
        image = overlay_mask(image, mask)
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


def _mask(path: str, polygons: Polygons, shape: tuple[int, int]) -> np.ndarray | None:
    if path:
        try:
            with open_file(Path(path)) as file:
                mask = np.asarray(file)
            if mask.ndim == 2 and mask.dtype == np.uint8 and mask.shape == shape:
                return mask
        except (ImageReadError, OSError, ValueError):
            pass  # it may have been removed; the outlines remain
    if not polygons:
        return None
    mask = np.zeros(shape, np.uint8)
    for value, corners in polygons:
        cv2.fillPoly(mask, [np.array(corners, np.int32)], int(value))
    return mask
