"""What benchmarks/accuracy.py reads from kept runs for a factory: rates at promises, and curves."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.accuracy_benchmark import Accuracy, accuracy_script

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from accuracy_runs import write_run  # noqa: E402

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Accuracy:
    return accuracy_script(monkeypatch, capfd)


def kept_run(
    folder: Path, setting: dict[str, object], score: list[float], found: int, peak: Sequence[float] = (), **more: object
) -> None:
    """A run of 80 parts, half of them defective, of whose defect pixels ``found`` percent are found."""
    fixed = {"kinds": ["good", "pit"], "kind": [0] * 40 + [1] * 40, "part": list(range(80)), "size": [[10, 10]]}
    fixed |= {"label": [0] * 40 + [1] * 40, "score": score, "peak": peak or score, "fp": [0] * 80, "tn": [100] * 80}
    fixed |= {"tp": [0] * 40 + [found] * 40, "fn": [0] * 40 + [100 - found] * 40}
    fixed["regions"] = {"image": [], "area": [], "coverage": []}
    setting = {"variant": folder.name, "fold": 0, "seed": 0, "without": None, "masks": 100} | setting
    write_run(folder / "fold0_seed0.json", setting, 1, {**more, "val": fixed, "test": fixed})


def test_what_a_factory_reads(tmp_path: Path, accuracy: Accuracy) -> None:
    """Two of forty defects score below most good parts: at a promise of 5% one of them may be missed, at 1% none."""
    score = [0.1] * 38 + [0.3, 0.4] + [0.2, 0.35] + [0.9] * 38
    kept_run(tmp_path / "sets_grouped/setting/guided", {}, score, 60)
    status, out, error = accuracy("--factory", "--runs", tmp_path, "--pictures", tmp_path)
    assert status == 0, error
    rows = {line.split(" | ")[1]: line.strip("| ").split(" | ")[2:] for line in out.splitlines() if "sets" in line}
    assert list(rows) == ["1%, too few parts", "2%, too few parts", "5%"]
    missed, rejected, beside_review, reviewed = (cell.split(" ")[0] for cell in rows["1%, too few parts"])
    assert (missed, rejected) == ("0.0%", "5.0%")  # 0.3 and 0.4 are above 0.2
    assert float(beside_review[:-1]) < 5 and float(reviewed[:-1]) > 0
    missed, rejected, *_ = (cell.split(" ")[0] for cell in rows["5%"])
    assert (missed, rejected) == ("2.5%", "2.5%")  # 0.2 is missed; 0.4 is above 0.35
    assert (tmp_path / "accuracy_factory.svg").is_file()


def test_what_masks_are_worth(tmp_path: Path, accuracy: Accuracy) -> None:
    score = [0.1] * 40 + [0.9] * 40
    for percent, name in ((100, "setting"), (10, "setting_10masks")):
        for variant, found in (("guided", 60), ("unet", 50 if percent == 100 else 20)):
            folder = tmp_path / "sets_grouped" / name / variant
            kept_run(folder, {"masks": percent}, score, found, trained_on={"masks": percent * 3})
    status, out, error = accuracy("--curves", "--runs", tmp_path, "--pictures", tmp_path)
    assert status == 0, error
    rows = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| 1")]
    assert [row[:2] for row in rows] == [
        ["10% (30)", "guided"],
        ["10% (30)", "unet"],
        ["100% (300)", "guided"],
        ["100% (300)", "unet"],
    ]
    assert rows[1][3:6] == ["1.000", "0.200", "0.200"] and "+0.400 (+0.400 to +0.400)" in rows[1][6]
    assert (tmp_path / "accuracy_masks_sets.svg").is_file() and "defects in training" not in out


def test_fused_scores_are_taken_apart(tmp_path: Path, accuracy: Accuracy) -> None:
    """The classifier is sure and right, the mask takes eight good parts for the worst; what they say together is in
    between, and each is judged at a threshold of its own."""
    odds = {"class": [-4.0] * 40 + [2.0] * 40, "mask": [3.0] * 8 + [-1.0] * 32 + [1.0] * 40}
    fused = [(a + b) / 2 for a, b in zip(*odds.values(), strict=True)]
    score, peak = ([1 / (1 + math.exp(-value)) for value in values] for values in (fused, odds["mask"]))
    folder = tmp_path / "sets_grouped/setting"
    kept_run(folder / "guided", {}, score, 60, peak)
    status, out, error = accuracy("--all", "--runs", tmp_path)
    assert status == 0, error
    means = [line.strip("| ").split(" | ") for line in out.splitlines() if " | 1 | " in line and "(0.000)" in line]
    accuracies = {row[0]: row[4].split(" ")[0] for row in means}
    assert accuracies == {"guided": "1.000", "mask of guided alone": "0.900", "classifier of guided alone": "1.000"}
    aps = {row[0]: row[2].split(" ")[0] for row in means}
    assert aps["classifier of guided alone"] == "1.000" > aps["mask of guided alone"]
