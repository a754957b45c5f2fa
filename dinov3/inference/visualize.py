"""The four-panel picture: image, mask overlay, attention, verdict with probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw

from dinov3.data.defect_drawing import (
    HALOS,
    INK,
    LINE,
    PAPER,
    SOFT_INK,
    Color,
    class_color,
    font,
    font_for,
    overlay_mask,
)
from dinov3.defect_display import on_a_line

if TYPE_CHECKING:
    from dinov3.inference.prediction import Prediction
    from dinov3.inference.verdict import NovelPlace


PANEL, MARGIN, TITLE = 400, 16, 34  # pixels
NORMAL_COLOR, ACCEPT_COLOR, REVIEW_COLOR, REJECT_COLOR = (140, 146, 154), (0, 130, 95), (230, 159, 0), (213, 94, 0)
VERDICT_COLORS = {"accept": ACCEPT_COLOR, "review": REVIEW_COLOR, "reject": REJECT_COLOR}
NOVEL_BOX = 22  # half of the side of the square around the place that is least like good parts
MOST_BARS = 7


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
        ("Defect mask", overlay_mask(image, prediction.mask)),
        ("Attention of the classifier", overlay_attention(image, prediction.attention)),
    ]
    if prediction.novel is not None and prediction.novel.counts:
        _mark_novel_place(draw, panels[1][1], prediction.novel, prediction.mask.shape)
    for number, (title, picture) in enumerate(panels):
        left = MARGIN + number * (PANEL + MARGIN)
        draw.text((left, TITLE / 2), title, INK, font(17), anchor="lm")
        draw.rectangle((left, TITLE, left + PANEL - 1, TITLE + PANEL - 1), (240, 242, 244))
        height, width = picture.shape[:2]
        canvas.paste(Image.fromarray(picture), (left + (PANEL - width) // 2, TITLE + (PANEL - height) // 2))
    _draw_heat_scale(canvas, draw, MARGIN + 2 * (PANEL + MARGIN) + PANEL)
    _draw_verdict(draw, MARGIN + 3 * (PANEL + MARGIN), prediction)
    return np.asarray(canvas)


def _fit(image: np.ndarray) -> np.ndarray:
    scale = PANEL / max(image.shape[:2])
    size = [max(round(side * scale), 1) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _mark_novel_place(draw: ImageDraw.ImageDraw, picture: np.ndarray, novel: NovelPlace, size: tuple[int, int]) -> None:
    """A square in ``picture``, of an image of ``size`` (height, width), around the place that is least like good parts;
    and what that means beside the panel's title."""
    x, y = round(novel.x * picture.shape[1] / size[1]), round(novel.y * picture.shape[0] / size[0])
    for line, thickness in zip(HALOS, (4, 2), strict=True):
        cv2.rectangle(picture, (x - NOVEL_BOX, y - NOVEL_BOX), (x + NOVEL_BOX, y + NOVEL_BOX), line, thickness)
    right = 2 * (MARGIN + PANEL)
    draw.text((right, TITLE / 2), "unlike good parts", SOFT_INK, font(13), anchor="rm")
    left = right - round(draw.textlength("unlike good parts", font(13))) - 20
    draw.rectangle((left, TITLE // 2 - 6, left + 12, TITLE // 2 + 6), outline=INK, width=2)


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


def _draw_heat_scale(canvas: Image.Image, draw: ImageDraw.ImageDraw, right: int) -> None:
    ramp = np.arange(256, dtype=np.uint8)[None].repeat(8, axis=0)[:, ::3]
    colors = cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO)[..., ::-1]
    width = colors.shape[1]
    left = right - 34 - width
    canvas.paste(Image.fromarray(np.ascontiguousarray(colors)), (left, TITLE // 2 - 4))
    draw.text((left - 6, TITLE / 2), "low", SOFT_INK, font(13), anchor="rm")
    draw.text((right, TITLE / 2), "high", SOFT_INK, font(13), anchor="rm")


def _draw_verdict(draw: ImageDraw.ImageDraw, left: int, prediction: Prediction) -> None:
    draw.text((left, TITLE / 2), "Verdict", INK, font(17), anchor="lm")
    verdict = prediction.verdict
    draw.rounded_rectangle((left, TITLE, left + PANEL - 1, TITLE + 51), 8, VERDICT_COLORS[verdict])
    text = verdict.upper() + (f": {prediction.predicted_class}" if verdict != "accept" else "")
    text = _shorten(draw, text, PANEL - 32, 26)
    on_color = INK if verdict == "review" else PAPER
    draw.text((left + 16, TITLE + 26), text, on_color, font_for(text, 26), anchor="lm")
    reason = prediction.reason
    for number, line in enumerate(_wrap(draw, reason, PANEL, 15, 2)):
        draw.text((left, TITLE + 70 + 20 * number), line, SOFT_INK, font_for(line, 15), anchor="lm")
    _draw_decision(draw, left, TITLE + 118, prediction)
    end = _draw_classes(draw, left, TITLE + 192, TITLE + PANEL - 22, prediction.probabilities)
    _draw_regions(draw, left, end, prediction)


def _draw_decision(draw: ImageDraw.ImageDraw, left: int, top: int, prediction: Prediction) -> None:
    """The bar that decides: the defect probability, and the limits from which on to review and to reject."""
    draw.text((left, top), "defect probability", INK, font(16), anchor="lm")
    draw.text((left + PANEL, top), f"{prediction.defect_probability:.3f}", INK, font(17), anchor="rm")
    review = prediction.review_threshold
    limits = [("reject", prediction.threshold)]
    if review is not None and review < prediction.threshold:
        limits.insert(0, ("review", review))
    bar = top + 16
    draw.rectangle((left, bar, left + PANEL - 1, bar + 17), _tint(ACCEPT_COLOR))
    for name, limit in limits:
        draw.rectangle((_mark(left, limit), bar, left + PANEL - 1, bar + 17), _tint(VERDICT_COLORS[name]))
    length = round(PANEL * prediction.defect_probability)
    draw.rectangle((left, bar + 4, left + max(length - 1, 0), bar + 13), INK)
    labels = [f"{name} {limit:.3f}" for name, limit in limits]
    widths = [round(draw.textlength(label, font(14))) for label in labels]
    # Each label below its mark, but inside the panel and clear of the other one.
    start = min(
        max(_mark(left, limits[0][1]) - widths[0] // 2, left), left + PANEL - sum(widths) - 10 * len(widths) + 10
    )
    for (name, limit), label, width in zip(limits, labels, widths, strict=True):
        x = _mark(left, limit)
        draw.line((x, bar - 4, x, bar + 21), VERDICT_COLORS[name], 3)
        if label is not labels[0]:
            start = min(max(x - width // 2, start), left + PANEL - width)
        draw.text((start, bar + 32), label, INK, font(14), anchor="lm")
        start += width + 10


def _mark(left: int, limit: float) -> int:
    return left + min(round(PANEL * limit), PANEL - 2)


def _draw_classes(draw: ImageDraw.ImageDraw, left: int, top: int, bottom: int, probabilities: dict[str, float]) -> int:
    """A bar for each class, in its color; of many classes the most probable. Returns where the last one ends."""
    rows = list(enumerate(probabilities.items()))
    if len(rows) > MOST_BARS:
        rows = sorted(sorted(rows, key=lambda row: -row[1][1])[: MOST_BARS - 1])
    pitch = min(36, (bottom - top) // min(len(probabilities), MOST_BARS))
    for number, (index, (name, probability)) in enumerate(rows):
        y, color = top + number * pitch, NORMAL_COLOR if index == 0 else class_color(index)
        name = _shorten(draw, name, PANEL - 60, 15)
        draw.text((left, y + 7), name, INK, font_for(name, 15), anchor="lm")
        draw.text((left + PANEL, y + 7), f"{probability:.3f}", INK, font(15), anchor="rm")
        draw.rectangle((left, y + 18, left + PANEL - 1, y + 24), LINE)
        draw.rectangle((left, y + 18, left + max(round(PANEL * probability) - 1, 0), y + 24), color)
    end = top + len(rows) * pitch
    if len(rows) < len(probabilities):
        more = f"and {len(probabilities) - len(rows)} less probable classes"
        draw.text((left, end + 7), more, SOFT_INK, font(15), anchor="lm")
        end += pitch
    return end


def _draw_regions(draw: ImageDraw.ImageDraw, left: int, top: int, prediction: Prediction) -> None:
    """How many there are, at the bottom; above it the largest, where there is room."""
    count, share = len(prediction.regions), prediction.mask_area_fraction
    text = f"{count} region{'' if count == 1 else 's'}, {_percent(share)} of the area" if count else "no defect region"
    room = (TITLE + PANEL - 26 - top) // 22
    shown = prediction.regions[: max(room, 0)]
    y = TITLE + PANEL - 8 - 22 * len(shown)
    draw.text((left, y), text, INK if shown else SOFT_INK, font(15), anchor="lm")
    for number, region in enumerate(shown, start=1):
        size = f"{region.length:.0f} x {region.width:.0f} px, area {region.area} px"
        draw.text((left + PANEL, y + 22 * number), size, SOFT_INK, font(15), anchor="rm")
        name = _shorten(draw, region.class_name, PANEL - 12 - round(draw.textlength(size, font(15))), 15)
        draw.text((left, y + 22 * number), name, SOFT_INK, font_for(name, 15), anchor="lm")


def _tint(color: Color) -> Color:
    return tuple(round(255 - 0.35 * (255 - channel)) for channel in color)


def _percent(share: float) -> str:
    return f"{share:.2%}" if share >= 0.0001 or share == 0 else "less than 0.01%"


def _wrap(draw: ImageDraw.ImageDraw, text: str, width: int, size: int, most: int) -> list[str]:
    """At most so many lines; the last one is shortened."""
    lines, words = [], text.split()
    while words and len(lines) < most - 1:
        count = 1
        while count < len(words) and draw.textlength(" ".join(words[: count + 1]), font_for(text, size)) <= width:
            count += 1
        lines.append(" ".join(words[:count]))
        words = words[count:]
    return [_shorten(draw, line, width, size) for line in [*lines, " ".join(words)] if line]


def _shorten(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> str:
    text = on_a_line(text[:500])  # which is more than fits
    while len(text) > 1 and draw.textlength(text, font_for(text, size)) > width:
        text = text[:-2].rstrip(" .,;:") + "…"
    return text
