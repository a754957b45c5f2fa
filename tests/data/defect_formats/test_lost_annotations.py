"""Annotations whose image has another name: found if that is unambiguous; else no image becomes good for it."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pytest
from helpers.import_annotations import (
    coco_image,
    coco_region,
    cvat_image,
    cvat_polygon,
    labelme_shape,
    photo,
    write_coco,
    write_cvat,
    write_labelme,
)
from helpers.import_layouts import write_folders, write_ksdd2, write_mvtec, write_visa
from helpers.organizing import mask_of, picture, save
from helpers.reading import Read, read_folders, read_source

from dinov3.data.defect_formats.names import distance, plain, stems_of
from dinov3.defect_errors import DefectError

# What an annotation calls an image, and what its file is called.
SPELLINGS = {
    "percent": (quote("part 1 é+.png"), "part 1 é+.png"),
    "percent on disk": ("part 1.png", "part%201.png"),
    "percent twice": (quote(quote("a b.png")), "a b.png"),
    "case": ("Part_1.PNG", "part_1.png"),
    "no suffix": ("part_1", "part_1.png"),
    "other suffix": ("part_1.bmp", "part_1.png"),
    "suffix of no image": ("part_1.dng", "part_1.png"),
    "suffix twice": ("part_1.jpg", "part_1.jpg.png"),
    "dot in the stem": ("part.1", "part.1.png"),
    "accents": ("pa\u0301rt.png", "p\u00e1rt.png"),
    "folder": ("Photos\\DAY 1\\part_1.png", "photos/day 1/part_1.png"),
}


def annotated(kind: str, source: Path, *entries: tuple[str, bool]) -> Path:
    """A source whose entries (name of an image, whether it is marked) have these names."""
    if kind == "coco":
        images = [coco_image(i, name) for i, (name, _) in enumerate(entries)]
        write_coco(source / "all.json", images, [coco_region(i) for i, (_, marked) in enumerate(entries) if marked])
    elif kind == "cvat":
        write_cvat(source / "all.xml", *(cvat_image(name, *[cvat_polygon()] * marked) for name, marked in entries))
    elif kind == "labelme":
        for i, (name, marked) in enumerate(entries):
            write_labelme(source / f"json/{i}.json", *[labelme_shape()] * marked, image=name)
    else:
        (source / "data.yaml").write_text("train: images\nnames: [scratch]")
        for name, marked in entries:
            stem = name if name.endswith(("part_1", ".1")) else name.rpartition(".")[0]
            path = source / "labels" / f"{stem}.txt".replace("\\", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("0 0.5 0.5 0.5 0.5\n" if marked else "")
    return source


def label_of(found: Read, file: str) -> str | None:
    return next((label for name, label in found.labels.items() if name.endswith(file)), None)


@pytest.mark.parametrize("kind", ["coco", "cvat", "labelme", "yolo"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_names_written_another_way_are_found(tmp_path, kind, spelling):
    name, file = SPELLINGS[spelling]
    photo(tmp_path / "images" / file, 1)
    photo(tmp_path / "images/other.png", 2)
    found = read_source(kind, annotated(kind, tmp_path, (name, True), ("other.png", False)), unannotated="normal")
    assert (label_of(found, file), label_of(found, "other.png")) == ("scratch", "normal")


@pytest.mark.parametrize("kind", ["coco", "cvat", "labelme", "yolo"])
@pytest.mark.parametrize("link", ["image", "folder"])
def test_links_are_found(tmp_path, kind, link):
    if kind == "yolo" and link == "folder":
        pytest.skip("its folders are named in data.yaml, not in the labels")
    source = tmp_path / "set"
    photo(source / "images/other.png", 2)
    if link == "image":  # the image is a link to a file of the name that was annotated
        photo(tmp_path / "store/IMG_7.png", 1)
        os.symlink(tmp_path / "store/IMG_7.png", source / "images/today.png")
        name, file = "IMG_7.png", "today.png"
    else:  # the annotation names a folder that is a link
        photo(source / "images/v3/first.png", 1)
        photo(source / "images/v2/first.png", 3)
        os.symlink(source / "images/v3", source / "images/latest")
        name, file = "images/latest/first.png", "v3/first.png"
    found = read_source(kind, annotated(kind, source, (name, True), ("other.png", False)), unannotated="normal")
    assert label_of(found, file) == "scratch"


@pytest.mark.parametrize("kind", ["coco", "cvat", "labelme", "yolo"])
@pytest.mark.parametrize("files", [("part_1.png", "PART_1.png"), ("part_1.png", "part_1.jpg"), ("unlike.png",)])
def test_what_is_not_clear_stops_the_import(tmp_path, kind, files):
    """Two images could be meant, or none: neither may become a good part."""
    for number, file in enumerate((*files, "c.png", "d.png")):
        photo(tmp_path / "images" / file, number)
    name = "Part_1.bmp" if len(files) == 2 else "part_1.png"
    clean = [(file, False) for file in (*files, "c.png")] if kind in ("coco", "cvat") else []
    source = annotated(kind, tmp_path, (name, True), ("d.png", True), *clean)
    with pytest.raises(DefectError) as stopped:
        found = read_source(kind, source, unannotated="normal")
        assert not {label_of(found, file) for file in files} & {"normal"}
        raise DefectError("--unannotated normal: 1 annotations found no image --unmatched skip")
    assert "--unannotated normal" in str(stopped.value) and "--unmatched skip" in str(stopped.value)
    found = read_source(kind, source, unannotated="normal", unmatched="skip")
    assert label_of(found, "d.png") == "scratch"
    assert "not annotated (--unannotated normal" not in read_source(kind, source).said  # that would make it worse


def test_an_entry_without_marks_that_finds_no_image_loses_nothing(tmp_path):
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png", 1)
    annotated("coco", tmp_path, ("a.png", True), ("b.png", False), ("gone.png", False))
    assert read_source("coco", tmp_path, unannotated="normal").labels == {"a.png": "scratch", "b.png": "normal"}


@pytest.mark.parametrize("broken", ["cut.json", "cut.xml"])
def test_a_broken_file_may_hold_the_annotations_of_any_image(tmp_path, broken):
    kind = "coco" if broken.endswith("json") else "cvat"
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png", 1)
    source = annotated(kind, tmp_path, ("a.png", True), ("b.png", False))
    (tmp_path / broken).write_text('{"images": [' if kind == "coco" else "<annotations><image")
    with pytest.raises(DefectError, match=broken):
        read_source(kind, source, unannotated="normal")
    (tmp_path / broken).write_text('{"colour": 3}' if kind == "coco" else "<settings/>")  # of something else
    assert read_source(kind, source, unannotated="normal").labels["b.png"] == "normal"


@pytest.mark.parametrize(("one", "other"), [("part_1.png", "Part_1.png"), ("a b.png", "a%20b.png")])
def test_the_very_name_comes_first(tmp_path, one, other):
    photo(tmp_path / one)
    photo(tmp_path / other, 1)
    source = annotated("cvat", tmp_path, (one, True), (other, False))
    assert read_source("cvat", source, unannotated="normal").labels == {one: "scratch", other: "normal"}


def test_yolo_folders_in_capitals(tmp_path):
    photo(tmp_path / "Images/Train/a.JPG")
    photo(tmp_path / "Images/Train/b.JPG", 1)
    (tmp_path / "LABELS/train").mkdir(parents=True)
    (tmp_path / "LABELS/train/A.TXT").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "Data.YAML").write_text("Train: images/train\nnames: [scratch]")
    found = read_source("yolo", tmp_path, unannotated="normal")
    assert found.labels == {"Images/Train/a.JPG": "scratch", "Images/Train/b.JPG": "normal"}


def test_yolo_labels_of_another_split_are_not_taken(tmp_path):
    """Their image is missing; one of the other split has the same number."""
    for split in ("train", "val"):
        (tmp_path / f"labels/{split}").mkdir(parents=True)
        for number in (1, 2):
            photo(tmp_path / f"images/{split}/{number}.png", number * len(split))
            (tmp_path / f"labels/{split}/{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "images/train/1.png").unlink()
    (tmp_path / "labels/val/1.txt").unlink()
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [scratch]")
    with pytest.raises(DefectError, match=r"1 annotations found no image[\s\S]*labels/train/1.txt"):
        read_source("yolo", tmp_path, unannotated="normal")


FOREIGN = {
    "Windows": ("E:\\line 3\\sets\\train\\images", "E:\\line 3\\sets\\val\\images"),
    "network share": ("\\\\server\\sets\\train\\images", "\\\\server\\sets\\val\\images"),
    "Linux": ("/home/nobody/sets/train/images", "/home/nobody/sets/val/images"),
    "two roots": ("/kaggle/input/a/train/images", "/kaggle/working/val/images"),
    "list and folder": (["/content/x/train/images"], "/content/x/val/images"),
}


@pytest.mark.parametrize("machine", FOREIGN)
def test_folders_of_another_machine(tmp_path, machine):
    train, val = FOREIGN[machine]
    yolo_splits(tmp_path, f"train: {train}\nval: {val}\n")
    found = read_source("yolo", tmp_path)
    assert sorted(found.labels) == ["train/images/0.png", "train/images/1.png", "val/images/0.png", "val/images/1.png"]
    assert "folders of another machine" in found.said


def yolo_splits(root: Path, text: str) -> None:
    for s, split in enumerate(("train", "val")):
        (root / split / "labels").mkdir(parents=True)
        for i in range(2):
            photo(root / split / f"images/{i}.png", 2 * s + i)
            (root / split / f"labels/{i}.txt").write_text("0 0.5 0.5 0.5 0.5\n" if i else "")
    (root / "data.yaml").write_text(text + "names: [scratch]\n")


def test_lists_of_another_machine_keep_to_one_root(tmp_path):
    """A line whose image is missing takes no other that happens to have its name."""
    yolo_splits(tmp_path, "train: train.txt\nval: val.txt\n")
    photo(tmp_path / "images/9.png", 9)
    lines = [f"D:\\sets\\{split}\\images\\{i}.png" for split in ("train", "val") for i in (0, 1, 9)]
    (tmp_path / "train.txt").write_text("\n".join(lines[:3]))
    (tmp_path / "val.txt").write_text("\r\n".join(lines[3:]))
    found = read_source("yolo", tmp_path)
    assert len(found.labels) == 4 and "images/9.png" not in found.labels
    assert "9.png' is outside of" in found.said


@pytest.mark.parametrize("val", ["/data/set/images", "/data/set/images/train"])
def test_ends_that_lead_to_one_folder_are_refused(tmp_path, val):
    photo(tmp_path / "images/train/a.png")
    (tmp_path / "data.yaml").write_text(f"train: /data/other/images/train\nval: {val}\nnames: [scratch]")
    with pytest.raises(DefectError, match="is not on this machine, and its end leads to"):
        read_source("yolo", tmp_path)


# --- layouts and plain folders


def upper(path: Path, *names: str) -> None:
    for name in names:
        for found in sorted(path.rglob(name), reverse=True):
            found.rename(found.with_name(name.upper()))


def test_layouts_in_capitals(tmp_path):
    for kind, source, names in (
        ("mvtec", write_mvtec(tmp_path / "mvtec") / "bottle", ("ground_truth", "test", "train", "good")),
        ("visa", write_visa(tmp_path / "visa", ("candle",)), ("Masks", "Images", "Data")),
        ("ksdd2", write_ksdd2(tmp_path / "ksdd2"), ("train", "test")),
        ("folders", write_folders(tmp_path / "folders"), ("masks", "good")),
    ):
        before = read_source(kind, source)
        upper(source, *names)
        after = read_source(kind, source)
        assert sorted(after.labels.values()) == sorted(before.labels.values()), kind
        assert sum(map(after.pixels, after.masks)) == sum(map(before.pixels, before.masks)) > 0, kind


@pytest.mark.parametrize(
    ("image", "mask"), [("A 1.png", "a%201_mask.PNG"), ("a.jpg", "A.jpg.png"), ("part.1.bmp", "PART.1.png")]
)
def test_masks_are_paired_however_they_are_written(tmp_path, image, mask):
    save(tmp_path / "bad" / image, picture(1))
    save(tmp_path / "good/g.png", picture(2))
    for place in ("masks", "bad") if mask != "PART.1.png" else ("masks",):
        save(tmp_path / place / mask, mask_of(3))
        found = read_folders(tmp_path / "bad", tmp_path / "masks", tmp_path / "good")
        assert (list(found.labels.values()), found.pixels(f"bad/{image}")) == (["defect", "normal"], 15)
        (tmp_path / place / mask).unlink()
        save(tmp_path / "masks/none.png", mask_of(4))


def test_ksdd2_masks_without_an_image(tmp_path):
    source = write_ksdd2(tmp_path / "ksdd2")
    (source / "train/10050.png").rename(source / "train/10060.png")
    with pytest.raises(DefectError, match="10050_GT.png"):
        read_source("ksdd2", source, unannotated="normal")
    (source / "train/10050_GT.png").rename(source / "train/10060_gt.PNG")
    assert read_source("ksdd2", source, unannotated="normal").labels["train/10060.png"] == "defect"


# --- comparing names


def test_how_far_names_are_apart():
    assert distance("a.png", "a.png") < distance("A.png", "a.png") == distance("%61.png", "a.png")
    assert distance("A.png", "a.png") < distance("a", "a.png") == distance("a.bmp", "a.png") < distance("b", "a.png")
    assert plain("%252F") == "/" and "part.0" in stems_of("part.0")
    assert plain("100%") == "100%"
