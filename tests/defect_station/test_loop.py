"""The loop but for training, which other tests do: inspect into a database, review, select, pre-label, correct, append
to the dataset in use, compare the models."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.inspecting import FLAGS
from helpers.networks import small_facts
from helpers.toy_onnx import write_toy
from PIL import Image

from dinov3.data.defect_manifest import read_manifest
from dinov3.data.defect_masks import read_mask
from dinov3.data.defect_prepare.writer import DatasetWriter
from dinov3.defect_station.store import Store

pytest.importorskip("sqlalchemy", reason="needs sqlalchemy: pip install '.[station]'")


def photograph(number: int, bright: bool) -> np.ndarray:
    """To the toy model, brightness is the defect probability."""
    rng = np.random.default_rng(number)
    image = rng.integers(90, 110, (32, 32, 3), dtype=np.uint8)
    x, y = rng.integers(2, 10, 2)
    image[y : y + 18, x : x + 18] += np.uint8(120 if bright else 0)
    return image


def write_dataset(folder: Path) -> None:
    with DatasetWriter(folder) as writer:
        for number in range(16):
            split, bright = ("train", "val", "test", "test")[number % 4], number % 3 == 0
            mask = (photograph(number, bright)[..., 0] > 150).astype(np.uint8) if bright else None
            facts = {"label": "defect" if bright else "normal", "split": split, "group": f"P{number}", "source": "made"}
            writer.add(photograph(number, bright), f"P{number}_view1.png", mask, **facts)
        writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command="test")


def test_the_loop(tmp_path: Path, script) -> None:
    def run(name: str, *flags: object) -> str:
        status, out, err = script(name, *flags)
        assert status == 0, err
        return out

    data, store, labels = tmp_path / "data", tmp_path / "results.sqlite", tmp_path / "to_label"
    old = write_toy(tmp_path / "old.onnx", small_facts(thresholds={"classification": 0.5, "review": 0.42, "mask": 0.6}))
    new = write_toy(tmp_path / "new.onnx", small_facts(thresholds={"classification": 0.45, "mask": 0.6}))
    write_dataset(data)
    (tmp_path / "images").mkdir()
    for number in range(10, 40):  # parts 10 to 15 are in the dataset already
        Image.fromarray(photograph(100 + number, number % 2 == 0)).save(tmp_path / "images" / f"P{number}_view2.png")
    part = ("--part_regex", "(P[0-9]+)_")
    inspection = ("--checkpoint", old, "--image_dir", tmp_path / "images", "--output_dir", tmp_path / "results")
    run("inference_defect_model", *inspection, "--store", store, *part, *FLAGS, "--no_report", "--no_visualize")
    with Store.open(str(store)) as opened:  # a person looks at what is dark
        for row in list(opened.rows()):
            if int(row["part"][1:]) % 2:
                opened.decide(row["id"], "Li", "accept", after=0)
    told = run("select_defect_images", "--store", store, "--count", 24, "--output_dir", labels, "--format", "labelme")
    assert "24 of 30 images" in told
    with (labels / "selection.csv").open(newline="", encoding="utf-8-sig") as file:
        chosen = {Path(row["image"]).stem: row for row in csv.DictReader(file)}
    corrected = next(name for name, row in chosen.items() if not row["decision"])
    square = {"label": "defect", "shape_type": "rectangle", "points": [[1, 1], [6, 6]]}
    path = labels / "images" / f"{corrected}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shapes": [square]}))
    before = (data / "manifest.csv").read_text()
    group = ("--group_regex", "(P[0-9]+)_", "--no-group_similar")
    run("prepare_defect_data", "import", "labelme", labels, "--output_dir", data, "--append", *group)
    assert (data / "manifest.csv").read_text().startswith(before), "what was there stays"
    manifest = read_manifest(data)
    assert len(manifest) == 16 + 24
    columns = {name: manifest.columns[name].tolist() for name in ("image", "mask", "label", "split", "group")}
    splits: dict[str, set[str]] = {}
    for group_name, split in zip(columns["group"], columns["split"], strict=True):
        splits.setdefault(group_name, set()).add(split)
    assert all(len(found) == 1 for found in splits.values()), "no part is in two splits"
    for image, mask, label in list(zip(columns["image"], columns["mask"], columns["label"], strict=True))[16:]:
        name = Path(image).stem
        assert label == ("normal" if chosen[name]["decision"] == "accept" else "defect")
        if name == corrected:
            assert np.count_nonzero(read_mask(data / mask)) == 36
        elif label == "defect":
            found, model = (read_mask(p) > 0 for p in (data / mask, tmp_path / "results" / "masks" / f"{name}.png.png"))
            assert np.count_nonzero(found & model) >= 0.98 * np.count_nonzero(found | model)
    compared = ("--old", old, "--new", new, "--data_root", data, "--output_dir", tmp_path / "comparison")
    out = run("compare_defect_models", *compared, "--no_new_misses", "--num_workers", 0, "--threads", 1)
    assert "inspected by both" in out and (tmp_path / "comparison" / "report.html").is_file()
