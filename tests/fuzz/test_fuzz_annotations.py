"""Importers of annotation files: whatever is wrong with them, no image that they mark becomes good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.fuzzing import BYTE_EDITS, FILE_EDITS, TREE_EDITS, as_json, edited_bytes, edited_tree, fuzz, write_edited
from helpers.import_annotations import coco_set, cvat_set, labelme_set, survives
from helpers.import_layouts import write_yolo
from helpers.organizing import content

from dinov3.data.defect_formats.base import NORMAL, SourceImage
from dinov3.data.defect_formats.names import plain, plain_stem
from dinov3.data.defect_formats.parsing import AnnotationError, read_json
from dinov3.data.defect_formats.registry import IMPORTERS

WRITERS = {"coco": coco_set, "cvat": cvat_set, "labelme": labelme_set, "yolo": write_yolo}


def may_be_good(kind: str, sample: SourceImage, source: Path) -> bool:
    """Whether a spoiled source still calls an image good. No label of these sources is 'normal'."""
    if kind == "labelme":
        files = [_shapes(path) for path in source.iterdir() if path.suffix.lower() == ".json" and path.is_file()]
        own = [shapes for stems, shapes in files if plain_stem(sample.name) in stems]
        return [] in own and not any(own)
    if kind == "yolo":
        stem = plain_stem(Path(sample.image).name)
        found = [path for path in (source / "labels").rglob("*") if path.is_file() and plain(path.stem) == stem]
        return any(not path.read_bytes().strip(b"\xef\xbb\xbf \r\n\t") for path in found)
    return False


def _shapes(path: Path) -> tuple[set[str], object]:
    """The stems of the image that a labelme file may mean, by what it says and by its own name, and its shapes."""
    try:
        found = read_json(path)
        name = found.get("imagePath")
        return {plain(path.stem)} | ({plain_stem(name)} if isinstance(name, str) else set()), found.get("shapes")
    except (AnnotationError, AttributeError):
        return set(), None


def read(kind: str, source: Path) -> None:
    for sample in survives(IMPORTERS[kind], source):
        if sample.label == NORMAL:
            assert may_be_good(kind, sample, source), f"{sample.place} is called good"


@pytest.mark.parametrize("kind", WRITERS)
def test_files_that_are_missing_renamed_or_damaged(tmp_path: Path, kind: str):
    files = content(WRITERS[kind](tmp_path / "right"))
    fuzz(lambda edits: read(kind, write_edited(tmp_path / "source", files, edits)), FILE_EDITS, examples=14)


@pytest.mark.parametrize(("kind", "name"), [("coco", "all.json"), ("labelme", "a.json")])
def test_json_of_other_values(tmp_path: Path, kind: str, name: str):
    source = WRITERS[kind](tmp_path / "right")
    tree = json.loads((source / name).read_bytes())

    def target(edits):
        (source / name).write_bytes(as_json(edited_tree(tree, edits)))
        read(kind, source)

    fuzz(target, TREE_EDITS, examples=28)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("coco", "all.json"),
        ("cvat", "annotations.xml"),
        ("labelme", "a.json"),
        ("yolo", "data.yaml"),
        ("yolo", "labels/train/bad00.txt"),
    ],
)
def test_damaged_annotation_file(tmp_path: Path, kind: str, name: str):
    source = WRITERS[kind](tmp_path / "right")
    data = (source / name).read_bytes()

    def target(edits):
        (source / name).write_bytes(edited_bytes(data, edits))
        read(kind, source)

    fuzz(target, BYTE_EDITS, examples=14)
