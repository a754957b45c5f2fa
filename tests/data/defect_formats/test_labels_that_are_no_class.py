"""Labels that are no class: ignored regions, background and holes; flags and tags that are notes on the work."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.import_annotations import (
    coco_image,
    coco_region,
    cvat_image,
    cvat_polygon,
    element,
    labelme_shape,
    photo,
    write_coco,
    write_cvat,
    write_labelme,
)
from helpers.reading import Read, read_source

from dinov3.defect_errors import DefectError

OUTER, INNER = [[5, 5], [45, 5], [45, 35], [5, 35]], [[15, 12], [30, 12], [30, 25], [15, 25]]
EDGE = [[35, 0], [59, 0], [59, 39], [35, 39]]  # overlaps the outer one
FORMATS = ("labelme", "coco", "cvat", "yolo")


def write(source, kind: str, *regions: tuple[str, list]) -> None:
    """An image e with these regions, and a clean one."""
    for number, name in enumerate("ec"):
        photo(source / f"images/{name}.png", number)
    flat = [[float(value) for corner in points for value in corner] for _, points in regions]
    names = sorted({label for label, _ in regions})
    if kind == "labelme":
        write_labelme(source / "images/e.json", *(labelme_shape(label, points) for label, points in regions))
        write_labelme(source / "images/c.json")
    elif kind == "coco":
        found = [coco_region(0, [f], category=names.index(label)) for f, (label, _) in zip(flat, regions, strict=True)]
        categories = [{"id": i, "name": name} for i, name in enumerate(names)]
        write_coco(source / "all.json", [coco_image(0, "e.png"), coco_image(1, "c.png")], found, categories=categories)
    elif kind == "cvat":
        texts = [";".join(f"{x},{y}" for x, y in points) for _, points in regions]
        drawn = [cvat_polygon(label, text) for text, (label, _) in zip(texts, regions, strict=True)]
        write_cvat(source / "all.xml", cvat_image("e.png", *drawn), cvat_image("c.png"))
    else:
        shares = [" ".join(str(v / (60, 40)[i % 2]) for i, v in enumerate(f)) for f in flat]
        lines = [f"{names.index(label)} {share}" for share, (label, _) in zip(shares, regions, strict=True)]
        (source / "labels").mkdir()
        (source / "labels/e.txt").write_text("\n".join(lines))
        (source / "labels/c.txt").write_text("")
        (source / "data.yaml").write_text(f"train: images\nnames: {json.dumps(names)}", encoding="utf-8")


def read(source, kind: str, **asked: object) -> tuple[Read, str]:
    """What is read, and the name of image e."""
    found = read_source(kind, source, unannotated="normal", **asked)
    return found, next(name for name in found.labels if name.endswith("e.png"))


def pixels(tmp_path, kind: str, *regions: tuple[str, list]) -> np.ndarray:
    """The pixels of one class, as the format itself draws them."""
    write(tmp_path, kind, *regions)
    found, name = read(tmp_path, kind)
    return found.masks[name] > 0


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("label", ["__ignore__", "ignore", "Ignored", "dont_care", "忽略"])
def test_ignored_regions_become_255(tmp_path, kind, label):
    write(tmp_path / "set", kind, ("scratch", INNER), (label, EDGE))
    found, name = read(tmp_path / "set", kind)
    np.testing.assert_array_equal(found.masks[name] == 1, pixels(tmp_path / "a", kind, ("x", INNER)))
    np.testing.assert_array_equal(found.masks[name] == 255, pixels(tmp_path / "b", kind, ("x", EDGE)))
    assert found.classes == ["scratch"]
    assert f"{label}: ignored (255), in 1 regions" in found.said


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("label", ["_background_", "background", "Background", "__background__", "背景"])
@pytest.mark.parametrize("first", [True, False])
def test_background_cuts_a_hole(tmp_path, kind, label, first):
    regions = [("scratch", OUTER), (label, INNER)]
    write(tmp_path / "set", kind, *(regions[::-1] if first else regions))
    found, name = read(tmp_path / "set", kind)
    outer, inner = pixels(tmp_path / "a", kind, ("x", OUTER)), pixels(tmp_path / "b", kind, ("x", INNER))
    np.testing.assert_array_equal(found.masks[name], outer & ~inner)
    assert (found.classes, found.labels[name]) == (["scratch"], "scratch")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "asked", [{"mapping": {"glare": "__background__"}}, {"normal": ("glare",)}, {"mapping": {"glare": "__ignore__"}}]
)
def test_any_label_can_be_made_background_or_ignored(tmp_path, kind, asked):
    write(tmp_path / "set", kind, ("scratch", OUTER), ("glare", INNER))
    found, name = read(tmp_path / "set", kind, **asked)
    outer, inner = pixels(tmp_path / "a", kind, ("x", OUTER)), pixels(tmp_path / "b", kind, ("x", INNER))
    ignored = "__ignore__" in asked.get("mapping", {}).values()
    np.testing.assert_array_equal(found.masks[name], np.where(inner, 255 if ignored else 0, outer))
    assert found.classes == ["scratch"]


def test_a_reserved_label_can_be_made_a_class(tmp_path):
    write(tmp_path, "coco", ("scratch", OUTER), ("background", INNER))
    found, name = read(tmp_path, "coco", mapping={"background": "void"})
    assert found.classes == ["scratch", "void"] and found.pixels(name, 2) > 0


@pytest.mark.parametrize("kind", FORMATS)
def test_a_large_background_does_not_hide_a_defect_on_it(tmp_path, kind):
    """It trims what it overlaps, but a smaller region inside of it is an island."""
    write(tmp_path / "set", kind, ("scratch", INNER), ("background", [[0, 0], [59, 0], [59, 39], [0, 39]]))
    found, name = read(tmp_path / "set", kind)
    np.testing.assert_array_equal(found.masks[name], pixels(tmp_path / "a", kind, ("x", INNER)))
    write(tmp_path / "trim", kind, ("scratch", INNER), ("background", [[20, 0], [59, 0], [59, 39], [20, 39]]))
    found, name = read(tmp_path / "trim", kind)
    assert 0 < found.pixels(name) < pixels(tmp_path / "b", kind, ("x", INNER)).sum()


@pytest.mark.parametrize(("z", "kept"), [((0, 1), False), ((1, 0), True), ((-1, 0), False)])
def test_cvat_says_what_lies_above(tmp_path, z, kept):
    photo(tmp_path / "e.png")
    inner, outer = (";".join(f"{x},{y}" for x, y in points) for points in (INNER, OUTER))
    scratch, hole = cvat_polygon("scratch", inner, z_order=z[0]), cvat_polygon("background", outer, z_order=z[1])
    write_cvat(tmp_path / "a.xml", cvat_image("e.png", hole, scratch, cvat_polygon("dent", "0,0;4,0;4,4;0,4")))
    found = read_source("cvat", tmp_path)
    assert (found.pixels("e.png", 1 + found.classes.index("scratch")) > 0) == kept
    assert ("background covers wholly" in found.said) != kept


@pytest.mark.parametrize("kind", FORMATS)
def test_regions_that_are_all_ignored_leave_the_verdict_open(tmp_path, kind):
    write(tmp_path, kind, ("__ignore__", INNER))
    found, name = read(tmp_path, kind)
    assert found.labels[name] == "" and found.pixels(name, 255) > 0
    found, name = read(tmp_path, kind, normal=("__ignore__",))
    assert found.labels[name] == "normal" and found.masks[name] is None


@pytest.mark.parametrize("kind", FORMATS)
def test_background_alone_is_a_clean_image(tmp_path, kind):
    write(tmp_path, kind, ("background", INNER))
    found, name = read(tmp_path, kind)
    assert found.labels[name] == "normal" and found.masks[name] is None


def test_coco_annotations_that_are_to_be_ignored(tmp_path):
    photo(tmp_path / "e.png")
    write_coco(
        tmp_path / "a.json",
        [coco_image(0, "e.png")],
        [coco_region(0), coco_region(0, [[40, 5, 55, 5, 55, 30]], ignore=1)],
    )
    found = read_source("coco", tmp_path)
    assert found.pixels("e.png", 1) == 400 and found.pixels("e.png", 255) > 100


# --- holes of X-AnyLabeling


def test_an_inner_outline_of_its_group_is_a_hole(tmp_path):
    photo(tmp_path / "e.png")
    outer = labelme_shape("dent", OUTER, group_id=3, difficult=False)
    for name, inner, hole in (
        ("e", labelme_shape("dent", INNER, group_id=3, difficult=True), True),
        ("f", labelme_shape("dent", INNER, group_id=4, difficult=True), False),
        ("g", labelme_shape("dent", INNER, difficult=True), False),
        ("h", labelme_shape("dent", INNER, group_id=3, difficult=False), False),
        ("i", labelme_shape("dent", EDGE, group_id=3, difficult=True), False),  # not inside: a region of its own
    ):
        write_labelme(photo(tmp_path / f"{name}.png", ord(name)).with_suffix(".json"), outer, inner)
        whole = read_source("labelme", tmp_path).pixels(f"{name}.png")
        write_labelme(tmp_path / f"{name}.json", outer)
        alone = read_source("labelme", tmp_path).pixels(f"{name}.png")
        assert whole < alone if hole else whole >= alone, name


# --- whole images


def test_a_tag_or_folder_to_ignore_leaves_its_images_out(tmp_path):
    photo(tmp_path / "e.png")
    photo(tmp_path / "c.png", 1)
    tag = element("tag", label="__ignore__")
    write_cvat(tmp_path / "a.xml", cvat_image("e.png", tag), cvat_image("c.png", cvat_polygon()))
    found = read_source("cvat", tmp_path)
    assert list(found.labels) == ["c.png"] and f"{tmp_path / 'e.png'}: __ignore__" in found.said


def test_a_tag_of_background_is_asked_about(tmp_path):
    photo(tmp_path / "e.png")
    write_cvat(tmp_path / "a.xml", cvat_image("e.png", element("tag", label="background")))
    with pytest.raises(DefectError, match="--normal background, or --map background=CLASS"):
        read_source("cvat", tmp_path)
    assert read_source("cvat", tmp_path, normal=("background",)).labels == {"e.png": "normal"}


NOTES = ["reviewed", "Checked", "is_verified", "QA done", "humanReviewed", "已审核", "标注完成"]


@pytest.mark.parametrize("flag", NOTES)
def test_notes_on_the_work_are_no_class(tmp_path, flag):
    write_labelme(photo(tmp_path / "a.png", 1).with_suffix(".json"), labelme_shape(), flags={flag: True})
    write_labelme(photo(tmp_path / "b.png", 2).with_suffix(".json"), flags={flag: True})
    write_labelme(photo(tmp_path / "c.png", 3).with_suffix(".json"), flags={flag: False})
    found = read_source("labelme", tmp_path)
    assert found.labels == {"a.png": "scratch", "b.png": "normal", "c.png": "normal"}
    assert f"image flag {flag}: taken as a note, in 2 images" in found.said
    asked = read_source("labelme", tmp_path, flag_classes=(flag,))
    assert asked.labels == {"a.png": flag, "b.png": flag, "c.png": "normal"}


def test_an_image_that_is_still_to_be_annotated_is_not_clean(tmp_path):
    write_labelme(photo(tmp_path / "a.png", 1).with_suffix(".json"), labelme_shape(), flags={"todo": True})
    write_labelme(photo(tmp_path / "b.png", 2).with_suffix(".json"), flags={"todo": True})
    assert read_source("labelme", tmp_path).labels == {"a.png": "scratch"}


@pytest.mark.parametrize("drawn", [True, False])
def test_a_flag_that_may_be_a_class_or_a_note_is_asked_about(tmp_path, drawn):
    """Not where each image that has it has regions, which tell the class."""
    write_labelme(photo(tmp_path / "a.png", 1).with_suffix(".json"), labelme_shape(), flags={"NG": True})
    write_labelme(photo(tmp_path / "b.png", 2).with_suffix(".json"), *[labelme_shape()] * drawn, flags={"NG": True})
    if drawn:
        assert read_source("labelme", tmp_path).labels == {"a.png": "scratch", "b.png": "scratch"}
        return
    with pytest.raises(DefectError, match="--flag_classes NG or --flag_notes NG"):
        read_source("labelme", tmp_path)
    assert read_source("labelme", tmp_path, flag_classes=("NG",)).labels == {"a.png": "NG", "b.png": "NG"}
    assert read_source("labelme", tmp_path, flag_notes=("NG",)).labels == {"a.png": "scratch", "b.png": "normal"}


def test_a_flag_that_no_image_has_is_named(tmp_path):
    write_labelme(photo(tmp_path / "a.png", 1).with_suffix(".json"), labelme_shape(), flags={"NG": True})
    with pytest.raises(DefectError, match="--flag_classes bad: no image has this flag set; found: NG"):
        read_source("labelme", tmp_path, flag_classes=("bad",))


@pytest.mark.parametrize("tag", NOTES)
def test_cvat_tags_that_are_notes_are_no_class(tmp_path, tag):
    for number, name in enumerate("abc"):
        photo(tmp_path / f"{name}.png", number)
    note = element("tag", label=tag)
    images = [cvat_image("a.png", note, cvat_polygon()), cvat_image("b.png", note)]
    write_cvat(tmp_path / "a.xml", *images, cvat_image("c.png", element("tag", label="dent"), note))
    assert read_source("cvat", tmp_path).labels == {"a.png": "scratch", "c.png": "dent"}  # b: nobody annotated it
