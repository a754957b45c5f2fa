"""Importers of annotations: whatever a file says, it is read or refused, and nothing else happens."""

from __future__ import annotations

import json

import numpy as np
from helpers.import_annotations import (
    HEIGHT,
    WIDTH,
    base64_of,
    coco_image,
    cvat_image,
    cvat_polygon,
    element,
    huge_png,
    labelme_shape,
    photo,
    runs_of,
    survives,
    write_cvat,
    write_labelme,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from dinov3.data.defect_formats.coco import read_coco
from dinov3.data.defect_formats.cvat import read_cvat
from dinov3.data.defect_formats.labelme import read_labelme
from dinov3.data.defect_formats.rle import run_lengths
from dinov3.data.defect_formats.shapes import ShapeError

ANYTHING = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NUMBERS = st.floats() | st.integers(-(10**7), 10**7) | st.integers(-100, 100)

# --- labelme

KINDS = st.sampled_from(["polygon", "rectangle", "circle", "line", "linestrip", "point", "points", "mask", None])
POINTS = st.lists(st.lists(NUMBERS, min_size=2, max_size=2), max_size=5)
MASKS = st.sampled_from([base64_of(np.ones((3, 3), "u1")), base64_of(huge_png(60_000))]) | JSON


@ANYTHING
@given(
    st.fixed_dictionaries({}, optional={key: JSON for key in ("flags", "imagePath", "imageData", "imageWidth")}),
    st.lists(st.fixed_dictionaries({"label": st.text() | JSON, "shape_type": KINDS, "points": POINTS, "mask": MASKS})),
    JSON,
)
def test_any_labelme_content_is_survived(tmp_path, changes, shapes, stray):
    photo(tmp_path / "a.png")
    write_labelme(tmp_path / "a.json", *shapes, **changes)
    write_labelme(tmp_path / "b.json", stray, *shapes[:1], **changes)
    write_labelme(tmp_path / "c.json", shapes=stray)
    (tmp_path / "d.json").write_text(json.dumps(stray))
    survives(read_labelme, tmp_path, "normal")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.json", "b.json", "c.json", "d.json"}


@ANYTHING
@given(st.integers(0, 2000), st.binary(max_size=5))
def test_any_labelme_damage_is_survived(tmp_path, place, damage):
    photo(tmp_path / "a.png")
    whole = write_labelme(tmp_path / "a.json", labelme_shape(), labelme_shape("dent", kind="linestrip")).read_bytes()
    (tmp_path / "a.json").write_bytes(whole[:place] + damage)
    survives(read_labelme, tmp_path, "normal")
    (tmp_path / "a.json").write_bytes(whole[:place] + damage + whole[place + len(damage) :])
    survives(read_labelme, tmp_path, "normal")


def test_any_nesting_is_survived(tmp_path):
    """Values that are just shallow enough to be read may be too deep to be shown."""
    photo(tmp_path / "a.png")
    for depth in [*range(500, 1000, 20), 3000, 10_000, 100_000]:
        deep = "[" * depth + "]" * depth
        shape = f'{{"label": {deep}, "points": {deep}, "shape_type": "line", "mask": {deep}}}'
        (tmp_path / "a.json").write_text(f'{{"shapes": [{shape}, {deep}], "imagePath": {deep}, "flags": {{}}}}')
        survives(read_labelme, tmp_path, "normal")
        region = f'{{"image_id": 1, "category_id": {deep}, "segmentation": {deep}}}'
        images = f'[{{"id": 1, "file_name": "a.png"}}, {{"id": 2, "file_name": {deep}}}, {deep}]'
        (tmp_path / "a.json").write_text(f'{{"images": {images}, "categories": [], "annotations": [{region}]}}')
        survives(read_coco, tmp_path, "normal")


# --- COCO

CODES = st.text("0123456789PQ_`o\x00ÿ", max_size=20) | st.text(max_size=9)
COUNTS = st.lists(st.integers(-3, 2500) | NUMBERS, max_size=6) | CODES | JSON
SIZES = st.just([HEIGHT, WIDTH]) | st.lists(st.integers(-2, 10**6), max_size=3) | JSON
RLES = st.fixed_dictionaries({"size": SIZES, "counts": COUNTS})
OUTLINES = st.lists(st.lists(NUMBERS, max_size=9), max_size=3) | RLES | JSON
REGIONS = st.fixed_dictionaries(
    {"id": JSON, "image_id": st.just(0) | JSON, "category_id": st.just(1) | JSON, "segmentation": OUTLINES},
    optional={"bbox": st.lists(NUMBERS, max_size=5) | JSON},
)


@ANYTHING
@given(
    st.lists(REGIONS | JSON, max_size=3),
    st.fixed_dictionaries({}, optional={key: JSON for key in ("id", "file_name", "width", "height")}),
    st.fixed_dictionaries({}, optional={"categories": JSON | st.lists(JSON)}),
    JSON,
)
def test_any_coco_content_is_survived(tmp_path, regions, changes, categories, stray):
    photo(tmp_path / "a.png")
    images = [coco_image(0, "a.png") | changes, stray]
    (tmp_path / "all.json").write_text(
        json.dumps({"images": images, "annotations": regions, "categories": [{"id": 1, "name": "x"}]} | categories)
    )
    (tmp_path / "stray.json").write_text(json.dumps({"images": stray, "annotations": [stray], "categories": []}))
    survives(read_coco, tmp_path, "normal")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "all.json", "stray.json"}


