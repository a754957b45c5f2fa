"""compare_defect_models.py: which verdicts differ, by how much, and whether a release may go out."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers.networks import small_facts
from helpers.toy_onnx import write_toy

from dinov3.data.defect_prepare.writer import DatasetWriter
from dinov3.defect_station.compare import Answers, McNemar, Said, compare
from dinov3.models.defect_facts import fingerprint

# Brightness of an image, which is its defect probability to the toy model; its part, and whether it has a defect.
IMAGES = [(0.55, "a", 1), (0.56, "a", 1), (0.7, "b", 1), (0.65, "c", 1), (0.2, "d", 1)]
IMAGES += [(0.52, "e", 0), (0.3, "f", 0), (0.31, "f", 0), (0.8, "g", 0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that differ in their threshold, a third one like the first, and a dataset; don't change it."""
    root = tmp_path_factory.mktemp("compare")
    for name, limit in (("old", 0.5), ("new", 0.6), ("same", 0.5)):
        write_toy(root / f"{name}.onnx", small_facts(thresholds={"classification": limit, "mask": limit}))
    with DatasetWriter(root / "data") as writer:
        for number, (brightness, part, defect) in enumerate(IMAGES):
            rng = np.random.default_rng(number)
            noise = rng.permutation(np.linspace(-0.05, 0.05, 32 * 32)).reshape(32, 32, 1).repeat(3, axis=2)
            image = ((brightness + noise) * 255).round().astype(np.uint8)
            kind = "defect" if defect else "normal"
            facts = {"label": kind, "split": "test", "group": part, "source": "made"}
            writer.add(image, f"{number}.png", np.ones((32, 32), np.uint8) if defect else None, **facts)
        writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command="test")
    return root


def flags(folder: Path, new: str, output: Path, *more: object) -> list[object]:
    base = ["--old", folder / "old.onnx", "--new", folder / f"{new}.onnx", "--output_dir", output, "--threads", 1]
    return [*base, "--num_workers", 0, *more]


