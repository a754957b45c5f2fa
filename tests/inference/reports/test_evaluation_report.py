"""What evaluate_defect_model.py and the end of training leave for people: tables, JSON, CSV, pictures, pages."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TRAIN_FLAGS, square_image
from helpers.scoring import add_all
from PIL import Image

from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_prepare.writer import DatasetWriter
from dinov3.defect_evaluation.curves import Curve
from dinov3.defect_evaluation.evaluate import View, evaluation_loader
from dinov3.defect_evaluation.evaluate import evaluate as evaluate_model
from dinov3.defect_evaluation.figures import confusion_figure, save_figure, thin
from dinov3.defect_evaluation.findings import Findings
from dinov3.defect_evaluation.image_results import ImageResults
from dinov3.defect_evaluation.metrics import DefectMetrics
from dinov3.defect_evaluation.scoring import score
from dinov3.defect_evaluation.thresholds import Thresholds
from dinov3.inference.reports.figure_svg import figure_svg
from dinov3.models.defect_checkpoint import load_checkpoint, restore_model
from dinov3.models.defect_device import resolve_precision
from dinov3.models.defect_engines.torch_engine import TorchEngine
from dinov3.models.defect_facts import ModelFacts

FILES = {"report.html", "metrics.json", "per_image.csv", "regions.csv", "worst.png", "best.png"}
FIGURES = {"pr.png", "roc.png", "pixel_pr.png", "pro.png", "confusion.png"}


def evaluate(script, trained: Path, root: Path, folder: Path, *more: object) -> str:
    flags = ("--data_root", root, "--report_dir", folder, "--num_workers", 0, "--device", "cpu")
    checkpoint = () if "--checkpoint" in more else ("--checkpoint", trained / "best_accuracy.pth")
    status, out, err = script("evaluate_defect_model", *checkpoint, *flags, *more)
    assert status == 0, err
    return out


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def assert_stands_alone(html: str) -> None:
    """Nothing but the SVG's own names looks like an address."""
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html.replace("xlink:", ""))
    assert not set(re.findall(r"https?://[^\s\"']+", html)) - {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def write_dataset(folder: Path, names: str) -> Manifest:
    """A test split of one image per letter, n normal or d defective, two images to a part."""
    rng = np.random.default_rng(1)
    with DatasetWriter(folder) as writer:
        for i, kind in enumerate(names):
            image, mask = square_image(rng, defect=kind == "d")
            label = {"n": "normal", "d": "defect"}[kind]
            row = {"label": label, "split": "test", "group": f"part{i // 2}", "source": "line"}
            writer.add(image, f"{i:02}.png", mask if kind == "d" else None, **row)
        return writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command="test")


def test_the_report_of_a_split(squares: Manifest, trained: Path, tmp_path: Path, script) -> None:
    output = tmp_path / "flat.json"
    out = evaluate(script, trained, squares.root, tmp_path / "report", "--output", output, "--resamples", 40)
    assert {p.name for p in (tmp_path / "report").iterdir()} == FILES | FIGURES
    record = json.loads((tmp_path / "report/metrics.json").read_text(encoding="utf-8"))
    flat = json.loads(output.read_text())
    for name, estimate in record["metrics"].items():
        assert flat[name] == estimate["value"]
        assert re.search(rf"^  {name} +(\d\.\d{{4}}|not measurable)", out, re.MULTILINE), out
    assert flat["confusion"] == record["confusion"] and flat["intervals"]["image_accuracy"][0] < 1
    assert sum(map(sum, record["confusion"])) == 12
    assert {name: sum(verdicts.values()) for name, verdicts in record["verdicts"].items()} == {"normal": 6, "defect": 6}
    assert record["hit_rate"]["all"]["all regions"]["images"] == 6
    assert record["hit_rate"]["size"]["8 to 16 px"]["images"] == 6  # squares of 14 pixels
    rows = table(tmp_path / "report/per_image.csv")
    assert [row["image"] for row in rows] == squares.select("test").columns["image"].tolist()
    right = sum(row["outcome"] == "right" for row in rows)
    assert right / 12 == pytest.approx(record["metrics"]["image_accuracy"]["value"])
    assert len(table(tmp_path / "report/regions.csv")) == 6
    html = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    assert_stands_alone(html)
    assert "AUPRO" in html and "混淆矩阵" in html and html.count("<img") >= 6
    for name in FIGURES | {"worst.png", "best.png"}:
        assert Image.open(tmp_path / "report" / name).size[0] > 400


