"""The whole loop: train on some of the parts, inspect the rest into a database, review, select, pre-label, correct,
append to the dataset in use, train again, compare."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import TRAIN_FLAGS, square_image
from helpers.inspecting import FLAGS
from PIL import Image

from dinov3.data.defect_manifest import read_manifest
from dinov3.data.defect_masks import read_mask
from dinov3.data.defect_prepare.writer import DatasetWriter
from dinov3.defect_station.prelabel.formats import PreLabel, write_labelme
from dinov3.defect_station.store import Store

pytest.importorskip("sqlalchemy", reason="needs sqlalchemy: pip install '.[station]'")
pytestmark = pytest.mark.usefixtures("undrawn")
KNOWN = 16  # parts in the dataset; the line shows those from SEEN_AGAIN on
SEEN_AGAIN, ALL = 12, 30


def is_bad(part: int) -> bool:
    return part % 2 == 1


def view(part: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    return square_image(np.random.default_rng([part, number]), is_bad(part))


def write_dataset(folder: Path) -> None:
    with DatasetWriter(folder) as writer:
        for part in range(KNOWN):
            kind, split = "defect" if is_bad(part) else "normal", ("train", "train", "val", "test")[part // 2 % 4]
            image, mask = view(part, 1)
            facts = {"label": kind, "split": split, "group": f"P{part}", "source": "made"}
            writer.add(image, f"P{part}_view1.png", mask if is_bad(part) else None, **facts)
        writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command="test")


def test_the_loop(tmp_path: Path, script) -> None:
    def run(name: str, *flags: object) -> str:
        status, out, err = script(name, *flags)
        assert status == 0, err
        return out

    data, store, labels = tmp_path / "data", tmp_path / "results.sqlite", tmp_path / "to_label"
    write_dataset(data)
    train = ("--data_root", data, "--epochs", 1, *TRAIN_FLAGS)
    run("train_defect_model", *train, "--save_dir", tmp_path / "old")
    old = tmp_path / "old" / "best_accuracy.pth"

    # Inspect what comes; parts 12 to 15 are in the dataset already, with another view.
    (tmp_path / "images").mkdir()
    for part in range(SEEN_AGAIN, ALL):
        Image.fromarray(view(part, 2)[0]).save(tmp_path / "images" / f"P{part}_view2.png")
    inspection = ("--checkpoint", old, "--image_dir", tmp_path / "images", "--output_dir", tmp_path / "results")
    part_flags = ("--part_regex", "(P[0-9]+)_")
    run("inference_defect_model", *inspection, "--store", store, *part_flags, *FLAGS, "--no_report", "--no_visualize")

    # A person reviews some, names a defect on one, and takes one decision back.
    decided = {12: "accept", 16: "accept", 13: "reject", 17: "reject", 18: "undo"}
    with Store.open(str(store)) as opened:
        for row in list(opened.rows()):
            part = int(row["part"][1:])
            if part in decided:
                first = "accept" if decided[part] == "undo" else decided[part]
                number = opened.decide(row["id"], "Li", first, class_name="defect" if first == "reject" else None)
                if decided[part] == "undo":
                    opened.decide(row["id"], "Li", "undo", after=number)

    told = run("select_defect_images", "--store", store, "--count", 16, "--output_dir", labels, "--random_share", 0.5)
    assert "16 of 18 images" in told and "8 random" in told
    with (labels / "selection.csv").open(newline="", encoding="utf-8-sig") as file:
        chosen = {int(row["part"][1:]): row for row in csv.DictReader(file)}
    assert len(chosen) == 16
    for part, row in chosen.items():
        assert row["decision"] == ("" if decided.get(part) == "undo" else decided.get(part, ""))

    # Whoever corrects the outlines draws what is true; what was decided before stays as it came.
    for part, row in chosen.items():
        if not row["decision"]:
            path = (labels / "images" / row["image"]).with_suffix(".json")
            path.unlink(missing_ok=True)
            write_labelme(labels, [PreLabel(row["image"], view(part, 2)[1], {1: "defect"}, "accept")])

    before = (data / "manifest.csv").read_text()
    added = ("--output_dir", data, "--append", "--group_regex", "(P[0-9]+)_", "--no-group_similar")
    run("prepare_defect_data", "import", "labelme", labels, *added)
    assert (data / "manifest.csv").read_text().startswith(before), "what was there stays"
    manifest = read_manifest(data)
    assert len(manifest) == KNOWN + 16
    columns = {name: manifest.columns[name].tolist() for name in ("image", "mask", "label", "split", "group")}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["group"], set()).add(row["split"])
    assert len(splits) == KNOWN + sum(part >= KNOWN for part in chosen), "the views of a part have one group"
    assert all(len(found) == 1 for found in splits.values()), "no part is in two splits"
    for row in rows[KNOWN:]:
        part = int(Path(row["image"]).name[1:].split("_")[0])
        assert row["label"] == ("defect" if is_bad(part) else "normal"), "by a person's word or by the mask they drew"
        if is_bad(part) and not chosen[part]["decision"]:
            drawn, true = read_mask(data / row["mask"]) > 0, view(part, 2)[1] > 0
            assert np.count_nonzero(drawn & true) >= 0.98 * np.count_nonzero(drawn | true)

    run("train_defect_model", *train, "--save_dir", tmp_path / "new", "--init_from", old)
    new = tmp_path / "new" / "best_accuracy.pth"
    compared = ("--old", old, "--new", new, "--data_root", data, "--output_dir", tmp_path / "comparison")
    status, out, err = script("compare_defect_models", *compared, "--no_new_misses", *FLAGS, "--threads", 1)
    record = json.loads((tmp_path / "comparison" / "comparison.json").read_text(encoding="utf-8"))
    tested = sum(row["split"] == "test" for row in rows)
    assert record["inspected"] == tested and f"{tested} of {tested} images inspected by both" in out, err
    assert record["old"]["thresholds"] != record["new"]["thresholds"], "each is calibrated"
    assert status == ("new miss" in record["flips"]), "a release is stopped by a new miss"
