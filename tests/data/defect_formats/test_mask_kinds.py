"""Masks with a value for each kind of defect: none is lost, and what is ambiguous is asked about once."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from helpers.import_layouts import write_ksdd2, write_loco, write_mvtec
from helpers.organizing import picture, save
from helpers.reading import read_folders, read_source
from PIL import Image

from dinov3.data.defect_formats.mask_rules import MaskRules, mask_value, survey_masks
from dinov3.data.defect_formats.masks import read_foreign_mask
from dinov3.data.defect_masks import write_mask
from dinov3.defect_errors import DefectError

SIDE = 32
AREAS = np.zeros((SIDE, SIDE), np.uint8)  # three kinds: an area, one that touches it, a line of one pixel
AREAS[2:10, 2:12], AREAS[10:14, 2:12], AREAS[20, 3:29] = 1, 2, 3


def painted(*values: object, background: object = 0) -> np.ndarray:
    return np.array([background, *values], np.uint16 if max(np.ravel(values)) > 255 else np.uint8)[AREAS]


def read_one(tmp_path, image: Image.Image | np.ndarray, rules: MaskRules | None = None, **options: object):
    path = tmp_path / "m.png"
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)
    return read_foreign_mask(path, (SIDE, SIDE), rules=survey_masks([path], rules or MaskRules()))


@pytest.mark.parametrize(
    "values",
    [
        (30, 90, 200),
        (200, 90, 30),
        (1, 128, 255),
        (254, 253, 252),
        (40, 41, 42),
        (1000, 30_000, 65_000),
        ((128, 0, 0), (0, 128, 0), (0, 0, 64)),
        ((1, 2, 3), (10, 200, 30), (255, 255, 255)),
        ((64, 0, 128), (220, 220, 0), (0, 0, 1)),
    ],
)
def test_every_value_is_a_defect(tmp_path, values):
    mask, remarks = read_one(tmp_path, painted(*values, background=[0, 0, 0] if isinstance(values[0], tuple) else 0))
    np.testing.assert_array_equal(mask, AREAS > 0)
    assert not remarks


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_a_grey_for_each_kind_in_any_mode(tmp_path, mode):
    mask, remarks = read_one(tmp_path, Image.fromarray(painted(38, 75, 113)).convert(mode))
    np.testing.assert_array_equal(mask, AREAS > 0)
    assert not remarks


@pytest.mark.parametrize("faint", [60, 110])
@pytest.mark.parametrize("save_as", ["png", "jpg"])
def test_a_dark_kind_beside_a_bright_one_with_soft_edges(tmp_path, faint, save_as):
    drawn = np.zeros((240, 240), np.uint8)
    drawn[20:90, 20:90], drawn[90:150, 20:90], drawn[180:220, 120:220] = 255, faint, faint
    cv2.line(drawn, (110, 20), (220, 140), faint, 3)
    soft = cv2.GaussianBlur(drawn, (0, 0), 0.7)
    path = tmp_path / f"m.{save_as}"
    Image.fromarray(soft).save(path)
    mask, remarks = read_foreign_mask(path, soft.shape, rules=survey_masks([path], MaskRules()))
    missed = (drawn > 0) & (mask == 0)
    assert missed.sum() < 0.01 * (drawn > 0).sum()
    assert ((mask > 0) & (cv2.dilate(drawn, np.ones((5, 5), np.uint8)) == 0)).sum() == 0
    assert "cut at half" in remarks[0][0]


def test_a_fine_line_that_is_nowhere_bright(tmp_path):
    fine = np.zeros((4 * SIDE, 4 * SIDE), np.uint8)
    fine[20:80, 10:60] = 255
    cv2.line(fine, (80, 5), (120, 120), 255, 1, cv2.LINE_8)
    small = cv2.resize(fine, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    assert small[:, 18:].max() < 128
    mask, _ = read_one(tmp_path, small)
    assert (mask[:, 18:] > 0).any(axis=1).sum() >= 25  # in each row that it crosses


@pytest.mark.parametrize(("alpha", "kept"), [(40, 1), (255, 3), (130, 3)])
def test_what_is_less_than_half_visible_is_no_defect(tmp_path, alpha, kept):
    shown = np.array([0, 255, alpha, alpha], np.uint8)[np.where(AREAS == 3, 0, AREAS)]
    rgba = np.dstack([np.full_like(AREAS, 200), np.full_like(AREAS, 30), AREAS, shown])
    expected = (AREAS == 1) | ((AREAS == 2) & (kept == 3))
    for image in (Image.fromarray(rgba), Image.fromarray(rgba).convert("LA")):
        np.testing.assert_array_equal(read_one(tmp_path, image)[0], expected)


def test_a_palette_whose_indices_have_an_alpha_each(tmp_path):
    image = Image.fromarray(AREAS)
    image.putpalette([0, 0, 0, 200, 0, 0, 200, 0, 0, 0, 200, 0])
    mask, _ = read_one(tmp_path, image, transparency=bytes([0, 255, 20, 255]))
    np.testing.assert_array_equal(mask, (AREAS == 1) | (AREAS == 3))


@pytest.mark.parametrize("value", [1, 2, 3])
def test_a_colour_that_is_transparent_is_background(tmp_path, value):
    mask, _ = read_one(tmp_path, Image.fromarray(painted(90, 150, 210)), transparency=(0, 90, 150, 210)[value])
    np.testing.assert_array_equal(mask, (AREAS > 0) & (AREAS != value))


# --- ignored pixels


@pytest.mark.parametrize("kind", ["grey", "palette", "16 bit", "VOC colours", "own"])
def test_255_beside_class_indices_is_ignored(tmp_path, kind):
    indices = np.where(AREAS == 2, 255, AREAS).astype(np.uint8)
    image: Image.Image | np.ndarray = indices
    if kind == "palette":
        image = Image.fromarray(indices)
        image.putpalette([*np.random.default_rng(0).integers(1, 256, 765).tolist(), 224, 224, 192])
    elif kind == "16 bit":
        image = np.where(indices == 255, 65535, indices).astype(np.uint16)
    elif kind == "VOC colours":
        image = np.array([(0, 0, 0), (128, 0, 0), (224, 224, 192), (0, 128, 0)], np.uint8)[AREAS]
    elif kind == "own":
        write_mask(tmp_path / "m.png", indices)
        image = Image.open(tmp_path / "m.png")
    mask, remarks = read_one(tmp_path, image)
    np.testing.assert_array_equal(mask, np.select([AREAS == 2, AREAS > 0], [255, 1], 0))
    assert remarks or kind == "own"


def organized(tmp_path, *masks: np.ndarray, rules: MaskRules | None = None):
    for i, mask in enumerate(masks):
        save(tmp_path / "bad" / f"{i}.png", picture(i))
        save(tmp_path / "masks" / f"{i}.png", mask)
    for i in range(2):
        save(tmp_path / "good" / f"{i}.png", picture(50 + i))
    return read_folders(tmp_path / "bad", tmp_path / "masks", tmp_path / "good", rules)


def test_a_set_that_uses_255_in_two_ways_is_asked_about_once(tmp_path):
    """Ignored beside class indices, or a defect where it is alone: only its owner knows."""
    masks = [painted(1, 255, 2), painted(255, 255, 255), painted(255, 0, 0)]
    with pytest.raises(DefectError, match="--mask_ignored none or --mask_ignored 255") as asked:
        organized(tmp_path, *masks)
    assert str(asked.value).count("Say") == 1 and "2 masks hold it alone" in str(asked.value)
    as_defects = organized(tmp_path, *masks, rules=MaskRules(ignored=()))
    assert as_defects.pixels("bad/1.png") == np.count_nonzero(AREAS)
    ignored = organized(tmp_path, *masks, rules=MaskRules(ignored=mask_value("255")))
    assert (ignored.pixels("bad/1.png"), ignored.pixels("bad/0.png")) == (0, int((AREAS % 2).sum()))
    assert ignored.pixels("bad/2.png", 255) == int((AREAS == 1).sum())


def test_a_few_stray_pixels_do_not_make_255_ignored(tmp_path):
    stray = (AREAS > 0) * np.uint8(255)
    stray[0, 0] = 7
    with pytest.raises(DefectError, match="255 beside class indices"):
        organized(tmp_path, stray)


# --- background


def test_the_background_of_a_set_is_that_of_each_of_its_masks(tmp_path):
    """A mask that is all defect, in two colours, has no background."""
    full = np.where(AREAS[..., None] > 0, np.uint8([0, 200, 0]), np.uint8([200, 0, 0]))
    found = organized(tmp_path, painted((200, 0, 0), (0, 200, 0), (9, 9, 9), background=[0, 0, 0]), full)
    assert found.pixels("bad/1.png") == SIDE * SIDE
    grey = organized(tmp_path / "grey", painted(80, 120, 160), np.where(AREAS > 0, 120, 80).astype(np.uint8))
    assert grey.pixels("bad/1.png") == SIDE * SIDE


def test_a_common_background_that_is_not_black_is_said(tmp_path):
    white = [
        np.array([(255, 255, 255), color, (9, 200, 9), color], np.uint8)[AREAS] for color in ((200, 0, 0), (0, 0, 90))
    ]
    found = organized(tmp_path, *white)
    assert found.pixels("bad/0.png") == found.pixels("bad/1.png") == np.count_nonzero(AREAS)
    assert "#ffffff" in found.said


@pytest.mark.parametrize(
    ("values", "background"),
    [
        ([(255, 255, 255), (0, 0, 0), (200, 0, 0), (0, 0, 0)], "#ffffff"),
        ([255, 0, 128, 0], "255"),
        ([(90, 0, 0), (0, 0, 90), (0, 90, 0), (0, 0, 90)], "#5a0000"),
    ],
)
def test_an_open_background_is_asked_about_and_can_be_said(tmp_path, values, background):
    mask = np.array(values, np.uint8)[AREAS]
    if values[0] == (90, 0, 0):
        mask[18:25], mask[25:] = (0, 0, 90), (0, 90, 0)  # no colour is most of it
    with pytest.raises(DefectError, match="which is background"):
        organized(tmp_path, mask)
    found = organized(tmp_path, mask, rules=MaskRules(background=mask_value(background)))
    assert found.pixels("bad/0.png") == int((mask != np.uint8(values[0])).reshape(SIDE, SIDE, -1).any(axis=2).sum())


def test_an_inverted_set_is_asked_about(tmp_path):
    inverted = np.where(AREAS > 0, 0, 255).astype(np.uint8)
    inverted[8:20] = 255
    with pytest.raises(DefectError, match="are white, the rest is black"):
        organized(tmp_path, inverted, inverted)
    found = organized(tmp_path, inverted, inverted, rules=MaskRules(background=255))
    assert found.pixels("bad/0.png") == int((inverted == 0).sum())


@pytest.mark.parametrize("reading", ["values", "half"])
def test_how_masks_are_cut_can_be_said(tmp_path, reading):
    ramp = np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1))
    mask, _ = read_one(tmp_path, ramp, MaskRules(reading=reading))
    np.testing.assert_array_equal(mask[0], ramp[0] > (0 if reading == "values" else 127))


@pytest.mark.parametrize("text", ["", "white", "#12345", "-1", "70000", "#gggggg"])
def test_values_that_no_mask_has(text):
    with pytest.raises(ValueError, match=""):
        mask_value(text)


# --- one reading for pixels and verdict, in every importer


def test_ksdd2_takes_its_verdicts_from_the_same_reading(tmp_path):
    source = write_ksdd2(tmp_path / "ksdd2")
    truths = source / "train"
    dark = np.zeros((SIDE, SIDE), np.uint8)
    dark[3:9, 4:20], dark[20:26, 4:9] = 2, 255
    save(truths / "10050_GT.png", dark)
    save(truths / "10051_GT.png", np.where(dark == 255, 255, 0).astype(np.uint8))
    with pytest.raises(DefectError, match="--mask_ignored"):
        read_source("ksdd2", source)
    found = read_source("ksdd2", source, rules=MaskRules(ignored=()))
    assert found.pixels("train/10051.png") == 30 and found.labels["train/10051.png"] == "defect"
    other = write_ksdd2(tmp_path / "index")
    for path in other.rglob("*_GT.png"):
        save(path, (np.asarray(Image.open(path)) > 0).astype(np.uint8))
    save(other / "train" / "10050_GT.png", dark)
    save(other / "train" / "10000_GT.png", np.full((SIDE, SIDE), 0, np.uint8))
    found = read_source("ksdd2", other)
    assert (found.pixels("train/10050.png", 1), found.pixels("train/10050.png", 255)) == (96, 30)
    assert found.labels["train/10000.png"] == "normal"


def test_ignored_pixels_alone_leave_the_verdict_open(tmp_path):
    source = write_ksdd2(tmp_path / "ksdd2")
    only = np.zeros((SIDE, SIDE), np.uint8)
    only[4:9, 4:9] = 77
    save(source / "train" / "10000_GT.png", only)
    found = read_source("ksdd2", source, rules=MaskRules(ignored=77))
    assert (found.labels["train/10000.png"], found.pixels("train/10000.png", 255)) == ("", 25)


@pytest.mark.parametrize(("kind", "write"), [("mvtec", write_mvtec), ("loco", write_loco)])
def test_grey_kinds_in_layouts_of_folders(tmp_path, kind, write):
    source = write(tmp_path / kind)
    mask = next(path for path in sorted(source.rglob("*.png")) if "ground_truth" in path.parts)
    save(mask, painted(50, 100, 150))
    found = read_source("mvtec", source)
    assert max(found.pixels(name) for name in found.masks) >= np.count_nonzero(AREAS)