@pytest.mark.parametrize("names", ["nnnn", "dddd", "n", "d"])
def test_a_split_that_lacks_something_has_a_report_too(names: str, trained: Path, tmp_path: Path, script) -> None:
    write_dataset(tmp_path / "data", names)
    out = evaluate(script, trained, tmp_path / "data", tmp_path / "report", "--resamples", 20)
    record = json.loads((tmp_path / "report/metrics.json").read_text(encoding="utf-8"))
    assert record["metrics"]["image_ap"]["value"] is None and "image_ap         not measurable" in out
    assert (record["metrics"]["pixel_aupro"]["value"] is None) == ("d" not in names)
    assert "nothing to draw" in (tmp_path / "report/report.html").read_text(encoding="utf-8")


def test_what_cannot_be_read_is_skipped_and_the_others_keep_their_rows(trained: Path, tmp_path, script) -> None:
    manifest = write_dataset(tmp_path / "data", "ndnd")
    (manifest.root / "images/01.png").write_bytes(b"broken")
    evaluate(script, trained, manifest.root, tmp_path / "report", "--threshold", 0)
    rows = table(tmp_path / "report/per_image.csv")
    assert [row["outcome"] for row in rows] == ["overkill", "skipped", "overkill", "right"]
    assert [row["defect_pixels"] for row in rows] == ["0", "", "0", "196"]
    assert json.loads((tmp_path / "report/metrics.json").read_text())["skipped"] == 1


def test_images_keep_their_rows_by_tiles_too(trained: Path, tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "data", "ndnd")
    (manifest.root / "images/01.png").write_bytes(b"broken")
    checkpoint = trained / "best_accuracy.pth"
    content = load_checkpoint(checkpoint)
    content |= {"tile_size": 32}
    model, view, results = restore_model(content, checkpoint, None), View.of(content), ImageResults(2)
    score(
        TorchEngine(model, ModelFacts.of_checkpoint(content), device="cpu"),
        manifest,
        results,
        batch_size=4,
        num_workers=1,
    )
    options = {"batch_size": 4, "precision": resolve_precision("off", torch.device("cpu"))}
    loader = evaluation_loader(manifest, view, 4, num_workers=0, device=torch.device("cpu"))
    measured = evaluate_model(model, loader, DefectMetrics(2), view, **options)
    assert results.labels.tolist() == [0, -1, 0, 1] and results.images["has_mask"].tolist() == [True, False, True, True]
    assert results.regions["image"].tolist() == [3]
    assert sum(map(sum, measured["confusion"])) == 3 and measured["pixel_ap"] >= 0


def test_thresholds_and_review_band_of_the_checkpoint(squares: Manifest, trained: Path, tmp_path: Path, script) -> None:
    content = torch.load(trained / "best_accuracy.pth", weights_only=True)
    content["thresholds"] |= {"classification": 0.999, "review": 0.0001, "temperature": 1.7}
    torch.save(content, tmp_path / "banded.pth")
    out = evaluate(script, trained, squares.root, tmp_path / "report", "--checkpoint", tmp_path / "banded.pth")
    record = json.loads((tmp_path / "report/metrics.json").read_text(encoding="utf-8"))
    assert record["thresholds"]["temperature"] == 1.7 and record["thresholds"]["review"] == 0.0001
    assert sum(verdicts["review"] for verdicts in record["verdicts"].values()) == 12
    rows = table(tmp_path / "report/per_image.csv")
    assert {(row["outcome"], row["predicted_class"]) for row in rows} == {("review", "defect")}
    assert re.search(r"normal +0 +6 +0", out)


def test_an_unusable_report_dir_says_so(squares: Manifest, trained: Path, tmp_path: Path, script) -> None:
    (tmp_path / "file").touch()
    flags = ("--checkpoint", trained / "best_accuracy.pth", "--data_root", squares.root)
    status, _, err = script("evaluate_defect_model", *flags, "--report_dir", tmp_path / "file")
    assert status == 1 and str(tmp_path / "file") in err and "Traceback" not in err


def findings(tmp_path: Path, dent: int = 2) -> Findings:
    """Two defect images of 128 x 64 pixels seen at 32 x 32: one region found, one not; and a normal one."""
    with DatasetWriter(tmp_path / f"data{dent}") as writer:
        for i, label in enumerate(("scratch", "dent", "normal")):
            row = {"label": label, "split": "test", "group": "", "source": f"line{i}"}
            writer.add(np.zeros((64, 128, 3), np.uint8), f"{i}.png", None, **row)
        classes = ["normal", "scratch", "dent"]
        rows = writer.finish(classes=classes, mask_classes=classes[1:], seed=0, command="test")
    masks = torch.zeros(3, 32, 32, dtype=torch.uint8)
    masks[0, :10, :10], masks[1, 4:8, 8:10] = 1, dent
    prob = torch.zeros(3, 32, 32)
    prob[0, 0] = 0.9  # a tenth of the first region
    results = ImageResults(3)
    class_prob = torch.tensor([[0.2, 0.5, 0.3], [0.9, 0.05, 0.05], [0.5, 0.3, 0.2]])
    add_all(results, class_prob, prob, torch.tensor([1, 2, 0]), masks, torch.ones(3, dtype=torch.bool))
    return Findings(results, rows, Thresholds(0.6, 0.5, review=0.4))


