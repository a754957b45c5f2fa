"""prepare_defect_data.py import yolo: paths that lead out, broken label files and descriptions, and any text at all."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from helpers.import_layouts import ODD_NAMES, SQUARE, assert_yolo_masks, importer, outline, write_labels, write_yolo
from helpers.organizing import assert_refused, mask_of, masks_by_image, picture, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinov3.data.defect_formats.base import ImportOptions, ImportReport
from dinov3.data.defect_formats.shapes import EmptyShapeError, ShapeError
from dinov3.data.defect_formats.yolo import read_yolo
from dinov3.data.defect_formats.yolo_labels import region
from dinov3.defect_errors import DefectError


@pytest.fixture
def imported(script, tmp_path):
    return importer(script, tmp_path)


@pytest.fixture
def source(tmp_path):
    return write_yolo(tmp_path / "set")


# --- paths that lead out


def test_nothing_outside_of_the_source_is_read(source, tmp_path, imported):
    for i in range(3):
        save(tmp_path / "other" / "images" / f"secret{i}.png", picture(50 + i))
    (source / "list.txt").write_text(
        f"images/train/../../../other/images/secret0.png\n{tmp_path}/other/images/secret1.png\n"
        "C:\\other\\secret2.png\n./images/val/good09.png\n../../etc/passwd\n"
    )
    (source / "data.yaml").write_text(
        f"train: images/train\nval: [images/val, {tmp_path}/other/images, ../other/images, ~/images]\n"
        "test: list.txt\nnames: [scratch, dent]"
    )
    manifest, out = imported("yolo", source)
    assert_yolo_masks(manifest)
    assert "7 x skipped" in out
    assert f"data.yaml: val: '../other/images' is outside of {source}, or not there" in out


def test_a_path_key_that_leads_out_is_not_used(source, tmp_path, imported):
    write_yolo(tmp_path / "other")
    (source / "data.yaml").write_text(
        f"path: {tmp_path}/other\ntrain: images/train\nval: images/val\nnames: [scratch, dent]"
    )
    save(source / "images" / "train" / "bad00.png", picture(123))
    manifest, out = imported("yolo", source)
    written = (manifest.root / "images/images/train/bad00.png").read_bytes()
    assert written == (source / "images/train/bad00.png").read_bytes()
    assert "is not used, as it is not a folder in" in out


def test_a_linked_folder_of_images_is_followed(source, tmp_path, imported):
    """A link inside the source was put there by whoever keeps the set, as people do with large ones."""
    shutil.move(source / "images", tmp_path / "store")
    (source / "images").symlink_to(tmp_path / "store")
    assert_yolo_masks(imported("yolo", source)[0])


# --- broken label files


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 nan 0.1 0.5 0.1 0.5 0.5", "a coordinate of nan; expected shares"),
        ("0 0.1 0.1 inf 0.1 0.5 0.5", "a coordinate of inf; expected shares"),
        ("0 100 120 300 120 300 280", "a coordinate of 100; expected shares of the image's size, 0 to 1"),
        ("0 0.1 0.1 0.5 0.1 0.5", "5 numbers after the class; expected pairs"),
        ("0 0.5 0.5 0.2 0.2 0.93", "5 numbers after the class"),
        ("0", "0 numbers after the class"),
        ("7 0.1 0.1 0.5 0.1 0.5 0.5", "class 7; expected one of 0 to 1"),
        ("-1 0.1 0.1 0.5 0.1 0.5 0.5", "class -1; expected one of 0 to 1"),
        ("0.5 0.1 0.1 0.5 0.1 0.5 0.5", "class 0.5; expected one of 0 to 1"),
        ("scratch 0.1 0.1 0.5 0.1 0.5 0.5", "'scratch' is not a number"),
        ("0,0.1,0.1,0.5,0.1,0.5,0.5", "'0,0.1,0.1,0.5,0.1,0.' is not a number"),
        ("0 0.1 0.1 0.5 0.1 1e999 0.5", "a coordinate of inf"),
        ("x" * 100_000, f"'{'x' * 20}' is not a number"),
    ],
)
def test_a_broken_line_costs_the_mask_but_not_the_class(source, imported, line, reason):
    path = write_labels(source, f"1 {SQUARE}", line)
    manifest, out = imported("yolo", source)
    row = manifest.columns["image"].tolist().index("images/images/train/bad00.png")
    assert (manifest.columns["label"][row], manifest.columns["mask"][row]) == ("dent", "")
    assert f"{path}: line 2: {reason}" in out
    assert len(out) < 5000


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.5 0.5 0.5 0.5", "0 0.1 0.1 0.5 0.5", "0 0.5 0.5 0 0", "0 0.5 0.5"])
def test_a_region_without_area_is_skipped(source, imported, line):
    path = write_labels(source, line, f"1 {outline(0)}")
    manifest, out = imported("yolo", source)
    mask = masks_by_image(manifest)["images/images/train/bad00.png"]
    if len(line.split()) == 5 and not line.endswith(" 0 0"):
        assert "boxes in place of outlines" in out  # five numbers are a box, never a line
    else:
        np.testing.assert_array_equal(mask > 0, mask_of(0) > 0)
        assert f"{path}: line 1: a polygon of" in out.partition("x region without area")[2]


def test_a_region_outside_of_the_image_is_named(source, imported):
    write_labels(source, "0 1.2 1.2 1.5 1.2 1.5 1.5")
    manifest, out = imported("yolo", source)
    assert masks_by_image(manifest)["images/images/train/bad00.png"] is None
    assert "bad00.png: scratch" in out.partition("x region outside of its image")[2]


def test_only_broken_lines_leave_the_class_unknown(source, imported):
    write_labels(source, "0 nan nan nan nan nan nan")
    manifest, out = imported("yolo", source)
    assert len(manifest) == 19
    assert "bad00.png: none of its regions can be used" in out


def test_files_that_are_no_labels(source, imported):
    paths = [source / "labels" / "train" / f"bad0{i}.txt" for i in range(5)]
    paths[0].write_bytes(bytes(range(256)))
    paths[1].write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n", encoding="utf-16")
    with paths[2].open("wb") as file:
        file.truncate(100 * 2**20)
    paths[3].unlink()
    paths[3].mkdir()
    paths[4].unlink()
    paths[4].symlink_to(source / "nowhere.txt")
    manifest, out = imported("yolo", source, "--unannotated", "normal")
    assert len(manifest) == 15  # a label file that cannot be read is no missing one
    assert f"{paths[0]}: not a text file in UTF-8" in out
    assert f"{paths[1]}: not a text file in UTF-8" in out
    assert f"{paths[2]}: 100 MB, too large" in out


def test_odd_file_names(source, imported):
    for i, name in enumerate(ODD_NAMES):
        save(source / "images" / "train" / f"{name}.png", picture(50 + i))
        write_labels(source, f"0 {outline(i)}", name=name)
    manifest, _ = imported("yolo", source)
    masks = masks_by_image(manifest)
    for i, name in enumerate(ODD_NAMES):
        np.testing.assert_array_equal(masks[f"images/images/train/{name}.png"] > 0, mask_of(i) > 0)


# --- broken descriptions


BOMB = "a: &a [x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no table of keys"),
        ("- a\n- b", "no table of keys"),
        ("train: images/train\nval: images/val", "no class names"),
        ("train: images/train\nnames: []", "no class names"),
        ("train: images/train\nnames: scratch", "no class names"),
        ("train: images/train\nnames: {scratch: 0}", "names: 'scratch': invalid literal"),
        ("train: images/train\nnames: [[a, b], c]", "names: ['a', 'b'] is no name"),
        ("train: images/train\nnames: ['a\\u0007', b]".replace("'", '"'), "unprintable"),
        ("names: [a, b]", "neither train nor val nor test"),
        ("names: [a, b]\ntrain: nowhere", "'nowhere' is outside of"),
        ("train: {nested: {deep: 1}}\nnames: [a]", "{'nested': {'deep': 1}} is outside of"),
        ("names: [a, b\ntrain: x", "not a readable YAML file"),
        ("a: \x00", "not a readable YAML file"),
        ("a: !!python/object/apply:os.system ['touch hacked']", "not a readable YAML file"),
        ("a: !!int ''", "not a readable YAML file"),
        ("a: " + "[" * 200_000, "nested more than 20 deep"),
        (BOMB + "train: images/train\nnames: *i", "refers to another part"),
    ],
)
def test_broken_descriptions_are_refused(source, tmp_path, script, text, reason):
    (source / "data.yaml").write_text(text, encoding="utf-8")
    result = script("prepare_defect_data", "import", "yolo", source, "--output_dir", tmp_path / "out")
    assert_refused(result, reason)
    assert sorted(os.listdir(tmp_path)) == ["set"]
    assert len(result[2]) < 1000


def test_descriptions_that_are_no_text_are_refused(source, tmp_path, script):
    def refused(reason: str) -> None:
        result = script("prepare_defect_data", "import", "yolo", source, "--output_dir", tmp_path / "out")
        assert_refused(result, "data.yaml", reason)

    with (source / "data.yaml").open("wb") as file:
        file.truncate(100 * 2**20)
    refused("100 MB, too large")
    (source / "data.yaml").write_bytes(b"\xff\xfe\x80")
    refused("not a text file in UTF-8")


def test_empty_folders_are_named(source, tmp_path, script):
    (source / "none").mkdir()
    (source / "data.yaml").write_text("train: none\nval: none\nnames: [a]")
    result = script("prepare_defect_data", "import", "yolo", source, "--output_dir", tmp_path / "out")
    assert_refused(result, "no images where its train, val and test say", "--images")


# --- any text


NUMBERS = st.one_of(st.floats(width=32), st.integers(-3, 3), st.text("0123456789.-e ", max_size=5))


@given(st.one_of(st.text(), st.lists(NUMBERS.map(str), max_size=12).map(" ".join)))
@settings(max_examples=400, deadline=None)
def test_any_line_is_a_region_or_refused(line):
    try:
        shape = region(line, {0: "scratch", 1: "dent"})
    except ShapeError as error:
        assert len(str(error)) < 200
        return
    assert shape.label in ("scratch", "dent")
    assert shape.area >= 0
    try:
        assert shape.draw(7, 11).shape == (7, 11)
    except EmptyShapeError:
        pass


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=8),
    st.integers(1, 40),
    st.integers(1, 40),
)
@settings(max_examples=150, deadline=None)
def test_an_outline_survives_being_written_and_read(points, height, width):
    line = "1 " + " ".join(f"{x!r} {y!r}" for x, y in points)
    try:
        shape = region(line, {1: "dent"})
    except EmptyShapeError:
        return
    mask = shape.draw(height, width)
    corners = np.array(points) * (width, height)
    low, high = np.floor(corners.min(0) - 1), np.ceil(corners.max(0) + 1)
    rows, columns = np.nonzero(mask)
    assert (columns >= low[0]).all() and (columns <= high[0]).all()
    assert (rows >= low[1]).all() and (rows <= high[1]).all()
    turned = region("1 " + " ".join(f"{y!r} {x!r}" for x, y in points), {1: "dent"})
    assert abs(turned.area - shape.area) < 1e-3


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda t: f"names: [a]\ntrain: {t}".encode())))
def test_any_description_is_read_or_refused(source, data):
    (source / "data.yaml").write_bytes(data)
    try:
        samples = read_yolo(source, ImportOptions(), ImportReport())
    except DefectError as error:
        assert "data.yaml" in str(error)
        return
    assert all(sample.image.is_relative_to(source) and ".." not in sample.name for sample in samples)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_any_label_file_is_read_or_named(source, data):
    (source / "labels" / "train" / "bad00.txt").write_bytes(data)
    report = ImportReport()
    samples = read_yolo(source, ImportOptions(), report)
    found = [sample for sample in samples if sample.name == "images/train/bad00.png"]
    assert len(samples) == 20 - bool(report.skipped)
    assert found or "bad00" in report.skipped[0]
    if data.strip() and found and not found[0].shapes:
        assert report.remarks or not data.decode("utf-8-sig").strip()
