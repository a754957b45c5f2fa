"""prepare_defect_data.py import cvat."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.cvat_files import GOOD, dent, with_image
from helpers.import_annotations import (
    HEIGHT,
    NAMES,
    SQUARE_PIXELS,
    WIDTH,
    cvat_image,
    cvat_polygon,
    cvat_set,
    element,
    importer,
    labels_by_image,
    mask_of,
    photo,
    runs_of,
    write_cvat,
)


@pytest.fixture
def run(script, tmp_path):
    do = importer(script, tmp_path / "out")
    return lambda source, *flags: do("cvat", source, *GOOD, *flags)


# --- what a good file gives


def test_an_export_is_imported(run, tmp_path):
    source = cvat_set(tmp_path / "set")
    manifest, out = run(source)
    expected = {"a.png": "scratch", "b.png": "scratch", "c.png": "normal", "d.png": "normal"}
    assert labels_by_image(manifest) == {f"images/{name}": label for name, label in expected.items()}
    np.testing.assert_array_equal(mask_of(manifest, "images/a.png"), SQUARE_PIXELS)
    assert "skipped" not in out
    manifest, _ = run(source / "annotations.xml", "--overwrite")
    assert len(manifest) == 4
    (source / "annotations.xml").rename(tmp_path / "export.xml")
    manifest, _ = run(tmp_path / "export.xml", "--images", source / "images", "--overwrite")
    assert labels_by_image(manifest) == expected


def inside(rows: np.ndarray, columns: np.ndarray) -> dict[str, np.ndarray]:
    """Where each of the shapes below is, by its equation."""
    x, y = (columns - 30) * np.cos(np.pi / 6) + (rows - 20) * np.sin(np.pi / 6), 0
    y = -(columns - 30) * np.sin(np.pi / 6) + (rows - 20) * np.cos(np.pi / 6)
    return {
        "box": (abs(columns - 30) < 20) & (abs(rows - 20) < 5),
        "box turned": (abs(x) < 20) & (abs(y) < 5),
        "ellipse": ((columns - 30) / 20) ** 2 + ((rows - 20) / 8) ** 2 < 1,
        "ellipse turned": (x / 20) ** 2 + (y / 8) ** 2 < 1,
        "polyline": (abs(rows - 20.5) < 2.5) & (abs(columns - 30) < 20),
        "points": (np.hypot(rows - 10, columns - 10) < 2.5) | (np.hypot(rows - 30, columns - 50) < 2.5),
    }


SHAPES = {
    "box": dent("box", xtl="10.00", ytl="15.00", xbr="50.00", ybr="25.00"),
    "box turned": dent("box", xtl="10.00", ytl="15.00", xbr="50.00", ybr="25.00", rotation="30.00"),
    "ellipse": dent("ellipse", cx="30.00", cy="20.00", rx="20.00", ry="8.00"),
    "ellipse turned": dent("ellipse", cx="30.00", cy="20.00", rx="20.00", ry="8.00", rotation="30.00"),
    "polyline": dent("polyline", points="10.00,20.50;50.00,20.50"),
    "points": dent("points", points="10.00,10.00;50.00,30.00"),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_are_drawn_where_they_are(run, tmp_path, kind):
    manifest, _ = run(with_image(tmp_path / "set", SHAPES[kind]), "--line_width", 5)
    found = mask_of(manifest, "images/e.png") > 0
    wrong = found != inside(*(np.indices((HEIGHT, WIDTH)) + 0.5))[kind]
    border = np.zeros_like(wrong)
    for axis in (0, 1):
        border |= (np.roll(found, 1, axis) != found) | (np.roll(found, -1, axis) != found)
    assert not (wrong & ~border & (kind != "polyline")).any()
    assert wrong.sum() <= (30 if kind == "polyline" else 0.12 * found.sum())  # a line has round ends


def test_a_mask_is_its_run_lengths(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2, (7, 11))
    for number, first in enumerate((0, 1)):
        pixels[0, 0] = first
        runs = ", ".join(map(str, runs_of(pixels)))
        mask = dent("mask", rle=runs, left=20, top=9, width=11, height=7)
        manifest, _ = run(with_image(tmp_path / f"set{number}", mask), "--overwrite")
        expected = np.zeros((HEIGHT, WIDTH), int)
        expected[9:16, 20:31] = pixels
        np.testing.assert_array_equal(mask_of(manifest, "images/e.png"), expected)


def test_tags(run, tmp_path):
    tag = element("tag", label="dent", source="manual")
    names = {"only": [tag], "both": [tag, cvat_polygon()], "two": [tag, element("tag", label="good")]}
    names["decided"] = [*names["two"], cvat_polygon()]
    images = [cvat_image(photo(tmp_path / "set" / "images" / f"{n}.png").name, *tags) for n, tags in names.items()]
    manifest, out = run(cvat_set(tmp_path / "set", *images))
    labels = labels_by_image(manifest)
    assert {name: labels.get(f"images/{name}.png") for name in names} == {
        "only": "dent",
        "both": "dent",
        "two": None,
        "decided": "scratch",
    }
    assert mask_of(manifest, "images/only.png") is None
    np.testing.assert_array_equal(mask_of(manifest, "images/both.png"), 2 * SQUARE_PIXELS)
    assert "2 tags, dent, good, and no region: which is its class?" in out
    assert "several tags for one image; its regions tell the class" in out


def test_images_without_annotation(run, tmp_path):
    source = with_image(tmp_path / "set")
    photo(source / "images" / "unlisted.png")
    manifest, out = run(source)
    assert len(manifest) == 4 and f"{source / 'images' / 'e.png'}: not annotated" in out
    manifest, out = run(source, "--unannotated", "normal", "--overwrite")
    assert labels_by_image(manifest)["images/e.png"] == "normal" and len(manifest) == 5
    assert f"image files that no annotation file lists; skipped:\n    {source / 'images' / 'unlisted.png'}" in out


def test_a_missing_image_does_not_take_that_of_another_entry(run, tmp_path):
    photo(tmp_path / "set" / "images" / "lineB" / "1.png", 7)
    images = [cvat_image("lineA/1.png", cvat_polygon()), cvat_image("lineB/1.png", element("tag", label="good"))]
    manifest, out = run(cvat_set(tmp_path / "set", *images))
    assert labels_by_image(manifest)["images/lineB/1.png"] == "normal"
    assert len(manifest) == 5 and "1 x skipped" in out and "its image is missing" in out


def test_subsets_are_splits(run, tmp_path):
    images = []
    for subset in ("Train", "Validation", "Test"):
        for name in "abcd":
            photo(tmp_path / "set" / "images" / subset / f"{name}.png", ord(name))
            inner = cvat_polygon() if name in "ab" else element("tag", label="good")
            images.append(cvat_image(f"{name}.png", inner, subset=subset))
    write_cvat(tmp_path / "set" / "annotations.xml", *images)
    manifest, _ = run(tmp_path / "set")
    two = {"normal": 2, "scratch": 2}
    assert manifest.counts() == {"train": two, "val": two, "test": two}


def test_several_exports_in_one_folder(run, tmp_path):
    for task in ("task_1", "task_2"):
        cvat_set(tmp_path / "set" / task)
    manifest, out = run(tmp_path / "set")
    assert len(manifest) == 8 and "skipped" not in out
    assert labels_by_image(manifest)["task_2/images/a.png"] == "scratch"


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_works(run, tmp_path, name):
    photo(tmp_path / "set" / "images" / name / f"{name}.png")
    manifest, _ = run(cvat_set(tmp_path / "set", cvat_image(f"{name}/{name}.png", cvat_polygon(name))))
    assert labels_by_image(manifest)[f"images/{name}/{name}.png"] == name


# --- bad input: the good images are imported, the bad one is named
