"""Images with their true mask and, beside it, the predicted one: one by one, and as a sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from dinov3.data.defect_drawing import INK, SOFT_INK, font, font_for, overlay_mask
from dinov3.data.defect_images import ImageReadError, read_image
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_masks import defect_pixels, read_mask
from dinov3.defect_display import on_a_line

SIDE, GAP, TEXT, HEADER = 320, 6, 52, 56  # pixels: of each picture, between the two, below them, on top of a sheet
GROUND = (244, 245, 247)


@dataclass(frozen=True)
class Pair:
    """One image.

    Attributes:
        name: as in the manifest.
        note: what there is to say of it, in English and in Chinese.
        picture: (SIDE, 2 * SIDE + GAP, 3) uint8.
    """

    name: str
    note: tuple[str, str]
    picture: np.ndarray


def draw_pair(rows: Manifest, number: int, note: tuple[str, str], predict: Callable[[Path], np.ndarray]) -> Pair | None:
    """Row ``number`` of a manifest; None if it cannot be read any more.

    Args:
        predict: an image file to its predicted mask, (H, W) uint8 of mask classes.
    """
    name, mask_name = str(rows.columns["image"][number]), str(rows.columns["mask"][number])
    try:
        image = read_image(rows.root / name)
        truth = read_mask(rows.root / mask_name) if mask_name else None
        predicted = predict(rows.root / name)
    except ImageReadError:
        return None
    if truth is not None:
        truth = np.where(defect_pixels(truth), truth, 0).astype(np.uint8)  # ignored pixels are no class
    return Pair(name, note, beside_each_other(image, truth, predicted))


def beside_each_other(image: np.ndarray, left: np.ndarray | None, right: np.ndarray | None) -> np.ndarray:
    """(SIDE, 2 * SIDE + GAP, 3) uint8: an (H, W, 3) uint8 image twice, each time with a mask (H, W) uint8 of mask
    classes unless None."""
    scale = SIDE / max(image.shape[:2])
    size = [max(round(side * scale), 1) for side in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    pictures = [small if mask is None else overlay_mask(small, mask) for mask in (left, right)]
    return np.hstack([_square(pictures[0]), _square(None), _square(pictures[1])])


def _square(picture: np.ndarray | None) -> np.ndarray:
    """(SIDE, SIDE, 3) with the picture in the middle; the strip between two pictures for None."""
    canvas = np.full((SIDE, GAP if picture is None else SIDE, 3), GROUND, np.uint8)
    if picture is not None:
        height, width = picture.shape[:2]
        y, x = (SIDE - height) // 2, (SIDE - width) // 2
        canvas[y : y + height, x : x + width] = picture
    return canvas


def draw_sheet(title: str, pairs: Sequence[Pair], path: Path) -> None:
    """Write a PNG of all pairs with their names and notes; ``pairs`` may be empty."""
    width, height = 2 * SIDE + GAP, SIDE + TEXT
    columns = min(max(len(pairs), 1), 2)
    lines = max(-(-len(pairs) // columns), 1)
    sheet = Image.new("RGB", (columns * (width + 24) + 24, HEADER + lines * (height + 16)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((24, HEADER / 2), title, INK, font_for(title, 20), anchor="lm")
    if not pairs:
        draw.text((24, HEADER + 24), "none", SOFT_INK, font(16), anchor="lm")
    for place, pair in enumerate(pairs):
        x, y = 24 + place % columns * (width + 24), HEADER + place // columns * (height + 16)
        sheet.paste(Image.fromarray(pair.picture), (x, y))
        name = on_a_line(pair.name)
        name = name if len(name) <= 70 else "…" + name[-69:]
        draw.text((x, y + SIDE + 14), name, INK, font_for(name, 15), anchor="lm")
        note = on_a_line(pair.note[0])
        draw.text((x, y + SIDE + 34), note, SOFT_INK, font_for(note, 14), anchor="lm")
    sheet.save(path)
