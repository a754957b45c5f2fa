"""calibrate_defect_model.py and training: what they store in a checkpoint, and when they leave it as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import train_defect_model
from conftest import TRAIN_FLAGS, write_squares

from dinov3.data.defect_manifest import Manifest
from dinov3.defect_evaluation import calibrate_checkpoint as calibrate_module
from dinov3.models.defect_checkpoint import load_checkpoint, save_checkpoint


def contents_apart_from_calibration(path: Path) -> dict:
    return {k: v for k, v in load_checkpoint(path).items() if k not in ("thresholds", "calibration")}


def equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other or (one != one and other != other)


@pytest.fixture
def checkpoint(trained: Path, tmp_path: Path) -> Path:
    """A copy of a trained one, as it was before it was calibrated."""
    content = load_checkpoint(trained / "best_accuracy.pth")
    del content["calibration"]
    content["thresholds"] = {"classification": 0.5, "mask": content["thresholds"]["mask"]}
    save_checkpoint(tmp_path / "model.pth", content)
    return tmp_path / "model.pth"


def test_script_stores_and_shows_what_it_found(checkpoint: Path, squares: Manifest, script) -> None:
    before = load_checkpoint(checkpoint)
    flags = ("--checkpoint", checkpoint, "--data_root", squares.root, "--num_workers", 0, "--device", "cpu")
    status, out, _ = script("calibrate_defect_model", *flags, "--max_miss_rate", 0.2, "--max_overkill", 0.2)
    assert status == 0
    after = load_checkpoint(checkpoint)
    assert equal(contents_apart_from_calibration(checkpoint), {k: v for k, v in before.items() if k != "thresholds"})
    thresholds, facts = after["thresholds"], after["calibration"]
    assert thresholds["mask"] == before["thresholds"]["mask"] and thresholds["temperature"] > 0
    assert thresholds.get("review", 0) <= thresholds["classification"]
    assert (facts["images"], facts["defects"], facts["parts"]) == (12, 6, 12)
    assert facts["target"] == "miss rate at most 20.00%, overkill at most 20.00%"
    assert "12; 6 show a defect" in out and f"{facts['ece_before']:.4f} before" in out
    assert facts["promise"].count("on average") == 2 and all(text in out for text in facts["promise"].split("; over"))
    record = json.loads(checkpoint.with_name("model.calibration.json").read_text(encoding="utf-8"))
    assert record == {"checkpoint": "model.pth", "thresholds": thresholds, **facts}
    assert checkpoint.with_name("model.reliability.png").stat().st_size > 10_000
    status, out, _ = script("evaluate_defect_model", *flags, "--split", "val", "--resamples", 0)
    assert status == 0 and f"target: {facts['target']}" in out and f"promise: {facts['promise']}" in out
    assert ("(review)" in out) == ("review" in thresholds)
    out = script("evaluate_defect_model", *flags, "--split", "val", "--resamples", 0, "--threshold", 0.5)[1]
    assert "promise" not in out and "(review)" not in out
    # Done again with another target, nothing is left of the first.
    status, out, _ = script("calibrate_defect_model", *flags, "--max_miss_rate", 0.01, "--confidence", 0.95)
    assert status == 0 and "warning: 1.00% cannot be promised: it takes 299 defect images, and there are 6" in out
    content = load_checkpoint(checkpoint)
    assert "review" not in content["thresholds"] and "39.30% with 95% confidence" in content["calibration"]["promise"]
    assert content["thresholds"]["temperature"] == thresholds["temperature"]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--target", "best_f1", "--max_miss_rate", 0.1), "different targets; choose one"),
        (("--max_overkill", 0.1, "--cost_miss", 1, "--cost_overkill", 1), "different targets; choose one"),
        (("--cost_miss", 3), "go together"),
        (("--confidence", 0.9), "belongs to --max_miss_rate"),
    ],
)
def test_flags_that_contradict_each_other(flags: tuple, text: str, tmp_path: Path, script) -> None:
    status, _, err = script("calibrate_defect_model", "--checkpoint", "x", "--data_root", tmp_path, *flags)
    assert status == 1 and text in err


def test_a_rate_of_zero_is_wrong_usage(script) -> None:
    status, _, err = script("calibrate_defect_model", "--checkpoint", "x", "--data_root", "x", "--max_miss_rate", 0)
    assert status == 2 and "between 0 and 1" in err


@pytest.mark.usefixtures("undrawn")
def test_training_calibrates_its_best_files(trained: Path, squares: Manifest, tmp_path: Path, capsys) -> None:
    for name in ("best_accuracy", "best_iou"):
        content = load_checkpoint(trained / f"{name}.pth")
        assert content["calibration"]["target"] == "best F1" and content["calibration"]["images"] == 12
        assert content["thresholds"]["temperature"] > 0
        assert (trained / f"{name}.calibration.json").is_file() and (trained / f"{name}.reliability.png").is_file()
    assert "calibration" not in load_checkpoint(trained / "last.pth")
    # Killed before that: going on with the complete run makes up for it, and leaves what is calibrated alone.
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    content = load_checkpoint(run / "best_iou.pth")
    stored = content["thresholds"], content.pop("calibration")
    content["thresholds"] = {"classification": 0.5, "mask": stored[0]["mask"]}
    save_checkpoint(run / "best_iou.pth", content)
    other = (run / "best_accuracy.pth").stat().st_mtime_ns
    flags = ["--data_root", squares.root, "--save_dir", run, "--epochs", 2, *TRAIN_FLAGS, "--resume"]
    train_defect_model.main([str(flag) for flag in flags])
    out = capsys.readouterr().out
    assert "nothing to do" in out and "best_iou.pth: calibrated on 12 validation images" in out
    content = load_checkpoint(run / "best_iou.pth")
    assert (content["thresholds"], content["calibration"]) == stored
    assert (run / "best_accuracy.pth").stat().st_mtime_ns == other


@pytest.mark.usefixtures("undrawn")
def test_one_pass_serves_best_files_of_one_epoch(trained: Path, squares: Manifest, tmp_path: Path, monkeypatch) -> None:
    content = load_checkpoint(trained / "best_iou.pth")
    del content["calibration"]
    files = [tmp_path / "best_accuracy.pth", tmp_path / "best_iou.pth"]
    for file in files:
        save_checkpoint(file, content)
    passes, real = [], calibrate_module.score_checkpoint

    def counted(*args, **options):
        passes.append(args)
        return real(*args, **options)

    monkeypatch.setattr(calibrate_module, "score_checkpoint", counted)
    options = {"device": "cpu", "precision": "off", "batch_size": 8, "num_workers": 0}
    calibrate_module.calibrate_for_best_f1(files, squares.root, **options)
    assert len(passes) == 1 and all("calibration" in load_checkpoint(file) for file in files)


def test_validation_images_of_one_kind_leave_the_best_files_alone(checkpoint: Path, tmp_path: Path, capsys) -> None:
    data = write_squares(tmp_path / "data", train=2, val=1, test=0)
    best = checkpoint.rename(tmp_path / "best_iou.pth")
    before = best.read_bytes()
    options = {"device": "cpu", "precision": "off", "batch_size": 8, "num_workers": 0}
    calibrate_module.calibrate_for_best_f1([best], data.root, **options)
    assert "best_iou.pth: not calibrated; 1 labeled validation images, all normal" in capsys.readouterr().out
    assert best.read_bytes() == before and not best.with_suffix(".calibration.json").exists()


@pytest.mark.parametrize("tile_size", [0, 32])
def test_images_keep_their_part_past_unreadable_and_unknown_ones(
    checkpoint: Path, tmp_path: Path, tile_size: int
) -> None:
    data = write_squares(tmp_path / "data", train=2, val=8, test=2)
    table = data.root / "manifest.csv"
    text = table.read_text().replace("val/002.png.png,", "").replace("val/003.png,made", "one part,made")
    lines = text.replace("val/005.png,made", "one part,made").replace("val/006.png,made", ",made").splitlines()
    unknown = next(i for i, line in enumerate(lines) if "val/004" in line)
    lines[unknown] = lines[unknown].replace(",normal,", ",,")
    table.write_text("\n".join(lines) + "\n")
    (data.root / "images/val/001.png").write_bytes(b"")
    content = load_checkpoint(checkpoint) | {"tile_size": tile_size}
    options = {"device": "cpu", "precision": "off", "batch_size": 3, "num_workers": 0}
    images = calibrate_module.score_checkpoint(content, checkpoint, data.root, **options)
    parts = ["val/000.png", "val/002.png", "one part", "one part", "images/val/006.png", "val/007.png"]
    assert images.parts.tolist() == parts and images.labels.tolist() == [0, 0, 1, 1, 0, 1]
    assert images.class_prob.shape == (6, 2)


@pytest.mark.usefixtures("undrawn")
def test_files_beside_a_checkpoint_say_what_is_in_it(
    script, trained: Path, squares, tmp_path: Path, monkeypatch
) -> None:
    """On a full disk the checkpoint keeps its limits, and no report of others is left beside it."""
    path = tmp_path / "best.pth"
    shutil.copy(trained / "best_accuracy.pth", path)
    flags = ("--checkpoint", path, "--data_root", squares.root, "--num_workers", 0, "--device", "cpu")
    assert script("calibrate_defect_model", *flags)[0] == 0
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert len(before) == 3

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    status, _, err = script("calibrate_defect_model", *flags, "--max_miss_rate", 0.2)
    assert status == 1 and "No space left" in err and "--save_dir" not in err and "--resume" not in err
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    path.with_suffix(".calibration.json").unlink()
    assert script("calibrate_defect_model", *flags, "--max_miss_rate", 0.2)[0] == 1
    assert not path.with_suffix(".calibration.json").exists()
