"""prepare_defect_data.py import yolo: data.yaml, label files, and what goes wrong in both."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.import_layouts import SQUARE, assert_yolo_masks, importer, write_labels, write_yolo
from helpers.organizing import SIZE, assert_refused, mask_of, masks_by_image, picture, save
from PIL import Image, ImageDraw


@pytest.fixture
def imported(script, tmp_path):
    return importer(script, tmp_path)


@pytest.fixture
def source(tmp_path) -> Path:
    return write_yolo(tmp_path / "set")


# --- layouts


def test_the_layout_of_ultralytics(source, imported):
    manifest, out = imported("yolo", source)
    assert manifest.classes == ["normal", "dent", "scratch"]
    assert manifest.counts()["train"] == {"normal": 9, "dent": 3, "scratch": 3}
    assert manifest.counts()["val"] == {"normal": 3, "dent": 1, "scratch": 1}
    assert "images/images/train/bad00.png" in manifest.columns["image"]
    assert_yolo_masks(manifest)
    assert "skipped" not in out
    assert_yolo_masks(imported("yolo", source / "data.yaml", "--overwrite")[0])


def test_the_layout_of_roboflow(tmp_path, imported):
    save(tmp_path / "train" / "images" / "outside.png", picture(77))  # what ../train/images would be
    source = write_yolo(tmp_path / "set", roboflow=True)
    manifest, out = imported("yolo", source)
    assert manifest.counts()["val"] == {"normal": 3, "dent": 1, "scratch": 1}
    assert_yolo_masks(manifest)
    assert "data.yaml: test: '../test/images' is outside of" in out


@pytest.mark.parametrize(
    "text",
    [
        "path: {root}\ntrain: images/train\nval: [images/val]\nnames: [scratch, dent]",
        "path: ../set\ntrain: ./images/train/\nval: images/val\nnames: [scratch, dent]",
        "path: C:\\data\\set\ntrain: images\\train\nvalidation: images\\val\nnames: [scratch, dent]",
        "train: {root}/images/train\nval: {root}/images/val\nnames: {{'0': scratch, '1': dent}}",
        "train: train.txt\nval: val.txt\nnc: 2\nnames: [scratch, dent]",
    ],
)
def test_ways_to_name_the_folders(source, imported, text):
    (source / "data.yaml").write_text(text.format(root=source))
    for split, form in (("train", "./images/train/{}"), ("val", str(source / "images" / "val" / "{}"))):
        lines = [form.format(name) for name in sorted(os.listdir(source / "images" / split))]
        (source / f"{split}.txt").write_text("\n".join(lines) + "\n\n", encoding="utf-8-sig")
    manifest, _ = imported("yolo", source)
    assert sum(manifest.counts()["val"].values()) == 5
    assert_yolo_masks(manifest)


def test_lists_are_relative_to_where_they_lie(source, imported):
    for split in ("train", "val"):
        names = os.listdir(source / "images" / split)
        (source / "images" / f"{split}.txt").write_text("".join(f"./{split}/{name}\n" for name in sorted(names)))
    (source / "data.yaml").write_text("train: images/train.txt\nval: images/val.txt\nnames: [scratch, dent]")
    assert_yolo_masks(imported("yolo", source)[0])


@pytest.mark.parametrize("flat", [False, True])
def test_images_apart(source, tmp_path, imported, flat):
    """The folder given is what ``images`` was, or its parent."""
    shutil.move(source / "images", tmp_path / "photos" / "images")
    manifest, _ = imported("yolo", source, "--images", tmp_path / "photos" / ("images" if flat else ""))
    assert_yolo_masks(manifest)


@pytest.mark.parametrize("flat", [False, True])
def test_a_description_apart_from_images_and_labels(source, tmp_path, imported, flat):
    (tmp_path / "configs").mkdir()
    description = shutil.move(source / "data.yaml", tmp_path / "configs")
    manifest, _ = imported("yolo", description, "--images", source / ("images" if flat else ""))
    assert_yolo_masks(manifest)


@pytest.mark.parametrize(("one", "other"), [("\u00e9", "e\u0301"), ("e\u0301", "\u00e9")])
def test_accents_written_in_two_ways(source, imported, one, other):
    for folder, name, suffix in (("images", one, "png"), ("labels", other, "txt")):
        place = source / folder / "train"
        (place / f"d{name}").mkdir()
        (place / f"bad00.{suffix}").rename(place / f"d{name}" / f"p{name}.{suffix}")
    (source / "train.txt").write_text(
        f"images/train/d{other}/p{other}.png\nimages/train/good00.png\n", encoding="utf-8"
    )
    (source / "data.yaml").write_text("train: train.txt\nval: images/val\nnames: [scratch, dent]")
    mask = masks_by_image(imported("yolo", source)[0])[f"images/images/train/d{one}/p{one}.png"]
    np.testing.assert_array_equal(mask > 0, mask_of(0) > 0)


def test_labels_beside_the_images(source, imported):
    for split in ("train", "val"):
        (source / split).mkdir()
        for path in [*(source / "images" / split).iterdir(), *(source / "labels" / split).iterdir()]:
            path.rename(source / split / path.name)
    (source / "data.yaml").write_text("train: train\nval: val\nnames: [scratch, dent]")
    assert_yolo_masks(imported("yolo", source)[0])


def test_other_file_names_of_the_description(source, imported, script, tmp_path):
    (source / "data.yaml").rename(source / "dataset.yml")
    assert_yolo_masks(imported("yolo", source)[0])
    (source / "hyperparameters.yaml").write_text("lr: 1")
    result = script("prepare_defect_data", "import", "yolo", source, "--output_dir", tmp_path / "new")
    assert_refused(result, "several descriptions, dataset.yml, hyperparameters.yaml; give one as the source")


# --- verdicts and labels


def test_images_without_a_label_file_are_not_annotated(source, imported):
    (source / "labels" / "train" / "good00.txt").unlink()
    (source / "images" / "train" / "bad03.png").unlink()
    manifest, out = imported("yolo", source)
    assert len(manifest) == 18
    assert "good00.png: not annotated" in out
    assert "bad03.txt" in out.partition("x label files without an image")[2]
    manifest, _ = imported("yolo", source, "--unannotated", "normal", "--unmatched", "skip", "--overwrite")
    assert len(manifest) == 19


def test_map_and_normal(source, imported):
    manifest, _ = imported("yolo", source, "--map", "scratch=defect", "--normal", "dent")
    assert manifest.classes == ["normal", "defect"]
    assert manifest.counts()["train"] == {"normal": 12, "defect": 3}


def test_the_largest_region_is_the_class_and_all_are_in_the_mask(source, imported):
    write_labels(source, f"0 {SQUARE}", "1 0.5 0.5 0.55 0.5 0.55 0.55 0.5 0.55")
    manifest, _ = imported("yolo", source)
    row = manifest.columns["image"].tolist().index("images/images/train/bad00.png")
    assert manifest.columns["label"][row] == "scratch"
    mask = masks_by_image(manifest)["images/images/train/bad00.png"]
    values = [manifest.mask_classes.index(name) + 1 for name in ("scratch", "dent")]
    assert set(np.unique(mask)) == {0, *values}  # the small one stays visible on the large one


def test_parts_that_turn_in_opposite_directions_count_in_full(source, imported):
    """As tools write a region in several parts: one outline, with a line there and back between the parts."""
    there, back = "0.4 0.1 0.4 0.4 0.1 0.4 0.1 0.1 0.4 0.1", "0.6 0.1 0.6 0.4 0.9 0.4 0.9 0.1 0.6 0.1"
    write_labels(source, f"0 {there} {back}", "1 0.2 0.2 0.3 0.2 0.3 0.3 0.2 0.3")
    manifest, _ = imported("yolo", source)
    row = manifest.columns["image"].tolist().index("images/images/train/bad00.png")
    assert manifest.columns["label"][row] == "scratch"
    mask = masks_by_image(manifest)["images/images/train/bad00.png"]
    at = [mask[int(y * SIZE), int(x * SIZE)] for x, y in ((0.25, 0.25), (0.15, 0.35), (0.75, 0.25))]
    assert [manifest.mask_classes[value - 1] for value in at] == ["dent", "scratch", "scratch"]


def test_boxes_are_drawn_and_reported(source, imported):
    path = write_labels(source, "0 0.5 0.25 0.5 0.25")
    manifest, out = imported("yolo", source)
    expected = np.zeros((SIZE, SIZE), bool)
    expected[SIZE // 8 : 3 * SIZE // 8, SIZE // 4 : 3 * SIZE // 4] = True
    np.testing.assert_array_equal(masks_by_image(manifest)["images/images/train/bad00.png"] > 0, expected)
    assert f"{path}: 1" in out.partition("boxes in place of outlines")[2]


def test_an_image_in_two_splits_counts_once(source, imported):
    (source / "data.yaml").write_text("train: images/train\nval: [images/val, images/train]\nnames: [scratch, dent]")
    manifest, out = imported("yolo", source)
    assert_yolo_masks(manifest)
    assert "15 x images in two splits" in out


@pytest.mark.parametrize("size", [(32, 32), (48, 20), (301, 97)])
def test_masks_agree_with_an_independent_drawing(tmp_path, imported, size):
    width, height = size
    random = np.random.default_rng(width)
    source = write_yolo(tmp_path / "set")
    outlines = {}
    for i in range(6):
        angles = np.sort(random.uniform(0, 2 * np.pi, 9))
        radii = random.uniform(0.1, 0.6, 9)  # some corners lie outside of the image
        points = np.stack([0.5 + radii * np.cos(angles), 0.5 + radii * np.sin(angles)], 1)
        save(source / "images" / "train" / f"bad{i:02}.png", np.zeros((height, width, 3), np.uint8))
        write_labels(source, "0 " + " ".join(f"{v:.6f}" for v in points.ravel()), name=f"bad{i:02}")
        outlines[f"images/images/train/bad{i:02}.png"] = points
    masks = masks_by_image(imported("yolo", source)[0])
    for name, points in outlines.items():
        mask = masks[name] > 0
        fine = Image.new("L", (width * 8, height * 8))
        ImageDraw.Draw(fine).polygon([tuple(p) for p in points * size * 8], fill=1)
        share = np.asarray(fine, float).reshape(height, 8, width, 8).mean((1, 3))
        around = np.lib.stride_tricks.sliding_window_view(np.pad(share, 1, mode="edge"), (3, 3))
        assert mask[around.min((2, 3)) == 1].all()
        assert not mask[around.max((2, 3)) == 0].any()
        assert abs(mask.mean() - share.mean()) < 0.02 + 1 / min(size)
