"""What all pictures share: the colours of the classes, fonts, and the overlay of a mask."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from PIL import ImageFont

Color = tuple[int, int, int]

# Okabe and Ito's colour-blind-safe palette (2008, jfly.uni-koeln.de/color), vermillion first; index 0 is background.
CLASS_COLORS: tuple[Color, ...] = (
    (0, 0, 0),
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (0, 114, 178),
)
IGNORE_COLOR = (128, 128, 128)
INK, SOFT_INK, LINE, PAPER = (32, 36, 42), (90, 96, 104), (222, 225, 229), (255, 255, 255)
HALOS = (16, 18, 22), (255, 255, 255)  # beside outlines, on lighter and on darker surfaces
DARK = 100  # brightness, of 255, below which a surface is
MOST_RINGS = 40  # regions that are too small to see get a ring, unless there are too many
# Fonts with Chinese, Japanese and Korean glyphs that Windows, macOS and Linux come with.
CJK_FONTS = ("msyh.ttc", "simhei.ttf", "PingFang.ttc", "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc")


def class_color(index: int) -> Color:
    """RGB colour (0 to 255) of a class index; the seven defect colours repeat from index 8 on."""
    return CLASS_COLORS[0] if index == 0 else CLASS_COLORS[1 + (index - 1) % (len(CLASS_COLORS) - 1)]


def hex_color(color: Color) -> str:
    """``#rrggbb`` of red, green and blue from 0 to 255."""
    return "#%02x%02x%02x" % color  # noqa: UP031 (the f-string is unreadable)


@lru_cache
def font(size: int, cjk: bool = False) -> ImageFont.FreeTypeFont:
    """Pillow's own scalable font, so that pictures look the same everywhere; ``cjk``: one of the system's, if any."""
    for name in CJK_FONTS if cjk else ():
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that has the glyphs of ``text``; class names may be in any script."""
    return font(size, cjk=any(ord(character) > 0x2E7F for character in text))


def _shrink_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a class mask to (height, width); each pixel gets the highest class it covers, so nothing is lost."""
    height, width = mask.shape
    if height > size[0]:  # in slices: ten times as fast as reduceat along this axis
        edges = np.arange(size[0] + 1) * height // size[0]
        mask = np.stack([mask[start:end].max(axis=0) for start, end in zip(edges, edges[1:], strict=False)])
    if width > size[1]:
        mask = np.maximum.reduceat(mask, np.arange(size[1]) * width // size[1], axis=1)
    return cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)


def overlay_mask(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Class-colored fill and outline of ``mask`` (H, W) over ``image`` (h, w, 3) uint8 RGB.

    The outline runs around the defect, which stays visible; regions too small to notice get a ring.
    """
    mask = _shrink_mask(mask, image.shape[:2])
    left, top, width, height = cv2.boundingRect(mask)
    result = image.copy()
    if not width:
        return result
    window = mask[top : top + height, left : left + width]
    for value in np.flatnonzero(np.bincount(window.ravel())[1:]) + 1:
        color, area = class_color(int(value)), cv2.inRange(mask, int(value), int(value))
        result[area > 0] = (0.7 * result[area > 0] + 0.3 * np.array(color)).astype(np.uint8)
        around = cv2.dilate(area, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
        outlines, _ = cv2.findContours(around, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        boxes = [cv2.boundingRect(outline) for outline in outlines]
        small = [box for box in boxes if max(box[2:]) < 20]
        rings = [(x + w // 2, y + h // 2) for x, y, w, h in small] if len(small) <= MOST_RINGS else []
        nearby = cv2.dilate(around, np.ones((9, 9), np.uint8)) - around
        halo = HALOS[sum(cv2.mean(image, nearby)) / 3 < DARK]
        for line, thickness in ((halo, 4), (color, 2)):
            cv2.drawContours(result, outlines, -1, line, thickness, cv2.LINE_AA)
            for center in rings:
                cv2.circle(result, center, 17, line, thickness, cv2.LINE_AA)
    return result
