"""Parts of several images: their thresholds, what is promised of them, and the rates that are measured."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.networks import small_facts
from helpers.toy_onnx import write_toy

from dinov3.data.defect_prepare.writer import DatasetWriter
from dinov3.defect_evaluation.part_scores import PartScores
from dinov3.defect_evaluation.parts import PartVerdicts
from dinov3.defect_evaluation.targets import Target
from dinov3.defect_evaluation.thresholds import Thresholds
from dinov3.inference.parts import Views
from dinov3.models.defect_engines.onnx_file import read_facts

pytestmark = pytest.mark.usefixtures("sessions_end", "undrawn")
# Brightness, which is the defect probability to the toy model, of the views of each part; the first two parts are bad.
SHADES = {"a": (0.8, 0.3), "b": (0.7, 0.7, 0.2), "c": (0.6, 0.25), "d": (0.35, 0.3), "e": (0.15,), "f": (0.1, 0.1)}


@pytest.mark.parametrize("views_to_reject", [1, 2, 3])
def test_the_verdict_on_a_part_is_that_of_an_inspection(views_to_reject: int) -> None:
    rng = np.random.default_rng(views_to_reject)
    scores, parts = rng.random(300).round(2), rng.integers(0, 100, 300).astype(str)
    names = np.arange(300).astype(str)
    for limits in (Thresholds(0.6, 0.5), Thresholds(0.6, 0.5, 0.3)):
        views: dict[str, Views] = {}
        for score, part, name in zip(scores.tolist(), parts.tolist(), names.tolist(), strict=True):
            record = {"image": name, "error": "", "verdict": limits.verdict(score), "defect_probability": score}
            views.setdefault(part, Views()).add(record)
        edges = (limits.classification, limits.review)
        found = PartVerdicts.of(scores, scores > 0.5, parts, names, views_to_reject, edges)
        rows = {row["part"]: row for row in found.rows()}
        assert len(rows) == len(views)
        for name, one in views.items():
            assert rows[name]["verdict"] == one.verdict(views_to_reject)
            assert [rows[name][kind] for kind in ("reject", "review", "accept")] == [
                one.counts[kind] for kind in ("reject", "review", "accept")
            ]
            assert rows[name]["defect_probability"] == one.defect_probability


def draw_parts(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, whether the part is defective, and the part of each image; views of one part resemble each other."""
    sizes = rng.integers(1, 5, count)
    part = np.repeat(np.arange(count), sizes)
    bad = np.arange(count) < count // 2
    scores = 1 / (1 + np.exp(-(rng.normal(0, 1, count) + 2 * bad - 1)[part] - rng.normal(0, 1, len(part))))
    return scores, bad[part], part


@pytest.mark.parametrize("views_to_reject", [1, 2])
@pytest.mark.parametrize("kind", ["max_miss_rate", "max_overkill"])
def test_promises_hold_for_parts(kind: str, views_to_reject: int) -> None:
    rng = np.random.default_rng(3)
    population, target, rates = draw_parts(rng, 4000), Target(**{kind: 0.1}), []
    everything = PartScores.of(*population, views_to_reject)
    for _ in range(300):
        some = PartScores.of(*draw_parts(rng, 80), views_to_reject)
        limits = target.limits(some.deciding, some.defective, some.names, some.sizes)
        verdict = everything.verdicts(limits.classification, limits.review)
        is_miss, defective = kind == "max_miss_rate", everything.defective
        rates.append(np.mean(verdict[defective] == 0) if is_miss else np.mean(verdict[~defective] == 2))
    error = np.std(rates) / np.sqrt(len(rates))
    assert 0.05 <= np.mean(rates) <= 0.1 + 3 * error
    (promise,) = limits.promises
    assert (promise.parts, promise.unit) == (40, "part") and promise.images > 40 and promise.kept > 0
    assert f"from 40 {'defective' if is_miss else 'good'} parts in {promise.images} images" in str(promise)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model and a dataset, whose names tell the parts and whose groups do, too; don't change them."""
    root = tmp_path_factory.mktemp("parts")
    write_toy(root / "toy.onnx", small_facts(thresholds={"classification": 0.9, "mask": 0.99}))
    rng = np.random.default_rng(0)
    with DatasetWriter(root / "data") as writer:
        for split in ("val", "test"):
            for part, shades in SHADES.items():
                for view, shade in enumerate(shades):
                    noise = rng.permutation(np.linspace(-0.05, 0.05, 32 * 32)).reshape(32, 32, 1).repeat(3, axis=2)
                    image = ((shade + noise) * 255).round().astype(np.uint8)
                    bad = part in "ab" and shade > 0.5
                    facts = {"label": "defect" if bad else "normal", "split": split, "source": "made"}
                    mask = np.ones((32, 32), np.uint8) if bad else None
                    writer.add(image, f"{split}_{part}_{view}.png", mask, group=f"{split} {part}", **facts)
        writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command="--no-group_similar")
    return root


