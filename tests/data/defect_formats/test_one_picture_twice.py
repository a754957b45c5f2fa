"""One picture in two entries, files or copies: what is marked in any of them counts, or the conflict is named."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers.import_annotations import (
    coco_image,
    coco_region,
    cvat_image,
    cvat_polygon,
    element,
    labelme_set,
    labelme_shape,
    photo,
    write_coco,
    write_cvat,
    write_labelme,
)
from helpers.import_layouts import write_ksdd2
from helpers.organizing import mask_of, picture, save
from helpers.reading import read_folders, read_source

CORNER = [[40.0, 5.0, 55.0, 5.0, 55.0, 20.0, 40.0, 20.0]]
CORNER_TEXT = "40,5;55,5;55,20;40,20"


def photos(root, names="abc"):
    for number, name in enumerate(names):
        photo(root / f"{name}.png", number)
    return root


@pytest.mark.parametrize("other", ["a.png", "./a.png", "A.PNG", "images/../a.png"])
@pytest.mark.parametrize("files", [1, 2])
def test_coco_entries_are_joined_in_any_order(tmp_path, other, files):
    """However the second one writes the name, and be it in another file."""
    photos(tmp_path)
    first = [coco_image(1, "a.png"), coco_image(2, "b.png"), coco_image(3, "c.png")], [coco_region(1)]
    second = [coco_image(7, other), coco_image(8, "b.png")], [coco_region(7, CORNER, 2), coco_region(8, CORNER, 2)]
    if files == 1:
        write_coco(tmp_path / "all.json", [*second[0], *first[0]], [*first[1], *second[1]])
    else:
        write_coco(tmp_path / "z.json", *first)
        write_coco(tmp_path / "y.json", *second)
    found = read_source("coco", tmp_path, unannotated="normal")
    assert found.labels == {"a.png": "scratch", "b.png": "dent", "c.png": "normal"}
    assert (found.pixels("a.png", 1), found.pixels("a.png", 2)) == (225, 400)
    assert "2 entries, 2 of them with annotations" in found.said


def test_coco_entries_of_one_id_for_one_image(tmp_path):
    photos(tmp_path)
    write_coco(tmp_path / "all.json", [coco_image(1, "a.png")] * 2 + [coco_image(2, "b.png")], [coco_region(1)])
    found = read_source("coco", tmp_path, unannotated="normal")
    assert found.labels == {"a.png": "scratch", "b.png": "normal"} and found.pixels("a.png") == 400


@pytest.mark.parametrize("written", ["7", 7.0])
def test_coco_ids_written_as_text_or_fraction(tmp_path, written):
    photos(tmp_path)
    write_coco(tmp_path / "all.json", [coco_image(7, "a.png"), coco_image(8, "b.png")], [coco_region(written)])
    assert read_source("coco", tmp_path, unannotated="normal").labels == {"a.png": "scratch", "b.png": "normal"}


def test_cvat_entries_are_joined(tmp_path):
    """Jobs with overlapping frames: one marks it, one tags it, one has nothing."""
    photos(tmp_path)
    write_cvat(tmp_path / "1.xml", cvat_image("a.png", cvat_polygon()), cvat_image("b.png"), cvat_image("c.png"))
    again = cvat_image("a.png", cvat_polygon("dent", CORNER_TEXT)), cvat_image("b.png", cvat_polygon())
    write_cvat(tmp_path / "2.xml", *again, cvat_image("c.png", element("tag", label="good")))
    write_cvat(tmp_path / "3.xml", cvat_image("a.png", element("tag", label="good")), cvat_image("b.png"))
    found = read_source("cvat", tmp_path, normal=("good",), unannotated="normal")
    assert found.labels == {"a.png": "scratch", "b.png": "scratch", "c.png": "normal"}
    assert found.pixels("a.png") == 625


def test_entries_that_call_an_image_differently_are_named(tmp_path):
    photos(tmp_path)
    for number, label in enumerate(("dent", "good")):
        images = cvat_image("a.png", element("tag", label=label)), cvat_image("b.png", cvat_polygon())
        write_cvat(tmp_path / f"{number}.xml", *images)
    found = read_source("cvat", tmp_path, normal=("good",))
    assert found.labels == {"b.png": "scratch"}
    assert f"{tmp_path / 'a.png'}: called dent, good in different entries: which is its class?" in found.said


def test_yolo_labels_in_two_places_are_joined(tmp_path):
    for number, name in enumerate("ab"):
        photo(tmp_path / f"images/{name}.png", number)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("")
    (tmp_path / "labels/b.txt").write_text("")
    (tmp_path / "images/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "images/b.txt").write_text("photographed on Monday\n")  # no label file
    (tmp_path / "data.yaml").write_text("train: images\nnames: [scratch]")
    found = read_source("yolo", tmp_path, unannotated="normal")
    assert found.labels == {"images/a.png": "scratch", "images/b.png": "normal"}
    assert "images with several label files" in found.said


# --- copies, byte for byte


@pytest.mark.parametrize("place", ["copy.png", "old/a.png", "old/deep/b_1.PNG"])
@pytest.mark.parametrize("kind", ["labelme", "coco", "cvat", "yolo"])
def test_a_copy_that_nobody_annotated_is_no_good_part(tmp_path, kind, place):
    folder = tmp_path / ("images" if kind == "yolo" else "")
    photos(folder, "ac")
    copy = folder / place
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "a.png", copy)
    if kind == "labelme":
        write_labelme(tmp_path / "a.json", labelme_shape())
    elif kind == "coco":
        write_coco(
            tmp_path / "a.json", [coco_image(i, n) for i, n in enumerate(("a.png", "c.png", place))], [coco_region(0)]
        )
    elif kind == "cvat":
        write_cvat(tmp_path / "a.xml", cvat_image("a.png", cvat_polygon()), cvat_image("c.png"), cvat_image(place))
    else:
        (tmp_path / "labels").mkdir()
        (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
        (tmp_path / "data.yaml").write_text("train: images\nnames: [scratch]")
    found = read_source(kind, tmp_path, unannotated="normal")
    assert sorted(found.labels.values()) == ["normal", "scratch"]
    assert f"{copy}: not annotated; the same file as {folder / 'a.png'}" in found.said


def test_a_copy_in_the_folder_of_good_parts_is_named(tmp_path):
    for i in range(3):
        save(tmp_path / f"bad/{i}.png", picture(i))
        save(tmp_path / f"masks/{i}.png", mask_of(i))
        save(tmp_path / f"good/{i}.png", picture(50 + i))
    shutil.copy(tmp_path / "bad/1.png", tmp_path / "good/other.png")
    found = read_folders(tmp_path / "bad", tmp_path / "masks", tmp_path / "good")
    assert "good/other.png" not in found.labels and len(found.labels) == 6
    assert f"{tmp_path / 'good/other.png'}: called normal; the same file as {tmp_path / 'bad/1.png'}" in found.said


def test_copies_are_known_by_their_masks_too(tmp_path):
    source = write_ksdd2(tmp_path / "ksdd2")
    shutil.copy(source / "train/10050.png", source / "train/10007.png")
    shutil.copy(source / "train/10051.png", source / "train/10099.png")  # without a mask
    found = read_source("ksdd2", source, unannotated="normal")
    assert not {"train/10007.png", "train/10099.png"} & set(found.labels)


def test_good_copies_stay(tmp_path):
    source = labelme_set(tmp_path / "set")
    for name in ("c2", "c3"):
        shutil.copy(source / "c.png", source / f"{name}.png")
    found = read_source("labelme", source, unannotated="normal")
    assert list(found.labels.values()).count("normal") == 4


def test_a_copy_that_is_annotated_otherwise_keeps_its_own_regions(tmp_path):
    """Two defects can both be there: the splits keep copies together, and the report names them."""
    source = labelme_set(tmp_path / "set")
    write_labelme(shutil.copy(source / "a.png", source / "e.png").with_suffix(".json"), labelme_shape("dent"))
    found = read_source("labelme", source)
    assert found.labels["e.png"] == "dent"
    assert "annotated in different ways; all are taken" in found.said and f"and {source / 'e.png'}" in found.said
    (source / "e.json").write_text(json.dumps({"shapes": [], "imagePath": "e.png"}))
    found = read_source("labelme", source)
    assert "e.png" not in found.labels and "e.png: called normal; the same file" in found.said
