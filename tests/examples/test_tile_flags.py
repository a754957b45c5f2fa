"""Training, evaluation and inspection of large images by tiles that are no squares: the scripts' whole path."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
import train_defect_model
from conftest import TRAIN_FLAGS
from helpers.tiling import FLAT, SHAPE, TILE, write_large
from PIL import Image

import dinov3.train.train_defect_classifier as loop
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_masks import read_mask
from dinov3.data.defect_tiles import Tiling
from dinov3.defect_evaluation.evaluate import evaluate
from dinov3.models.defect_checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Don't change it."""
    return write_large(tmp_path_factory.mktemp("large") / "data")


@pytest.fixture(scope="module")
def by_tiles(large: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of two epochs on tiles."""
    folder = tmp_path_factory.mktemp("by_tiles") / "run"
    train_defect_model.main([str(a) for a in train_flags(large, folder, "--epochs", 2)])
    return folder


def train_flags(large: Manifest, folder: Path, *more: object) -> list[object]:
    tiles = ("--image_size", *FLAT, "--tile_size", TILE, "--tile_defect_fraction", 0.6, "--tiles_per_image", 3)
    return ["--data_root", large.root, "--save_dir", folder, *TRAIN_FLAGS, *tiles, *more]


def test_training_validates_on_whole_images_and_stores_its_tiles(by_tiles: Path) -> None:
    lines = [json.loads(line) for line in (by_tiles / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(math.isfinite(line["val_total_loss"]) for line in lines)
    assert sum(map(sum, lines[0]["confusion"])) == 4  # images, not tiles
    content = load_checkpoint(by_tiles / "last.pth")
    assert Tiling.of(content) == Tiling.for_size(FLAT, TILE, 0.25) and Tiling.of(content).shape == FLAT
    assert Tiling.of(content, overlap=0.5).overlap == 0.5 and Tiling.of(content, size=0) is None


def test_a_run_on_tiles_goes_on_exactly_and_only_with_the_same_tiles(
    large: Manifest, by_tiles: Path, tmp_path: Path, script, monkeypatch
) -> None:
    folder = tmp_path / "run"

    def stop(*args: object, **options: object) -> None:
        if options["description"] == "epoch 2 val":
            raise KeyboardInterrupt
        return evaluate(*args, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "evaluate", stop)
        train_defect_model.main([str(a) for a in train_flags(large, folder, "--epochs", 2)])
    assert load_checkpoint(folder / "last.pth")["epoch"] == 1
    for flag, old, new in (
        ("--tile_overlap", 0.25, 0.5),
        ("--tile_size", 64, 48),
        ("--tile_defect_fraction", 0.6, 0.1),
    ):
        status, _, err = script("train_defect_model", *train_flags(large, folder, "--epochs", 2, "--resume", flag, new))
        assert status == 1 and f"{flag} was {old}, now {new}" in err
    assert script("train_defect_model", *train_flags(large, folder, "--epochs", 2, "--resume"))[0] == 0
    one, other = (load_checkpoint(f / "last.pth")["model"] for f in (by_tiles, folder))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--tile_size", 4, "--tile_size 4 (tiles of 3 x 4 pixels): expected at least 16"),
        ("--tile_overlap", 0.8, "--tile_overlap 0.8: expected a share"),
        ("--tile_defect_fraction", 1, "--tile_defect_fraction 1.0: expected from 0 to less than 1"),
    ],
)
def test_flags_that_make_no_sense_say_so(large, tmp_path: Path, script, flag: str, value: float, message: str) -> None:
    status, _, err = script("train_defect_model", *train_flags(large, tmp_path / "run", flag, value))
    assert status == 1 and message in err and not (tmp_path / "run").exists()


def test_evaluation_and_inspection_use_the_tiles_of_the_checkpoint(large, by_tiles: Path, tmp_path, script) -> None:
    base = ("--checkpoint", by_tiles / "best_accuracy.pth", "--device", "cpu", "--num_workers", 0)
    report = tmp_path / "metrics.json"
    status, out, err = script("evaluate_defect_model", *base, "--data_root", large.root, "--output", report)
    assert status == 0 and "by tiles of 48 x 64 px" in out, err
    metrics = json.loads(report.read_text())
    assert sum(map(sum, metrics["confusion"])) == 4 and 0 <= metrics["pixel_ap"] <= 1
    folders = {"default": (), "same": ("--tile_size", TILE), "none": ("--tile_size", 0)}
    rows = {}
    for name, flags in folders.items():
        out_dir = tmp_path / name
        arguments = ("--image_dir", large.root / "images/test", "--output_dir", out_dir, *flags)
        assert script("inference_defect_model", *base, *arguments)[0] == 0
        with (out_dir / "predictions.csv").open(newline="", encoding="utf-8-sig") as file:
            rows[name] = [row["defect_probability"] for row in csv.DictReader(file)]
        assert read_mask(out_dir / "masks/001.png.png").shape == SHAPE
        assert Image.open(out_dir / "visualizations/001.png.png").size == (1680, 450)
    assert rows["default"] == rows["same"] != rows["none"]