def test_calibrate_evaluate_and_inspect_for_parts(folder: Path, tmp_path: Path, script) -> None:
    model = tmp_path / "toy.onnx"
    model.write_bytes((folder / "toy.onnx").read_bytes())
    common = ("--checkpoint", model, "--num_workers", 0, "--device", "cpu")
    flags = (*common, "--data_root", folder / "data")
    views = ("--views_to_reject", 2)
    status, out, err = script("calibrate_defect_model", *flags, *views, "--max_miss_rate", 0.4, "--max_overkill", 0.4)
    assert status == 0, err
    assert "for parts, rejected by 2 of their images: miss rate at most 40.00%, overkill at most 40.00%" in out
    assert "share of defective parts accepted at most 40.00%" in out and "from 2 defective parts in 5 images" in out
    assert "0.00% (0 of 2; 95% interval" in out and "on these parts" in out
    facts = read_facts(model)
    assert facts.calibration["target_values"]["views_to_reject"] == 2
    assert {promise["unit"] for promise in facts.calibration["promises"]} == {"part"}
    # No good part has two views above 0.35, the higher of the views of d; c is for review, whatever one view says.
    limits = facts.thresholds
    assert limits.get("review", limits["classification"]) < 0.7

    report = tmp_path / "report"
    status, out, err = script("evaluate_defect_model", *flags, "--report_dir", report, "--output", tmp_path / "m.json")
    assert status == 0 and "6 parts, 2 defective; rejected by 2 of their images" in out, err
    with (report / "parts.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = {row["part"][-1]: row for row in csv.DictReader(file)}
    assert rows["b"]["verdict"] == "reject" and rows["b"]["reject"] == "2" and rows["b"]["images"] == "3"
    assert rows["a"]["verdict"] in ("review", "reject") and rows["a"]["image"].endswith("test_a_0.png")
    assert {name for name, row in rows.items() if row["verdict"] == "reject"} <= {"a", "b"}
    record = json.loads((tmp_path / "m.json").read_text())["parts"]
    assert record["miss_rate"]["count"] == 0 and record["overkill"]["images"] == 4
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "缺陷工件漏检率" in page and "A part is rejected if 2 of its images are" in page
    images = (
        "--image_dir",
        folder / "data" / "images",
        "--output_dir",
        tmp_path / "out",
        "--no_report",
        "--no_visualize",
    )
    status, out, err = script("inference_defect_model", *common, *images, "--part_regex", "([a-z]+_[a-f])_")
    assert status == 0 and "12 parts: " in out and "note" not in out and "share of defective parts accepted" in out, err
    with (tmp_path / "out" / "parts.csv").open(newline="", encoding="utf-8") as file:
        inspected = {row["part"]: row["verdict"] for row in csv.DictReader(file)}
    assert {name: row["verdict"] for name, row in rows.items()} == {
        name[-1]: verdict for name, verdict in inspected.items() if name.startswith("test")
    }
    out = script("inference_defect_model", *common, *images)[1]
    assert "note: the model was calibrated for parts, and promises nothing of images" in out
    one = ("--part_regex", "([a-z]+_[a-f])_", "--views_to_reject", 1)
    assert "nothing with --views_to_reject 1" in script("inference_defect_model", *common, *images, *one)[1]


def test_a_part_in_two_splits_is_refused(folder: Path, tmp_path: Path, script) -> None:
    model = tmp_path / "toy.onnx"
    model.write_bytes((folder / "toy.onnx").read_bytes())
    flags = ("--checkpoint", model, "--data_root", folder / "data", "--num_workers", 0)
    for name, split in (("calibrate_defect_model", "val"), ("evaluate_defect_model", "test")):
        status, _, err = script(name, *flags, "--part_regex", "_([a-f])_")
        assert status == 1 and f"6 parts have images in the {split} split and in another one, such as a" in err
    assert model.read_bytes() == (folder / "toy.onnx").read_bytes()
    told = (*flags, "--part_regex", "([a-z]+_[a-f])_", "--resamples", 0)
    out = script("evaluate_defect_model", *told)[1]
    assert "6 parts, 2 defective; rejected by 1 of their images" in out