def test_hits_and_misses_by_size_class_and_source(tmp_path: Path) -> None:
    found = findings(tmp_path)
    rates = {kind: {n: (r.count, r.images) for n, r in rates} for kind, rates in found.hit_rates().items()}
    assert rates["all"] == {"all regions": (1, 2)}
    assert rates["size"] == {"8 to 16 px": (0, 1), "16 to 32 px": (1, 1)}  # 8 x 8 and 40 x 20
    assert rates["class"] == {"scratch": (1, 1), "dent": (0, 1)}
    assert rates["source"] == {"line0": (1, 1), "line1": (0, 1)}
    missed = list(found.region_rows(np.flatnonzero(~found.found)))
    assert [(row["image"], row["mask_class"], row["found"]) for row in missed] == [("images/1.png", "dent", "no")]
    assert [missed[0][name] for name in ("x", "y", "width", "height", "area")] == [32, 8, 8, 8, 64]
    grey = list(findings(tmp_path, dent=128).region_rows())  # in a mask, but no class
    assert [row["mask_class"] for row in grey] == ["scratch", ""]


def test_outcomes_and_what_to_look_at(tmp_path: Path) -> None:
    found = findings(tmp_path)
    rows = list(found.image_rows())
    assert [row["outcome"] for row in rows] == ["right", "missed", "review"]
    assert [row["verdict"] for row in rows] == ["reject", "accept", "review"]
    assert found.verdict_counts()["normal"] == {"accept": 0, "review": 1, "reject": 0}
    assert found.ranked("missed", 5).tolist() == [1] and found.ranked("overkill", 5).tolist() == []
    assert found.ranked("best masks", 5).tolist() == [0, 1] and found.ranked("worst masks", 1).tolist() == [1]


def test_training_leaves_a_report_with_curves_and_pictures(trained: Path) -> None:
    html = (trained / "report.html").read_text(encoding="utf-8")
    assert_stands_alone(html)
    assert "训练报告" in html and "all numbers" in html and html.count("<svg") == 6
    for name in FIGURES | {"worst.png", "curves.png"}:
        assert Image.open(trained / name).size[0] > 400


def test_a_cut_off_report_is_made_up_for(squares: Manifest, trained: Path, tmp_path: Path, script) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    base = ("--data_root", squares.root, "--save_dir", run, "--epochs", 2, *TRAIN_FLAGS, "--resume")
    report = run / "report.html"
    report.unlink()
    assert script("train_defect_model", *base)[0] == 0
    written = report.stat().st_mtime_ns
    assert script("train_defect_model", *base)[0] == 0
    assert report.stat().st_mtime_ns == written


@pytest.mark.parametrize("width", [1400, 600])
def test_a_browser_shows_it_in_both_languages(show, trained: Path, width: int) -> None:
    tab = show(trained / "report.html", locale="zh-CN", size=(width, 900))
    assert tab.inner_text("h1") == "训练报告"
    assert tab.locator("svg text.zh:visible").count() > 10 and tab.locator("svg text.en:visible").count() == 0
    tab.click("#lang")
    assert tab.inner_text("h1") == "Training report" and "召回率" not in tab.inner_text("main")
    tab.click("summary")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_figures_have_both_languages_and_any_class_name(tmp_path: Path) -> None:
    figure = confusion_figure(np.array([[3, 1, 0], [0, 0, 0], [0, 2, 5]]), ["normal", "划痕", "<i>"])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == list("310000025")
    assert [text.get_text() for text in axes.get_yticklabels()] == ["normal", "划痕", "<i>"]
    svg = figure_svg(figure, chinese={"true": "真实"})
    assert re.search(r'<text class="zh"[^>]*>真实</text>', svg) and re.search(r'<text class="en"[^>]*>true</text>', svg)
    assert "<i>" not in svg and "划痕" in svg
    save_figure(figure, tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size[0] > 300


def test_a_thinned_curve_keeps_its_shape() -> None:
    x = np.linspace(0, 1, 100_000)
    curve = thin(Curve(x, np.where(x < 1e-3, x * 900, 0.9 + 0.1 * x)), 400)
    assert len(curve.x) <= 402 and np.interp(5e-4, *curve) == pytest.approx(0.45, abs=0.02)