def test_flips_differences_and_tests(folder: Path, tmp_path: Path, script) -> None:
    output = tmp_path / "out"
    status, out, err = script("compare_defect_models", *flags(folder, "new", output, "--data_root", folder / "data"))
    assert status == 0, err
    assert "9 of 9 images inspected by both: 3 verdicts differ" in out and "misses 2 images with a defect" in out
    with (output / "flips.csv").open(newline="", encoding="utf-8-sig") as file:
        flips = list(csv.DictReader(file))
    assert [(Path(row["image"]).stem, row["kind"]) for row in flips][2:] == [("5", "overkill spared")]
    assert {Path(row["image"]).stem for row in flips if row["kind"] == "new miss"} == {"0", "1"}
    assert {row["part"] for row in flips} == {"a", "e"} and flips[0]["old_reason"].startswith("defect probability 0.5")
    record = json.loads((output / "comparison.json").read_text(encoding="utf-8"))
    metrics = record["metrics"]
    assert metrics["miss_rate"]["old"] == 0.2 and metrics["miss_rate"]["new"] == 0.6
    assert metrics["overkill"]["old"] == 0.5 and metrics["overkill"]["new"] == 0.25
    difference, low, high = metrics["miss_rate"]["difference"]
    assert difference == pytest.approx(0.4) and low == 0 < high <= 1
    assert metrics["image_ap"]["difference"][0] == 0, "the same probabilities"
    assert record["mcnemar"]["miss"] == {"new_alone": 1, "old_alone": 0, "p": 1.0}, "two photographs of one part"
    assert record["mcnemar"]["overkill"] == {"new_alone": 0, "old_alone": 1, "p": 1.0}
    assert record["parts"] == {"defective": 4, "good": 3} and record["flips"] == {"new miss": 2, "overkill spared": 1}
    page = (output / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 3 and page.count("<img ") == 3 and "漏检率" in page and '="http' not in page
    again = script("compare_defect_models", *flags(folder, "same", output, "--data_root", folder / "data"))
    assert again[0] == 0 and "0 verdicts differ" in again[1] and not list(csv.DictReader((output / "flips.csv").open()))


def test_a_release_is_stopped_by_a_new_miss_alone(folder: Path, tmp_path: Path, script) -> None:
    gate = ("--data_root", folder / "data", "--no_new_misses", "--resamples", 0)
    assert script("compare_defect_models", *flags(folder, "new", tmp_path / "out", *gate))[0] == 1
    assert script("compare_defect_models", *flags(folder, "same", tmp_path / "out", *gate))[0] == 0
    swapped = ["--old", folder / "new.onnx", "--new", folder / "old.onnx", "--output_dir", tmp_path / "out", *gate]
    status, out, _ = script("compare_defect_models", *swapped)
    assert status == 0 and "1 new alone" in out, "overkill is no miss"
    unlabelled = ("--images", folder / "data" / "images", "--no_new_misses")
    assert script("compare_defect_models", *flags(folder, "new", tmp_path / "out", *unlabelled))[0] == 2


def test_a_folder_without_labels_shows_the_flips_alone(folder: Path, tmp_path: Path, script) -> None:
    (tmp_path / "images").mkdir()
    for path in (folder / "data" / "images").rglob("*.png"):
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "images" / "bad.png").write_bytes(b"bad")
    status, out, err = script(
        "compare_defect_models", *flags(folder, "new", tmp_path / "out", "--images", tmp_path / "images")
    )
    assert status == 0 and "9 of 10 images inspected by both: 3 verdicts differ" in out, err
    record = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert record["metrics"] == {} and record["flips"] == {"changed": 3} and list(record["errors"]) == ["bad.png"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.html").write_text("mine")
    refused = script("compare_defect_models", *flags(folder, "new", tmp_path / "mine", "--images", tmp_path / "images"))
    assert refused[0] == 1 and "report.html there is of no comparison" in refused[2]


def test_people_s_decisions_are_the_labels_of_a_database(folder: Path, tmp_path: Path, script) -> None:
    pytest.importorskip("sqlalchemy", reason="needs sqlalchemy: pip install '.[station]'")
    from helpers.storing import inspected

    from dinov3.defect_station.store import Store

    place, names = tmp_path / "results.sqlite", sorted((folder / "data" / "images").rglob("*.png"))
    with Store.open(str(place)) as store:
        for number, (path, (probability, part, _)) in enumerate(zip(names, IMAGES, strict=True)):
            facts = {"name": path.name, "part": part, "image_path": str(path), "content_hash": fingerprint(path)}
            facts["time"] = f"2026-01-0{1 + number // 5}T"
            for model in ("a", "b"):  # two models looked at it; the person decided on the earlier answer
                store.add([inspected(number, probability, model=model * 64, **facts)])
        store.add([inspected(50, 0.5, name="gone.png", image_path=str(tmp_path / "gone.png"))])
        store.add([inspected(51, 0.9, name=names[0].name, image_path=str(names[0]))])  # another picture of that name
        rows = {row["name"]: row for row in store.rows(model="a" * 64)}
        for name, decision in {"0": "reject", "2": "reject", "5": "accept", "6": "accept", "3": "reject"}.items():
            store.decide(
                rows[f"{name}.png"]["id"], "Li", decision, class_name="crack" if decision == "reject" else None
            )
        store.decide(rows["3.png"]["id"], "Li", "undo")
    base = ("--store", place)
    status, out, err = script("compare_defect_models", *flags(folder, "new", tmp_path / "out", *base))
    assert status == 0, err
    assert "9 of 9 images inspected by both: 3 verdicts differ" in out and "4 of them were decided by people" in out
    assert "2 images are gone or were overwritten since, such as gone.png" in out
    record = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert record["metrics"]["miss_rate"]["new"] == 0.5 and record["metrics"]["miss_rate"]["old"] == 0
    assert record["flips"] == {"new miss": 1, "overkill spared": 1, "changed": 1}
    with (tmp_path / "out" / "flips.csv").open(newline="", encoding="utf-8-sig") as file:
        first = next(csv.DictReader(file))
    assert (first["image"], first["label"], first["part"]) == ("0.png", "crack", "a")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "these rates are not those of the line" in page
    gate = flags(folder, "new", tmp_path / "out", *base, "--no_new_misses")
    assert script("compare_defect_models", *gate)[0] == 1
    status, out, _ = script("compare_defect_models", *flags(folder, "new", tmp_path / "out", *base, "--decided"))
    assert "4 of 4 images inspected by both: 2 verdicts differ" in out
    later = script("compare_defect_models", *gate, "--since", "2026-01-02")
    assert later[0] == 1 and "nobody rejected any" in later[2]
    none = flags(folder, "new", tmp_path / "out", *base, "--verdict", "accept", "--since", "2027-01-01")
    assert "no images that match" in script("compare_defect_models", *none)[2]
    wrong = flags(folder, "new", tmp_path / "out", "--images", folder / "data", "--decided")
    assert script("compare_defect_models", *wrong)[0] == 2


def said(*accepted: bool) -> Answers:
    return Answers([Said("accept" if one else "reject", float(not one), "x", [], 1.0) for one in accepted], {}, 1.0)


def test_mcnemar_is_the_binomial_test() -> None:
    """As scipy.stats.binomtest(1, 10), (0, 8) and (3, 6) have it."""
    assert McNemar(1, 9).p == pytest.approx(0.021484375) and McNemar(8, 0).p == pytest.approx(0.0078125)
    assert McNemar(3, 3).p == 1 and McNemar(0, 0).p == 1


def test_intervals_cover_what_is_true_and_tell_worse_models() -> None:
    """The new model misses 30% of the parts, the old one 10%; each part has two photographs that fare alike."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(60):
        old, new = (np.repeat(rng.random(120) < share, 2) for share in (0.1, 0.3))
        parts = np.repeat(np.arange(120), 2).astype(str)
        _, _, difference = compare(said(*old), said(*new), np.ones(240, int), parts, 200).metrics["miss_rate"]
        covered += difference.low <= 0.2 <= difference.high
    assert covered >= 50
    assert math.isnan(compare(said(*old), said(*new), np.ones(240, int), parts, 0).metrics["overkill"][0])
