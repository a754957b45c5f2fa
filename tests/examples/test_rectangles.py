"""A model of rectangles, ``--image_size 48 96``, through every script: it learns, and what it finds is in its place."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import train_defect_model
import yaml
from conftest import TRAIN_FLAGS, square_image
from PIL import Image

from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_masks import read_mask
from dinov3.inference import DefectPredictor
from dinov3.models.defect_checkpoint import load_checkpoint

SHAPE = (96, 256)  # height and width of images to inspect


def train_flags(squares: Manifest, folder: Path, *more: object) -> list[object]:
    return ["--data_root", squares.root, "--save_dir", folder, *TRAIN_FLAGS, "--image_size", 48, 96, *more]


@pytest.fixture(scope="module")
def run(squares: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of twelve epochs; don't change it."""
    folder = tmp_path_factory.mktemp("rectangles") / "run"
    train_defect_model.main([str(a) for a in train_flags(squares, folder, "--epochs", 12)])
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good image, and one with a defect in its top right corner."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(9)
    for name in ("good", "corner"):
        image = np.kron(square_image(rng, defect=False, size=128)[0][: SHAPE[0] // 2], np.ones((2, 2, 1), np.uint8))
        if name == "corner":
            image[8:32, 200:240] //= 4
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


def test_it_learns_class_and_mask(squares: Manifest, run: Path, tmp_path: Path, script) -> None:
    """It finds what it has not seen, and outlines it at the original place and scale."""
    checkpoint, result = run / "best_accuracy.pth", tmp_path / "test.json"
    base = ("--data_root", squares.root, "--num_workers", 0, "--device", "cpu")
    status, out, _ = script("evaluate_defect_model", "--checkpoint", checkpoint, *base, "--output", result)
    metrics = json.loads(result.read_text())
    assert status == 0 and "12 images (test)" in out
    assert metrics["image_ap"] > 0.9 and metrics["pixel_iou"] > 0.5
    image, mask = square_image(np.random.default_rng(9), defect=True)
    predictor = DefectPredictor.from_checkpoint(run / "best_iou.pth", device="cpu")
    assert predictor.image_size == (48, 96)
    result = predictor(np.kron(image, np.ones((2, 3, 1), np.uint8)))  # 128 x 192
    truth = np.kron(mask, np.ones((2, 3), np.uint8)) > 0
    assert ((result.mask > 0) & truth).sum() / ((result.mask > 0) | truth).sum() > 0.5
    x, y, width, height = result.regions[0].box
    assert result.mask[y : y + height, x : x + width].any() and result.regions[0].class_name == "defect"


def test_the_run_knows_its_shape_and_goes_on_with_no_other(squares: Manifest, run: Path, script) -> None:
    assert yaml.safe_load((run / "config.yaml").read_text())["image_size"] == [48, 96]
    assert load_checkpoint(run / "last.pth")["image_size"] == (48, 96)
    assert "48 x 96 px" in (run / "report.html").read_text(encoding="utf-8")
    status, out, _ = script("train_defect_model", "--config", run / "config.yaml", "--resume")
    assert status == 0 and "nothing to do" in out
    for size, shown in (((96, 48), "96 48"), ((96,), "96")):
        status, _, err = script("train_defect_model", *train_flags(squares, run, "--resume", "--image_size", *size))
        assert status == 1 and f"--image_size was 48 96, now {shown}" in err


def test_what_is_found_lies_where_it_is(squares: Manifest, run: Path, photographs, tmp_path: Path, script) -> None:
    checkpoint = tmp_path / "best.pth"
    shutil.copy(run / "best_iou.pth", checkpoint)
    base = ("--checkpoint", checkpoint, "--num_workers", 0, "--device", "cpu")
    status, _, err = script("calibrate_defect_model", *base, "--data_root", squares.root, "--max_overkill", 0.5)
    assert status == 0 and load_checkpoint(checkpoint)["image_size"] == (48, 96), err
    for name, flags in {"whole": (), "tiles": ("--tile_size", 192)}.items():
        folder = tmp_path / name
        paths = ("--image_dir", photographs, "--output_dir", folder)
        status, _, err = script("inference_defect_model", *base, *paths, *flags)
        assert status == 0, err
        with (folder / "predictions.csv").open(newline="", encoding="utf-8-sig") as file:
            probability = {row["image"]: float(row["defect_probability"]) for row in csv.DictReader(file)}
        assert probability["corner.png"] > probability["good.png"]
        mask = read_mask(folder / "masks/corner.png.png")
        assert mask.shape == read_mask(folder / "masks/good.png.png").shape == SHAPE
        y, x = np.nonzero(mask)
        assert y.mean() < 40 and 190 < x.mean() < 250, (y.mean(), x.mean())
        assert Image.open(folder / "visualizations/corner.png.png").size == (1680, 450)
