"""prepare_defect_data.py import labelme."""

from __future__ import annotations

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
from PIL import Image, ImageDraw


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


PIT = [[20, 20], [21, 20], [21, 22], [20, 22]]  # 6 pixels with its outline, which an area of 1 x 2 would not be
AS_LABELME_DRAWS = {  # the calls of Pillow in its shape_to_mask, for lines and points of 10 pixels, as it has them
    "a pit of 6 pixels": ("polygon", PIT, lambda draw, xy: draw.polygon(xy, fill=1, outline=1)),
    "a hairline": ("polygon", [[3, 3], [30, 12], [57, 21]], lambda draw, xy: draw.polygon(xy, fill=1, outline=1)),
    "polygon": (
        "polygon",
        [[10.2, 5.7], [50.5, 8.1], [44.0, 33.3], [20.9, 36.2]],
        lambda draw, xy: draw.polygon(xy, fill=1, outline=1),
    ),
    "oriented rectangle": (
        "oriented_rectangle",
        [[30.0, 4.0], [52.0, 16.0], [34.0, 37.0], [12.0, 25.0]],
        lambda draw, xy: draw.polygon(xy, fill=1, outline=1),
    ),
    "rectangle": (
        "rectangle",
        [[41.5, 30.2], [12.3, 8.8]],
        lambda draw, xy: draw.rectangle([(12.3, 8.8), (41.5, 30.2)], fill=1, outline=1),
    ),
    "circle": (
        "circle",
        [[30.0, 20.0], [36.0, 28.0]],
        lambda draw, xy: draw.ellipse([(20.0, 10.0), (40.0, 30.0)], fill=1, outline=1),
    ),
    "line": ("line", [[5.5, 5.5], [52.0, 34.0]], lambda draw, xy: draw.line(xy, fill=1, width=10)),
    "linestrip": (
        "linestrip",
        [[5.0, 30.0], [20.0, 8.0], [40.0, 30.0], [55.0, 10.0]],
        lambda draw, xy: draw.line(xy, fill=1, width=10, joint="curve"),
    ),
    "point": (
        "point",
        [[30.3, 18.6]],
        lambda draw, xy: draw.ellipse([(25.3, 13.6), (35.3, 23.6)], fill=1, outline=1),
    ),
}


@pytest.mark.parametrize("name", AS_LABELME_DRAWS)
def test_shapes_are_drawn_as_labelme_draws_them(run, source, name):
    kind, points, paint = AS_LABELME_DRAWS[name]
    write_labelme(source / "a.json", labelme_shape(points=points, kind=kind))
    manifest, _ = run("--line_width", 10)
    theirs = Image.new("L", (WIDTH, HEIGHT))
    paint(ImageDraw.Draw(theirs), [tuple(point) for point in points])
    np.testing.assert_array_equal(mask_of(manifest, "a.png"), np.asarray(theirs))
    assert name != "a pit of 6 pixels" or mask_of(manifest, "a.png").sum() == 6


def test_points_and_lines_are_as_wide_as_asked(run, source):
    write_labelme(source / "a.json", labelme_shape(points=[[10, 10], [40, 10]], kind="line"))
    write_labelme(source / "b.json", labelme_shape(points=[[10, 10], [40, 30]], kind="points"))
    manifest, _ = run("--line_width", 5)
    assert mask_of(manifest, "a.png")[:, 25].sum() == 5
    discs = mask_of(manifest, "b.png")
    assert discs[10].sum() == discs[:, 10].sum() == discs[30].sum() == discs[:, 40].sum() == 5
    manifest, _ = run("--line_width", 1, "--overwrite")
    assert mask_of(manifest, "a.png").sum() == 31 and mask_of(manifest, "b.png").sum() == 2


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
    photo(source / "e.png", 60)
    manifest, out = run()
    assert "e.png" not in labels_by_image(manifest)
    assert f"{source / 'e.png'}: not annotated (--unannotated normal" in out
    manifest, out = run("--unannotated", "normal", "--overwrite")
    assert labels_by_image(manifest)["e.png"] == "normal"


# --- where the images are
