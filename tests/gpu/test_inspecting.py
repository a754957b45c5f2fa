"""Inspection, calibration and evaluation on the GPU give the CPU's verdicts, masks and limits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.inspecting import records_of, rows_of
from PIL import Image

from dinov3.data.defect_manifest import Manifest
from dinov3.inference.predictor import DefectPredictor, Prediction
from dinov3.models.defect_checkpoint import load_checkpoint

pytest_plugins = ["helpers.gpu"]
pytestmark = pytest.mark.gpu

# By how much a probability may differ: exact float32, and bf16 or fp16 with 8 or 11 bits.
CLOSE = {"off": 1e-3, "auto": 3e-2, "fp16": 1e-2}


@pytest.fixture(scope="module")
def checkpoint(trained: Path) -> Path:
    return trained / "best_accuracy.pth"


@pytest.fixture(scope="module")
def images(squares: Manifest) -> list[Path]:
    """The test images."""
    return [squares.root / name for name in squares.select("test").columns["image"]]


def compare(found: Prediction, expected: Prediction, close: float) -> None:
    """The same verdict and mask, but for what lies at a threshold."""
    assert found.defect_probability == pytest.approx(expected.defect_probability, abs=close)
    if abs(expected.defect_probability - expected.threshold) > close:
        assert found.verdict == expected.verdict
    marked = np.mean((found.mask > 0) != (expected.mask > 0))
    assert marked <= close, f"{marked:.1%} of the mask's pixels differ"
    assert abs(found.attention - expected.attention).max() <= close


@pytest.mark.parametrize("precision", CLOSE)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_verdicts_and_masks_are_those_of_the_cpu(
    device: torch.device, compiler, checkpoint: Path, images: list[Path], precision: str, compiled: bool
) -> None:
    if device.type == "cpu" and precision == "fp16":
        pytest.skip("the CPU has no fp16")
    expected = DefectPredictor.from_checkpoint(checkpoint, "cpu")(images)
    options = {"mixed_precision": precision, "compile": compiled}
    predictor = DefectPredictor.from_checkpoint(checkpoint, str(device), **options)
    for one, other in zip(predictor(images), expected, strict=True):
        compare(one, other, CLOSE[precision])


def test_tiles_are_inspected_as_on_the_cpu(
    device: torch.device, checkpoint: Path, images: list[Path], tmp_path: Path
) -> None:
    row = np.concatenate([np.asarray(Image.open(path).convert("RGB")) for path in images[:3]], axis=1)
    large = tmp_path / "large.png"
    Image.fromarray(np.concatenate([row, row[::-1]])).save(large)
    tiles = {"tile_size": 64, "tile_overlap": 0.25, "mixed_precision": "off"}
    found, expected = (
        DefectPredictor.from_checkpoint(checkpoint, name, **tiles)(large) for name in (str(device), "cpu")
    )
    assert found.mask.shape == (128, 192)
    compare(found, expected, CLOSE["off"])


def test_the_script_writes_the_same_tables_and_every_picture(
    device: torch.device, checkpoint: Path, images: list[Path], script, tmp_path: Path
) -> None:
    for path in images:
        shutil.copy(path, tmp_path / path.name)
    flags = ("--checkpoint", checkpoint, "--image_dir", tmp_path, "--num_workers", 2, "--mixed_precision", "off")
    for name in ("cpu", str(device)):
        output = tmp_path.with_name(f"{tmp_path.name}_{'cpu' if name == 'cpu' else 'gpu'}")
        if output.exists():  # of the CPU, in a dry run
            shutil.rmtree(output)
        status, out, err = script("inference_defect_model", *flags, "--device", name, "--output_dir", output)
        assert status == 0, out + err
        assert (output / "report.html").is_file()
        for folder in ("masks", "visualizations"):
            assert len(list((output / folder).iterdir())) == len(images)
    cpu = tmp_path.with_name(f"{tmp_path.name}_cpu")
    gpu = cpu if device.type == "cpu" else tmp_path.with_name(f"{tmp_path.name}_gpu")
    one, other = rows_of(cpu), rows_of(gpu)
    assert {name: row["verdict"] for name, row in one.items()} == {n: row["verdict"] for n, row in other.items()}
    for name, row in one.items():
        expected = float(row["defect_probability"])
        assert float(other[name]["defect_probability"]) == pytest.approx(expected, abs=CLOSE["off"])
    assert [len(record["regions"]) for record in records_of(cpu)] == [len(r["regions"]) for r in records_of(gpu)]


def test_calibration_and_evaluation_find_what_they_do_on_the_cpu(
    device: torch.device, checkpoint: Path, squares: Manifest, script, tmp_path: Path
) -> None:
    metrics, thresholds = {}, {}
    for name in ("cpu", "gpu"):
        where = "cpu" if name == "cpu" else str(device)
        own = tmp_path / f"{name}.pth"
        shutil.copy(checkpoint, own)
        common = ("--checkpoint", own, "--data_root", squares.root, "--device", where, "--mixed_precision", "off")
        status, out, err = script("calibrate_defect_model", *common, "--num_workers", 0)
        assert status == 0, out + err
        thresholds[name] = load_checkpoint(own)["thresholds"]
        result = tmp_path / f"{name}.json"
        more = ("--output", result, "--resamples", 50, "--num_workers", 0)
        status, out, err = script("evaluate_defect_model", *common, *more)
        assert status == 0, out + err
        metrics[name] = json.loads(result.read_text())
    assert thresholds["gpu"] == pytest.approx(thresholds["cpu"], abs=5e-3)
    for name in ("image_ap", "image_auroc", "image_accuracy", "pixel_iou", "mean_iou_defect", "pixel_aupro"):
        one, other = (values.get("metrics", values)[name] for values in (metrics["cpu"], metrics["gpu"]))
        assert other == pytest.approx(one, abs=5e-3), name
