"""The four-panel picture: what must be visible in it, at any size, for any classes."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from dinov3.data.defect_drawing import class_color, overlay_mask
from dinov3.inference.regions import measure_regions
from dinov3.inference.visualize import ACCEPT_COLOR, REJECT_COLOR, REVIEW_COLOR, draw_panels, overlay_attention

OKABE_ITO = {"E69F00", "56B4E9", "009E73", "F0E442", "0072B2", "D55E00", "CC79A7"}
LONG = "涂层变色以及其他外观不良的非常非常长的类别名称用于测试版面"
CHINESE = ["正常", "划痕", "气孔与凹坑", "夹杂物", LONG, "边缘崩角"]


def prediction(mask: np.ndarray, classes: list[str], defect: float = 0.9, **changes: object) -> SimpleNamespace:
    """What a predictor says of an image, as far as the picture shows it."""
    shares = [1 - defect, *[defect / (len(classes) - 1)] * (len(classes) - 1)]
    fields = {
        "verdict": "reject",
        "predicted_class": classes[1],
        "probabilities": dict(zip(classes, shares, strict=True)),
        "defect_probability": defect,
        "threshold": 0.4,
        "review_threshold": 0.2,
        "novel": None,
        "reason": "defect probability 0.90 >= 0.40",
        "mask": mask,
        "attention": np.full((8, 8), 1 / 64, np.float32),
        "regions": measure_regions(mask, classes[1:], np.ones(mask.shape, np.float32)),
        "mask_area_fraction": float((mask > 0).mean()),
    }
    return SimpleNamespace(**(fields | changes))


def panel(picture: np.ndarray, number: int) -> np.ndarray:
    """(400, 400, 3) int: image, mask, attention or verdict."""
    left = 16 + 416 * number
    return picture[34:434, left : left + 400].astype(int)


def has(picture: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((np.abs(picture - color).sum(axis=2) < 30).any())


def test_every_defect_color_is_of_okabe_and_itos_palette() -> None:
    assert {"{:02X}{:02X}{:02X}".format(*class_color(i)) for i in range(1, 8)} == OKABE_ITO


@pytest.mark.parametrize("size", [(200, 200), (6000, 8000), (10, 900), (900, 10), (1, 1)])
def test_a_defect_of_one_pixel_is_visible_in_images_of_any_size(size: tuple[int, int]) -> None:
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 2, size[1] // 2] = 1
    scale = min(640 / max(size), 1)
    image = np.full((max(round(size[0] * scale), 1), max(round(size[1] * scale), 1), 3), 128, np.uint8)
    picture = draw_panels(image, prediction(mask, CHINESE))
    assert picture.shape == (450, 1680, 3) and picture.dtype == np.uint8
    if max(size) > 1:
        assert has(panel(picture, 1), class_color(1))
    assert not has(panel(picture, 0), class_color(1))


@pytest.mark.parametrize("brightness", [0, 60, 128, 200, 255])
@pytest.mark.parametrize("value", range(1, 8))
def test_an_outline_stands_out_from_any_background(brightness: int, value: int) -> None:
    """Somewhere around the defect the luminance contrast to the background is 3 to 1, as WCAG asks of graphics."""
    image = np.full((200, 200, 3), brightness, np.uint8)
    mask = cv2.circle(np.zeros((200, 200), np.uint8), (100, 100), 30, value, -1)
    drawn = overlay_mask(image, mask)
    ring = (cv2.circle(np.zeros((200, 200), np.uint8), (100, 100), 34, 1, 8) > 0) & (drawn != image).any(axis=2)

    def luminance(rgb: np.ndarray) -> np.ndarray:
        return (rgb / 255.0) ** 2.2 @ [0.2126, 0.7152, 0.0722] + 0.05

    light, ground = luminance(drawn[ring]), luminance(np.full(3, brightness))
    assert max(light.max() / ground, ground / light.min()) > 3


def test_a_thin_defect_stays_visible_inside_its_outline() -> None:
    image = np.full((400, 400, 3), 200, np.uint8)
    mask = cv2.line(np.zeros((400, 400), np.uint8), (50, 50), (350, 200), 1, 2)
    image[mask > 0] = 20
    drawn = overlay_mask(image, mask)
    assert drawn[mask > 0].mean(axis=0)[2] < 60  # still dark
    assert (drawn[cv2.erode(255 - mask * 255, np.ones((31, 31))) > 0] == 200).all()  # and nothing far from it changes


def test_a_clean_image_is_left_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    assert (overlay_mask(image, np.zeros((600, 600), np.uint8)) == image).all()
    even = overlay_attention(np.full((50, 50, 3), 100, np.uint8), np.full((8, 8), 1 / 64, np.float32))
    assert (
        even.std(axis=(0, 1)).max() < 1 and even.mean() < 90
    )  # no blown-up noise where the classifier looks everywhere alike


def test_a_few_specks_get_rings_and_thousands_do_not() -> None:
    image = np.full((400, 400, 3), 255, np.uint8)
    few, many = np.zeros((400, 400), np.uint8), np.zeros((400, 400), np.uint8)
    few[200, 200] = 1
    many[::8, ::8] = 1
    assert has(overlay_mask(image, few)[200:201, 214:220].astype(int), class_color(1))
    start = time.process_time()
    overlay_mask(image, many)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("verdict", "color"), [("accept", ACCEPT_COLOR), ("review", REVIEW_COLOR), ("reject", REJECT_COLOR)]
)
def test_the_verdict_has_its_color_and_words(verdict: str, color: tuple[int, int, int]) -> None:
    mask = np.zeros((64, 64), np.uint8)
    pictures = [
        panel(draw_panels(np.zeros((64, 64, 3), np.uint8), prediction(mask, ["normal", name], verdict=verdict)), 3)
        for name in ("crack", "spot")
    ]
    assert (pictures[0][4, 50:350] == color).all()
    named = (pictures[0][:52] != pictures[1][:52]).any()
    assert named == (verdict != "accept")
    silent = draw_panels(np.zeros((64, 64, 3), np.uint8), prediction(mask, ["normal", "crack"], reason=""))
    assert (panel(silent, 3)[60:95] == 255).all() and (pictures[0][60:95] < 255).any()


@pytest.mark.parametrize(("review", "reject"), [(0.2, 0.4), (0.0, 1.0), (0.39, 0.4), (None, 0.7), (0.98, 1.0)])
def test_both_limits_are_marked_where_they_are(review: float | None, reject: float) -> None:
    mask = np.zeros((64, 64), np.uint8)
    drawn = prediction(mask, ["normal", "crack"], threshold=reject, review_threshold=review)
    picture = draw_panels(np.zeros((64, 64, 3), np.uint8), drawn)
    row = panel(picture, 3)[131]
    found = {c: np.flatnonzero(np.abs(row - c).sum(axis=1) < 30) for c in (REVIEW_COLOR, REJECT_COLOR)}
    assert abs(found[REJECT_COLOR].mean() - 400 * reject) < 3
    if review is None:
        assert not len(found[REVIEW_COLOR])
    else:
        assert abs(found[REVIEW_COLOR].min() - 400 * review) < 5


@pytest.mark.parametrize("limits", list(itertools.combinations([0.0, 0.05, 0.52, 0.996, 1.0], 2)))
@pytest.mark.parametrize("classes", [["normal", "x" * 90], CHINESE, [f"type {i}" for i in range(15)]])
def test_nothing_is_drawn_beyond_the_panel(limits: tuple[float, float], classes: list[str]) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[10:20, 10:20] = 1
    drawn = prediction(
        mask, classes, threshold=limits[1], review_threshold=limits[0], reason="rule max_length_mm " + "long " * 60
    )
    picture = draw_panels(np.zeros((64, 64, 3), np.uint8), drawn)
    assert (picture[:, -14:] == 255).all() and (picture[435:] == 255).all() and (picture[40:, 1250:1262] == 255).all()
