"""16-bit files of a 12-bit camera: the dataset finds the range, training and inspection share it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks import small_facts
from PIL import Image

from dinov3.data.defect_dataset import DefectDataset
from dinov3.data.defect_images import read_image
from dinov3.data.defect_manifest import read_manifest
from dinov3.data.defect_tile_dataset import WholeImages
from dinov3.inference import DefectPredictor
from dinov3.models.defect_backbone import build_backbone
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier
from dinov3.models.defect_engines.torch_engine import TorchEngine


def write_camera(folder: Path, top: int, count: int = 4, seed: int = 0) -> Path:
    """Noise from 0 to ``top`` in 16-bit files, PNG and TIFF."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(count):
        values = rng.integers(0, top + 1, (24, 32)).astype(np.uint16)
        values[0, 0] = top
        Image.fromarray(values).save(folder / f"{folder.name}{seed}_{i}.{'tif' if i % 2 else 'png'}")
    return folder


@pytest.fixture
def dataset(tmp_path: Path, script) -> Path:
    bad, good = write_camera(tmp_path / "bad", 4001), write_camera(tmp_path / "good", 3000, seed=1)
    flags = ("--defect_images", bad, "--normal_images", good, "--output_dir", tmp_path / "set", "--val_split", 0)
    status, out, err = script("prepare_defect_data", "organize", *flags)
    assert status == 0, err
    assert "values up to 4001, so 4095 is taken for white, the 12-bit range" in out
    return tmp_path / "set"


def test_the_range_of_files_in_which_0_is_white(tmp_path: Path, script) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (8, 24, 32)).astype(np.uint16)
    for i, one in enumerate(values):
        path = tmp_path / ("bad" if i % 2 else "good") / f"{i}.tif"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(one).save(path, tiffinfo={262: 0})
    flags = ("--defect_images", tmp_path / "bad", "--normal_images", tmp_path / "good", "--val_split", 0)
    status, out, err = script("prepare_defect_data", "organize", *flags, "--output_dir", tmp_path / "set")
    assert status == 0 and "so 4095 is taken for white" in out, err
    pixels = read_image(tmp_path / "bad/1.tif", read_manifest(tmp_path / "set").white_level)
    assert np.abs(pixels[..., 0] - (4095 - values[1].astype(float)) / 4095 * 255).max() <= 0.5


def test_training_and_inspection_read_by_the_range_of_the_dataset(dataset: Path) -> None:
    manifest = read_manifest(dataset)
    assert manifest.white_level == 4095 == manifest.select("train").white_level
    number = [name.endswith("bad0_0.png") for name in manifest.columns["image"].tolist()].index(True)
    values = np.asarray(Image.open(manifest.root / manifest.columns["image"][number]))
    expected = (values / 4095 * 255).round()
    whole = WholeImages(manifest)[number]["image"].numpy()
    assert np.abs(whole[..., 0] - expected).max() <= 1
    model = AttentionGuidedDefectClassifier(build_backbone("dinov3_vitt16", "none"), 192)
    engine = TorchEngine(model, small_facts(white_level=4095), device="cpu")
    predictor = DefectPredictor(engine)
    seen: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    predictor(manifest.root / manifest.columns["image"][number])
    trained_on = engine.normalization(DefectDataset(manifest, 32)[number]["image"][None])
    torch.testing.assert_close(seen[0], trained_on)


def test_images_of_another_range_are_named_not_read_dark_or_white(dataset: Path, tmp_path: Path, script) -> None:
    more = write_camera(tmp_path / "more", 60000, count=1, seed=2)
    flags = ("--append", "--defect_images", more, "--output_dir", dataset)
    status, out, err = script("prepare_defect_data", "organize", *flags)
    assert "values up to 60000; expected at most 4095, the white_level" in out + err
    assert read_manifest(dataset).white_level == 4095
    info = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))
    (dataset / "dataset.json").write_text(json.dumps(info | {"white_level": 4000}), encoding="utf-8")
    status, _, err = script("prepare_defect_data", "check", dataset)
    assert status == 1 and "white_level 4000; expected one of 1023, 4095, 16383, 65535" in err


def test_check_names_a_range_that_is_not_used(dataset: Path, script) -> None:
    status, out, _ = script("prepare_defect_data", "check", dataset)
    assert "unused_range" not in out
    info = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))
    for white, count in ((65535, 8), (1023, 8)):
        (dataset / "dataset.json").write_text(json.dumps(info | {"white_level": white}), encoding="utf-8")
        out = script("prepare_defect_data", "check", dataset)[1]
        assert f"warning: unused_range: {count} " in out, out