@ANYTHING
@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_compressed_runs_are_read_as_pycocotools_writes_them(height, width, data):
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(bits, dtype=np.uint8).reshape(height, width)
    mask[0, 0] = 1
    packed = coco.encode(np.asfortranarray(mask))["counts"].decode()
    for runs in (packed, runs_of(mask.T)):
        shape = run_lengths("x", runs, width, height, by_column=True)
        np.testing.assert_array_equal(shape.draw(height, width), mask)
        assert shape.area == mask.sum()


@ANYTHING
@given(CODES | st.lists(st.integers(-3, 50), max_size=6), st.integers(-1, 9), st.integers(-1, 9))
def test_any_runs_are_drawn_or_refused(runs, width, height):
    try:
        shape = run_lengths("x", runs, width, height)
        assert 0 < shape.draw(20, 20).sum() == shape.area
    except ShapeError:
        pass


# --- CVAT

XML_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"))
VALUES = (
    XML_TEXT
    | st.floats().map(str)
    | st.integers(-100, 10**12).map(str)
    | st.lists(st.integers(-2, 50) | st.floats(), max_size=6).map(lambda values: ",".join(map(str, values)))
    | st.lists(st.tuples(st.floats(-1e7, 1e7), st.floats(-99, 99)), max_size=5).map(
        lambda pairs: ";".join(f"{x},{y}" for x, y in pairs)
    )
)
KEYS = "points xtl ytl xbr ybr cx cy rx ry rotation rle left top width height".split()
TAGS = ["polygon", "polyline", "points", "box", "ellipse", "mask", "tag", "cuboid", "image", "track"]
ELEMENTS = st.builds(
    lambda tag, attributes: element(tag, **attributes),
    st.sampled_from(TAGS),
    st.fixed_dictionaries({"label": st.just("x") | VALUES}, optional={key: VALUES for key in KEYS}),
)
CHANGES = st.fixed_dictionaries({}, optional={key: VALUES for key in ("name", "width", "height", "subset")})


@ANYTHING
@given(st.lists(ELEMENTS, max_size=4), CHANGES, ELEMENTS)
def test_any_cvat_content_is_survived(tmp_path, elements, changes, stray):
    photo(tmp_path / "a.png")
    write_cvat(tmp_path / "x.xml", cvat_image(**{"name": "a.png"} | changes), cvat_image("a.png", *elements), stray)
    survives(read_cvat, tmp_path, "normal")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "x.xml"}


@ANYTHING
@given(st.integers(0, 700), st.binary(max_size=5))
def test_any_cvat_damage_is_survived(tmp_path, place, damage):
    photo(tmp_path / "a.png")
    images = [
        cvat_image("a.png", cvat_polygon(), element("ellipse", label="x", cx=30, cy=20, rx=20, ry=8, rotation=30))
    ]
    whole = write_cvat(tmp_path / "x.xml", *images).read_bytes()
    (tmp_path / "x.xml").write_bytes(whole[:place] + damage + whole[place + len(damage) :])
    survives(read_cvat, tmp_path, "normal")
