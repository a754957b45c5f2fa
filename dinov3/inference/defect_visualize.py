"""The four-panel picture: image, mask overlay, attention, probabilities."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dinov3.data.defect_images import class_color

if TYPE_CHECKING:
    from dinov3.inference.defect_predictor import Prediction

PANEL, MARGIN, TITLE = 400, 16, 34  # pixels
INK, SOFT_INK, LINE, PAPER = (32, 36, 42), (110, 116, 124), (222, 225, 229), (255, 255, 255)
NORMAL_COLOR, REJECT_COLOR, ACCEPT_COLOR = (140, 146, 154), (213, 94, 0), (0, 130, 95)


# Fonts with Chinese, Japanese and Korean glyphs that Windows, macOS and Linux come with.
CJK_FONTS = ("msyh.ttc", "simhei.ttf", "PingFang.ttc", "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc")


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


def draw_panels(image: np.ndarray, prediction: Prediction) -> np.ndarray:
    """Draw the picture.

    Args:
        image: (h, w, 3) uint8 RGB, the input at any size.
        prediction: its mask is resized to ``image``.

    Returns:
        (450, 1680, 3) uint8 RGB.
    """
    image = _fit(image)
    width = 4 * PANEL + 5 * MARGIN
    canvas = Image.new("RGB", (width, TITLE + PANEL + MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    panels = [
        ("Image", image),
        ("Predicted mask", overlay_mask(image, prediction.mask)),
        ("Attention", overlay_attention(image, prediction.attention)),
    ]
    for number, (title, picture) in enumerate(panels):
        left = MARGIN + number * (PANEL + MARGIN)
        draw.text((left, TITLE / 2), title, INK, font(17), anchor="lm")
        draw.rectangle((left, TITLE, left + PANEL - 1, TITLE + PANEL - 1), (246, 247, 248))
        height, width = picture.shape[:2]
        canvas.paste(Image.fromarray(picture), (left + (PANEL - width) // 2, TITLE + (PANEL - height) // 2))
    _draw_verdict(draw, MARGIN + 3 * (PANEL + MARGIN), prediction)
    return np.asarray(canvas)


def _fit(image: np.ndarray) -> np.ndarray:
    scale = PANEL / max(image.shape[:2])
    size = [max(round(side * scale), 1) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _shrink_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a class mask (height, width), keeping defects that are smaller than a pixel of the result."""
    if mask.shape[0] <= size[0]:
        return cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
    result = np.zeros(size, np.uint8)
    for value in np.unique(mask[mask > 0]):
        share = cv2.resize((mask == value).astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        result[share > 0.25 if share.max() > 0.25 else share > 0] = value
    return result


def overlay_mask(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Class-coloured fill and outline of ``mask`` (H, W) over ``image`` (h, w, 3)."""
    mask = _shrink_mask(mask, image.shape[:2])
    result = image.copy()
    for value in np.unique(mask[mask > 0]):
        color, area = np.array(class_color(int(value))), mask == value
        result[area] = (0.6 * result[area] + 0.4 * color).astype(np.uint8)
        contours, _ = cv2.findContours(area.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(result, contours, -1, (255, 255, 255), 3, cv2.LINE_AA)
        cv2.drawContours(result, contours, -1, color.tolist(), 2, cv2.LINE_AA)
    return result


def overlay_attention(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Pooling weights (h', w') as a heat map over the grey ``image``.

    The scale ends at the largest weight, but not below ten times the even weight: on a clean image, where the
    classifier looks everywhere alike, the map stays dark instead of showing blown-up noise.
    """
    scale = max(float(attention.max()), 10.0 / attention.size)
    heat = cv2.resize(attention / scale, image.shape[1::-1], interpolation=cv2.INTER_LINEAR).clip(0, 1)
    colors = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(grey, 0.45, np.ascontiguousarray(colors), 0.55, 0)


def _draw_verdict(draw: ImageDraw.ImageDraw, left: int, prediction: Prediction) -> None:
    draw.text((left, TITLE / 2), "Verdict", INK, font(17), anchor="lm")
    reject = prediction.verdict == "reject"
    color = REJECT_COLOR if reject else ACCEPT_COLOR
    draw.rounded_rectangle((left, TITLE, left + PANEL, TITLE + 62), 8, color)
    text = prediction.verdict.upper() + (f": {prediction.predicted_class}" if reject else "")
    text = _shorten(draw, text, PANEL - 36, 26)
    draw.text((left + 18, TITLE + 31), text, PAPER, font_for(text, 26), anchor="lm")
    top = TITLE + 84
    line = f"defect probability {prediction.defect_probability:.3f}, threshold {prediction.threshold:.3f}"
    draw.text((left, top), line, INK, font(16), anchor="lm")
    # The bar that decides: defect probability against the threshold.
    top += 18
    draw.rectangle((left, top, left + PANEL, top + 22), LINE)
    draw.rectangle((left, top, left + round(PANEL * prediction.defect_probability), top + 22), color)
    mark = left + round(PANEL * prediction.threshold)
    draw.line((mark, top - 5, mark, top + 27), INK, 3)
    top += 48
    rows = list(prediction.probabilities.items())
    pitch = min(34, (TITLE + PANEL - 40 - top) // max(len(rows), 1))
    for index, (name, probability) in enumerate(rows):
        y, bar = top + index * pitch, left + 130
        size = min(15, pitch - 6)
        draw.text((left, y + size / 2), _shorten(draw, name, 122, size), INK, font_for(name, size), anchor="lm")
        draw.rectangle((bar, y, left + PANEL - 54, y + size), LINE)
        length = round((left + PANEL - 54 - bar) * probability)
        draw.rectangle((bar, y, bar + length, y + size), NORMAL_COLOR if index == 0 else class_color(index))
        draw.text((left + PANEL, y + size / 2), f"{probability:.3f}", INK, font(size), anchor="rm")
    count, share = len(prediction.regions), prediction.mask_area_fraction
    found = f"{count} region{'' if count == 1 else 's'}, {share:.2%} of the area" if count else "no defect region"
    draw.text((left, TITLE + PANEL - 10), found, SOFT_INK, font(15), anchor="lm")


def _shorten(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> str:
    while len(text) > 1 and draw.textlength(text, font_for(text, size)) > width:
        text = text[:-2].rstrip() + "…"
    return text
