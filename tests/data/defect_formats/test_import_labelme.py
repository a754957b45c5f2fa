"""prepare_defect_data.py import labelme."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from helpers.import_annotations import (
    HEIGHT,
    SQUARE_PIXELS,
    WIDTH,
    base64_of,
    importer,
    labelme_set,
    labelme_shape,
    labels_by_image,
    mask_of,
    photo,
    write_labelme,
)
from pycocotools import mask as coco


@pytest.fixture
def source(tmp_path):
    return labelme_set(tmp_path / "set")


@pytest.fixture
def run(script, tmp_path, source):
    do = importer(script, tmp_path / "out")
    return lambda *flags: do("labelme", source, *flags)


# --- what a good folder gives


def test_a_folder_is_imported(run, source):
    write_labelme(photo(source / "deep" / "e.png", 5).with_suffix(".json"), labelme_shape("dent"))
    manifest, out = run()
    expected = {"a.png": "scratch", "b.png": "scratch", "c.png": "normal", "d.png": "normal", "deep/e.png": "dent"}
    assert labels_by_image(manifest) == expected
    assert manifest.mask_classes == ["dent", "scratch"]
    np.testing.assert_array_equal(mask_of(manifest, "a.png"), 2 * SQUARE_PIXELS)
    np.testing.assert_array_equal(mask_of(manifest, "deep/e.png"), SQUARE_PIXELS)
    assert mask_of(manifest, "c.png") is None
    assert (manifest.root / "images" / "a.png").read_bytes() == (source / "a.png").read_bytes()
    assert "skipped" not in out


# What labelme's own shape_to_mask (6.3.1, lines 10 and points 5 wide) draws, in COCO's compressed run lengths.
DRAWN_BY_LABELME = {
    "polygon": (
        [[10.2, 5.7], [50.5, 8.1], [44.0, 33.3], [20.9, 36.2]],
        "e<2W12M3M3M3M4L3M3M3M3M2NO10001O000000000O100000000000000O2O0000000000000M3L4L4L4L4LT;",
    ),
    "rectangle": (
        [[41.5, 30.2], [12.3, 8.8]],
        "X?g0a0000000000000000000000000000000000000000000000000000000000Xf0",
    ),
    "circle": ([[30.0, 20.0], [38.5, 26.0]], "Yh06P14L4M2N2O0O2O0O2O0000000001N101N101N2N3L4LYg0"),
    "line": (
        [[5.5, 5.5], [52.0, 34.0]],
        "Q41U12O2N2M2O200O0100O01000O010O01000O0100O0100O01000O010O01000O0100O0100O01000O010O01000O0100O0100N1N3N2N1NS4",
    ),
    "linestrip": (
        [[5.0, 30.0], [20.0, 8.0], [40.0, 30.0], [55.0, 10.0]],
        "T21U13N1N3N2M2O2N2M10O010O010O010O3N2N1N3N0003M2N200000000001O0001O0000000000N2N3NN2O2N2M10O10O10O10O10O3N2N1N"
        "3N2N1N3Nl0",
    ),
    "point": ([[30.3, 18.6]], "ho05R12N2N2O00000001N2N2Nam0"),
    "oriented_rectangle": (
        [[30.0, 4.0], [52.0, 16.0], [34.0, 37.0], [12.0, 25.0]],
        "i?1V11O2M2O2N1O2N2N1N3N1O2N1O2N1N3N1O2N20O010O010N2N1O2M2O2N1O2N1O2M2O2N2N1O2N1N3N1OY8",
    ),
}


@pytest.mark.parametrize("kind", DRAWN_BY_LABELME)
def test_shapes_are_drawn_as_labelme_draws_them(run, source, kind):
    points, runs = DRAWN_BY_LABELME[kind]
    write_labelme(source / "a.json", labelme_shape(points=points, kind=kind))
    manifest, _ = run("--line_width", 10)
    found = mask_of(manifest, "a.png")
    theirs = coco.decode({"size": [HEIGHT, WIDTH], "counts": runs})
    border = np.ones((3, 3), np.uint8)
    assert not (cv2.erode(theirs, border) & ~found).any()
    allowed = cv2.dilate(theirs, border)
    if kind.startswith("line"):  # ours have round ends and corners
        rows, columns = np.indices((HEIGHT, WIDTH)) + 0.5
        for x, y in points:
            allowed |= np.hypot(columns - x, rows - y) < 6
    assert not (found & ~allowed).any()


def test_points_and_lines_are_as_wide_as_asked(run, source):
    write_labelme(source / "a.json", labelme_shape(points=[[10.5, 10.5], [40.5, 10.5]], kind="line"))
    write_labelme(source / "b.json", labelme_shape(points=[[10.5, 10.5], [40.5, 30.5]], kind="points"))
    manifest, _ = run("--line_width", 5)
    assert mask_of(manifest, "a.png")[:, 25].sum() == 5
    assert mask_of(manifest, "b.png").sum() == 2 * 21
    assert mask_of(manifest, "b.png")[30, 40]


def test_a_mask_shape_is_its_bitmap(run, source):
    pixels = np.random.default_rng(0).integers(0, 2, (12, 20), dtype=np.uint8)
    inside = labelme_shape(points=[[7.0, 9.0], [26.0, 20.0]], kind="mask", mask=base64_of(pixels))
    beyond = labelme_shape(points=[[50.0, 35.0], [69.0, 46.0]], kind="mask", mask=base64_of(pixels * 255))
    write_labelme(source / "a.json", inside)
    write_labelme(source / "b.json", beyond)
    manifest, _ = run()
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[9:21, 7:27] = pixels
    np.testing.assert_array_equal(mask_of(manifest, "a.png"), expected)
    np.testing.assert_array_equal(mask_of(manifest, "b.png")[35:, 50:], pixels[:5, :10])


def test_several_labels_share_a_mask_and_the_largest_is_the_class(run, source):
    small = [[2, 2], [8, 2], [8, 8], [2, 8]]
    inside = [[12, 7], [16, 7], [16, 11], [12, 11]]
    write_labelme(
        source / "a.json", labelme_shape("dent", small), labelme_shape("scratch"), labelme_shape("dent", inside)
    )
    manifest, _ = run()
    assert labels_by_image(manifest)["a.png"] == "scratch"
    mask = mask_of(manifest, "a.png")
    assert (mask[4, 4], mask[9, 14], mask[20, 20]) == (1, 1, 2)


def test_labels_are_mapped_and_normal_ones_mark_nothing(run, source):
    write_labelme(source / "a.json", labelme_shape("Kratzer"), labelme_shape("edge", [[0, 0], [5, 0], [5, 5]]))
    manifest, _ = run("--map", "Kratzer=scratch", "--normal", "edge")
    assert labels_by_image(manifest)["a.png"] == "scratch"
    np.testing.assert_array_equal(mask_of(manifest, "a.png"), SQUARE_PIXELS)


def test_flags_of_the_image(run, source):
    write_labelme(source / "c.json", flags={"good": True, "bad": False})
    write_labelme(source / "d.json", flags={"dent": True, "scratch": True})
    write_labelme(source / "b.json", labelme_shape("dent"), flags={"scratch": True, "dent": True})
    write_labelme(photo(source / "e.png").with_suffix(".json"), flags={"scratch": True})
    manifest, out = run("--normal", "good")
    assert labels_by_image(manifest) == {"a.png": "scratch", "b.png": "dent", "c.png": "normal", "e.png": "scratch"}
    assert mask_of(manifest, "e.png") is None
    assert f"{source / 'd.json'}: 2 flags, dent, scratch, and no region: which is its class?" in out
    assert "several flags for one image; its regions tell the class" in out


def test_images_without_a_json_file(run, source):
    photo(source / "e.png")
    manifest, out = run()
    assert "e.png" not in labels_by_image(manifest)
    assert f"{source / 'e.png'}: not annotated (--unannotated normal" in out
    manifest, out = run("--unannotated", "normal", "--overwrite")
    assert labels_by_image(manifest)["e.png"] == "normal"


# --- where the images are
