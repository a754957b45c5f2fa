"""Shapes and label lines that another tool or task writes: they cost neither the image nor its other regions."""

from __future__ import annotations

import time

import numpy as np
import pytest
from helpers.import_annotations import (
    cvat_image,
    cvat_polygon,
    element,
    labelme_shape,
    photo,
    write_cvat,
    write_labelme,
)
from helpers.reading import read_source

from dinov3.data.defect_formats.shapes import ShapeError, polyline
from dinov3.data.defect_formats.yolo_labels import region
from dinov3.defect_errors import DefectError

CORNERS = [[40, 10], [55, 14], [50, 30], [35, 25]]


@pytest.mark.parametrize("kind", ["quadrilateral", "rotation", "oriented_rectangle"])
def test_outlines_under_other_names(tmp_path, kind):
    for name, shape in (("a", "polygon"), ("b", kind)):
        write_labelme(
            photo(tmp_path / f"{name}.png", ord(name)).with_suffix(".json"), labelme_shape(points=CORNERS, kind=shape)
        )
    found = read_source("labelme", tmp_path)
    np.testing.assert_array_equal(found.masks["b.png"], found.masks["a.png"])


def unknown(kind: str, source, points: list, beside: bool) -> None:
    photo(source / "e.png")
    if kind == "labelme":
        own = labelme_shape("dent", points, kind="cuboid")
        write_labelme(source / "e.json", own, *[labelme_shape()] * beside)
    else:
        corners = {
            f"{axis}p{i}": value for i, point in enumerate(points) for axis, value in zip("xy", point, strict=True)
        }
        write_cvat(
            source / "e.xml",
            cvat_image("e.png", element("cuboid", label="dent", **corners), *[cvat_polygon()] * beside),
        )


@pytest.mark.parametrize("kind", ["labelme", "cvat"])
@pytest.mark.parametrize("points", [CORNERS, []])
def test_an_unknown_shape_tells_the_class_and_is_ignored(tmp_path, kind, points):
    """Around its points, or without any in all that no other region marks."""
    unknown(kind, tmp_path / "two", points, beside=True)
    found = read_source(kind, tmp_path / "two")
    mask = found.masks["e.png"]
    assert found.labels == {"e.png": "scratch"} and found.pixels("e.png", 1 + found.classes.index("scratch")) >= 400
    assert mask[20, 45] == 255 and mask[0, 0] == (0 if points else 255)
    unknown(kind, tmp_path / "one", points, beside=False)
    found = read_source(kind, tmp_path / "one")
    assert found.labels == {"e.png": "dent"} and found.masks["e.png"] is None


def pose_set(root, lines: list[str], extra: str = "") -> None:
    for i, line in enumerate(lines):
        photo(root / f"images/{i}.png", i)
        path = root / f"labels/{i}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(line)
    (root / "data.yaml").write_text(f"train: images\nnames: [scratch]\n{extra}")


def pose_lines(count: int, values: int, number: int = 8) -> list[str]:
    rng = np.random.default_rng(count)
    lines = []
    for _ in range(number):
        centre, size = rng.uniform(0.4, 0.6, 2), rng.uniform(0.1, 0.3, 2)
        points = centre + rng.uniform(-0.5, 0.5, (count, 2)) * size
        seen = np.full((count, values - 2), 2)
        numbers = [*centre, *size, *np.hstack([points, seen]).ravel()]
        lines.append("0 " + " ".join(f"{value:.5g}" for value in numbers))
    return lines


@pytest.mark.parametrize(("count", "values"), [(1, 2), (2, 2), (3, 2), (4, 3), (5, 2), (17, 3)])
def test_key_points_are_no_outlines(tmp_path, count, values):
    pose_set(tmp_path / "said", pose_lines(count, values), f"kpt_shape: [{count}, {values}]")
    found = read_source("yolo", tmp_path / "said")
    x, y, width, height = map(float, pose_lines(count, values)[0].split()[1:5])
    assert abs(found.pixels("images/0.png") - width * 60 * height * 40) < 60
    assert "key points, drawn as their boxes" in found.said
    pose_set(tmp_path / "unsaid", pose_lines(count, values))
    with pytest.raises(DefectError, match=rf"add kpt_shape: \[{count}, {values}\]"):
        read_source("yolo", tmp_path / "unsaid")


def test_key_points_that_are_out_of_sight_are_no_outlines(tmp_path):
    hidden = [f"0 0.5 0.5 0.3 0.4 0 0 0 0.5{i} 0.6 2" for i in range(8)]
    pose_set(tmp_path, hidden)
    with pytest.raises(DefectError, match=r"add kpt_shape: \[2, 3\]"):
        read_source("yolo", tmp_path)


def test_a_description_may_say_its_task(tmp_path):
    pose_set(tmp_path / "outlines", pose_lines(2, 2), "task: segment")
    assert "key points" not in read_source("yolo", tmp_path / "outlines").said
    pose_set(tmp_path / "pose", pose_lines(2, 2), "task: pose")
    with pytest.raises(DefectError, match="task: pose without kpt_shape"):
        read_source("yolo", tmp_path / "pose")


@pytest.mark.parametrize("corners", [3, 4, 5, 8])
@pytest.mark.parametrize("size", [0.05, 0.5])
def test_outlines_with_the_same_number_of_corners_are_outlines(tmp_path, corners, size):
    rng = np.random.default_rng(corners)
    lines = []
    for _ in range(12):
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        points = rng.uniform(0.35, 0.65, 2) + size / 2 * np.stack([np.cos(angles), np.sin(angles)], 1)
        lines.append("0 " + " ".join(f"{value:.5f}" for value in points.ravel()))
    pose_set(tmp_path, lines)
    found = read_source("yolo", tmp_path)
    assert len(found.labels) == 12 and "key points" not in found.said


def test_a_line_of_many_points_on_a_large_picture():
    turns = np.linspace(0, 60 * np.pi, 30_000)
    points = 1500 + 7 * turns[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    start = time.perf_counter()
    assert polyline("scratch", points, 3).draw(3000, 3000).sum() > 100_000
    assert time.perf_counter() - start < 10  # it was quadratic


def test_a_line_that_is_not_of_its_pose_set():
    assert region("0 0.5 0.5 0.2 0.2", {0: "x"}, (3, 2)).area == pytest.approx(0.04)
    with pytest.raises(ShapeError, match="expected a box and key points, 10"):
        region("0 0.1 0.1 0.5 0.1 0.5 0.5", {0: "x"}, (3, 2))


@pytest.mark.parametrize("shape", ["[3]", "[3, 4]", "3", "[0, 2]"])
def test_key_points_that_cannot_be(tmp_path, shape):
    pose_set(tmp_path, pose_lines(3, 2), f"kpt_shape: {shape}")
    with pytest.raises(DefectError, match="kpt_shape: .*; expected"):
        read_source("yolo", tmp_path)
