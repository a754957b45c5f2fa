"""What is unlike any good training image, as a witness of the verdict."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import square_image, write_squares
from helpers.inspecting import FLAGS, records_of, rows_of
from PIL import Image

from dinov3.data.defect_images import read_image
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_resize import resize_image
from dinov3.inference.predictor import DefectPredictor
from dinov3.models.defect_checkpoint import load_checkpoint, save_checkpoint
from dinov3.models.defect_novelty import Novelty

pytestmark = pytest.mark.usefixtures("undrawn")
Script = Callable[..., tuple[int, str, str]]


def test_the_evidence_is_the_mahalanobis_distance_beyond_what_is_usual() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator)

    def good(count: int) -> torch.Tensor:
        return torch.einsum("dc,bchw->bdhw", mixing, torch.randn(count, 6, 8, 8, generator=generator)) + 3

    train, held_out = good(40), good(20)
    novelty = Novelty.fit(train.split(16), held_out.split(8))
    strange = good(4)
    strange[:2, :, 3, 3] += 25 * mixing[:, 0]
    average = torch.nn.functional.avg_pool2d

    def direct(maps: torch.Tensor) -> np.ndarray:
        places, seen = (average(m, 3, 1, 1).permute(0, 2, 3, 1).flatten(0, 2).double().numpy() for m in (maps, train))
        difference = places - seen.mean(0)
        squares = np.einsum("nc,cd,nd->n", difference, np.linalg.inv(np.cov(seen.T)), difference)
        return np.sqrt(squares / 6).reshape(len(maps), -1).max(1)

    usual = direct(held_out)
    expected = np.maximum((direct(strange) - usual.mean()) / usual.std() - 1, 0)
    logits = torch.tensor([[0.5, 1.0, -1.0]]).repeat(4, 1)
    raised, beyond = novelty(logits, strange)
    shift = raised - logits
    assert beyond.shape == (4, 1, 8, 8)
    for place in beyond[:2].flatten(1).argmax(1).tolist():
        assert place // 8 in (2, 3, 4) and place % 8 in (2, 3, 4)
    assert (shift[:, 0] == 0).all() and torch.equal(shift[:, 1], shift[:, 2])
    np.testing.assert_allclose(shift[:, 1], expected, rtol=0.03, atol=0.02)
    assert (expected[:2] > 3).all() and (expected[2:] < 2).all()


def test_a_checkpoint_calibrated_with_novelty_doubts_what_is_unlike_good_parts(
    trained: Path, squares: Manifest, script: Script, tmp_path: Path
) -> None:
    path = tmp_path / "model.pth"
    shutil.copy(trained / "best_accuracy.pth", path)
    flags = ["--checkpoint", path, "--data_root", squares.root, "--num_workers", 0, "--device", "cpu"]
    strange = np.random.default_rng(0).normal(140, 12, (64, 64, 3)).clip(0, 255).astype(np.uint8)
    strange[20:50, 10:60:2] = 255  # bright stripes; training shows dark squares alone
    good = [read_image(squares.root / name) for name in squares.columns["image"][squares.labels == 0]]

    def predict() -> np.ndarray:
        """Defect log-odds at temperature 1: of the strange image, then of the good ones."""
        content = load_checkpoint(path)
        content["thresholds"]["temperature"] = 1.0
        save_checkpoint(tmp_path / "plain.pth", content)
        predictor = DefectPredictor.from_checkpoint(tmp_path / "plain.pth", "cpu")
        probability = np.array([answer.defect_probability for answer in predictor([strange, *good])], np.float64)
        return np.log(probability / (1 - probability))

    script("calibrate_defect_model", *flags)
    plain = predict()
    status, out, err = script("calibrate_defect_model", *flags, "--novelty")
    assert status == 0 and "unlike any good training image" in out, err
    added = predict() - plain
    assert added[0] > 2 and added[0] > added[1:].max()
    assert np.median(added[1:]) == pytest.approx(0, abs=1e-3)
    script("calibrate_defect_model", *flags, "--flips")  # novelty stays as it is
    status, out, _ = script("evaluate_defect_model", *flags, "--split", "test")
    assert status == 0 and "image_ap" in out
    script("calibrate_defect_model", *flags, "--no-flips")
    assert predict() - plain == pytest.approx(added, abs=1e-3)
    script("calibrate_defect_model", *flags, "--no-novelty")
    assert predict() == pytest.approx(plain, abs=1e-5)


def test_inspection_shows_where_an_image_is_unlike_good_parts(
    trained: Path, squares: Manifest, script: Script, tmp_path: Path
) -> None:
    path, folder, out_dir = tmp_path / "model.pth", tmp_path / "images", tmp_path / "out"
    shutil.copy(trained / "best_accuracy.pth", path)
    status, _, err = script("calibrate_defect_model", "--checkpoint", path, "--data_root", squares.root, "--novelty")
    assert status == 0, err
    folder.mkdir()
    good = squares.root / squares.columns["image"][np.flatnonzero(squares.labels == 0)[0]]
    shutil.copy(good, folder / "good.png")
    strange = square_image(np.random.default_rng(0), defect=False, size=100)[0][:80]
    strange[44:76, 60:92:6] = strange[44:76, 61:92:6] = 255  # bright stripes; training shows dark squares alone
    Image.fromarray(strange).save(folder / "strange.png")
    flags = ["--image_dir", folder, "--output_dir", out_dir, "--threshold", 0.5, *FLAGS]
    status, _, err = script("inference_defect_model", "--checkpoint", path, *flags)
    assert status == 0, err
    records, rows = {record["image"]: record for record in records_of(out_dir)}, rows_of(out_dir)
    place = records["strange.png"]["novelty"]
    predictor = DefectPredictor.from_checkpoint(path, "cpu")
    beyond = predictor.engine.run(resize_image(strange, predictor.image_size)[None]).novelty[0, 0]
    row, column = (int(at[0]) for at in np.nonzero(beyond == beyond.max()))
    assert (place["x"], place["y"]) == (int((column + 0.5) / 64 * 100), int((row + 0.5) / 64 * 80))
    assert place["deviations"] == pytest.approx(beyond.max(), abs=0.02) and place["deviations"] > 2
    assert float(rows["strange.png"]["novelty"]) == place["deviations"]
    assert rows["strange.png"]["reason"].endswith(f", unlike good parts at ({place['x']},{place['y']})")
    assert float(rows["good.png"]["novelty"]) < 2 and "unlike" not in rows["good.png"]["reason"]

    def mask_panel(name: str) -> np.ndarray:
        return read_image(out_dir / "visualizations" / f"{name}.png")[34:434, 432:832]

    # The image is drawn four times as large, from 40 pixels below the panel's top.
    left, top = 4 * place["x"] - 22, 40 + 4 * place["y"] - 22
    assert (mask_panel("strange.png")[top, left + 3 : left + 40] == 255).all()
    plain = tmp_path / "plain"
    script("calibrate_defect_model", "--checkpoint", path, "--data_root", squares.root, "--no-novelty")
    script("inference_defect_model", "--checkpoint", path, *flags, "--output_dir", plain)
    assert records_of(plain)[0]["novelty"] is None and rows_of(plain)["strange.png"]["novelty"] == ""


def test_what_novelty_cannot_do_is_said_and_the_checkpoint_stays(
    trained: Path, squares: Manifest, script: Script, tmp_path: Path
) -> None:
    path = tmp_path / "model.pth"
    shutil.copy(trained / "best_accuracy.pth", path)
    status, _, err = script("calibrate_defect_model", "--checkpoint", path, "--data_root", squares.root, "--novelty")
    assert status == 0, err
    folders = ["--image_dir", squares.root / "images", "--output_dir", tmp_path / "out"]
    status, _, err = script("inference_defect_model", "--checkpoint", path, *folders, "--tile_size", 32)
    assert status == 1 and "learned from whole images" in err
    before = path.read_bytes()
    few = write_squares(tmp_path / "few", val=8)
    status, _, err = script("calibrate_defect_model", "--checkpoint", path, "--data_root", few.root, "--novelty")
    assert status == 1 and "good images of 4 parts in the val split" in err and "Traceback" not in err
    assert path.read_bytes() == before
    save_checkpoint(path, load_checkpoint(path) | {"tile_size": 64, "tile_overlap": 0.25})
    status, _, err = script("calibrate_defect_model", "--checkpoint", path, "--data_root", squares.root, "--novelty")
    assert status == 1 and "trained on tiles" in err and "Traceback" not in err
