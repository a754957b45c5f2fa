"""The model's regions leave as annotations, and come back through the importers as the same masks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.data.defect_masks import read_mask
from dinov3.defect_station.prelabel.formats import WRITERS, PreLabel, fill_coco
from dinov3.defect_station.prelabel.outlines import outlines, trace_edges

LABELS = {1: "pit", 2: "scratch"}


def rings_lines_and_dots() -> np.ndarray:
    """All that is hard: holes, one of them in a ring of another class, lines of a pixel, three pixels, one pixel."""
    mask = np.zeros((120, 160), np.uint8)
    cv2.circle(mask, (40, 40), 30, 1, -1)
    cv2.circle(mask, (40, 40), 18, 0, -1)
    cv2.circle(mask, (32, 18), 2, 0, -1)
    cv2.circle(mask, (40, 40), 9, 2, -1)
    mask[40, 40] = 0
    mask[80:83, 10] = 1
    mask[90, 20:22] = mask[91, 22] = 1
    mask[100, 10] = 2
    mask[0:4, 155:] = mask[119, 0] = 1  # at the border
    cv2.line(mask, (80, 10), (150, 60), 2, 1)
    cv2.line(mask, (80, 100), (150, 100), 2, 1)
    cv2.line(mask, (75, 70), (75, 118), 1, 1)
    cv2.ellipse(mask, (118, 80), (24, 9), 20, 0, 360, 1, -1)
    return mask


def ragged() -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(0).random((90, 90)), (0, 0), 2)
    return (noise > np.quantile(noise, 0.7)).astype(np.uint8)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return np.count_nonzero(one & other) / np.count_nonzero(one | other)


def write(folder: Path, images: list[PreLabel], kind: str) -> None:
    for number, image in enumerate(images):
        path = folder / "images" / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (*image.size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    WRITERS[kind](folder, images)


def rows_of(manifest: Manifest) -> dict[str, dict[str, str]]:
    """The rows after the first thirty, by the stem of the name that their image had."""
    columns = {name: values.tolist()[30:] for name, values in manifest.columns.items()}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return {Path(row["image"]).stem: row for row in rows}


@pytest.mark.parametrize("kind", ["labelme", "coco", "cvat", "yolo"])
def test_regions_and_decisions_come_back_as_they_left(kind: str, tmp_path: Path, script, parts, organize) -> None:
    """By way of the importer, into the dataset that is in use."""
    manifest, _ = organize()
    masks = {"a.png": rings_lines_and_dots(), "sub/b.png": ragged()}
    empty = np.zeros((20, 30), np.uint8)
    images = [PreLabel(name, mask, {v: LABELS[v] for v in np.unique(mask) if v}) for name, mask in masks.items()]
    images += [PreLabel("nobody.png", empty, {}), PreLabel("good.png", empty, {}, "accept")]
    images.append(PreLabel("bad.png", empty, {}, "reject", "pit"))
    write(tmp_path / "to_label", images, kind)
    flags = ("--output_dir", manifest.root, "--append")
    status, out, err = script("prepare_defect_data", "import", kind, tmp_path / "to_label", *flags)
    assert status == 0, err
    manifest = read_manifest(manifest.root)
    rows = rows_of(manifest)
    told = (
        {"good": "normal", "bad": "pit"}
        if kind in ("labelme", "cvat")
        else {"good": "normal"}
        if kind == "yolo"
        else {}
    )
    labels = {name: row["label"] for name, row in rows.items() if name not in ("a", "b")}
    assert labels == told, f"an image that nobody annotated is no good one: {out}"
    assert "bad" not in rows or not rows["bad"]["mask"]
    for name, expected in masks.items():
        found = read_mask(manifest.root / rows[Path(name).stem]["mask"])
        assert iou(found > 0, expected > 0) >= 0.98
        for value, label in LABELS.items():
            if (expected == value).any():
                assert iou(found == manifest.mask_classes.index(label) + 1, expected == value) >= 0.98, (name, label)


def test_masks_come_back_exactly(tmp_path: Path, script, parts, organize) -> None:
    manifest, _ = organize()
    mask = rings_lines_and_dots()
    empty = np.zeros_like(mask)
    images = [PreLabel("new.png", mask, LABELS), PreLabel("ok.png", empty, {}, "accept"), PreLabel("x.png", empty, {})]
    write(tmp_path / "to_label", images, "masks")
    assert [path.name for path in (tmp_path / "to_label" / "undecided").iterdir()] == ["x.png"]
    assert (tmp_path / "to_label" / "classes.txt").read_text() == "pit\nscratch\n"
    flags = ["--append", "--output_dir", manifest.root, "--defect_images", tmp_path / "to_label" / "defect"]
    flags += ["--defect_masks", tmp_path / "to_label" / "masks", "--normal_images", tmp_path / "to_label" / "good"]
    status, out, err = script("prepare_defect_data", "organize", *flags)
    assert status == 0 and "2 images added to 30" in out, err
    rows = rows_of(read_manifest(manifest.root))
    assert rows["ok"]["label"] == "normal" and rows["new"]["label"] == "defect"
    assert iou(read_mask(manifest.root / rows["new"]["mask"]) > 0, mask > 0) == 1


def test_outlines_are_simple_enough_to_be_edited() -> None:
    """A disc of 30 pixels radius takes about 200 edges of pixels; a straight line of a pixel has four corners."""
    disc = cv2.circle(np.zeros((80, 80), np.uint8), (40, 40), 30, 1, -1)
    line = cv2.line(np.zeros((80, 80), np.uint8), (5, 40), (70, 40), 1, 1)

    for mask, most in ((disc, 40), (line, 8)):
        (outline,) = outlines(mask, {1: "x"}, trace_edges, fill_coco)
        assert len(outline.points) <= most
        distances = [abs(cv2.pointPolygonTest(outline.points.astype(np.float32), p.tolist(), True)) for p in
                     trace_edges(mask > 0)[0].astype(float)]  # fmt: skip
        assert np.mean(distances) <= 0.5, "pixels from the outline to the region's edge"
