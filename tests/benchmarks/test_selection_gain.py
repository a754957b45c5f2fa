"""benchmarks/selection_gain.py: no part on two sides, few defects on the line, runs kept, paired differences."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from selection_gain import FEWEST, build_parser, divide, kept, run_seed, write  # noqa: E402
from selection_model import Answers  # noqa: E402
from selection_table import print_table  # noqa: E402

from dinov3.data.defect_manifest import Manifest  # noqa: E402
from dinov3.data.defect_prepare.writer import DatasetWriter  # noqa: E402
from dinov3.defect_errors import DefectError  # noqa: E402


class Oracle:
    """In place of a network: its scores are right but for noise, which falls with the defects it was trained with."""

    def __init__(self, manifest: Manifest):
        self.bad, self.trainings = manifest.labels > 0, 0

    def train(self, rows: np.ndarray, updates: int, seed: int, novel: np.ndarray | None) -> float:
        self.trainings += 1
        return 3 / self.bad[rows].sum()

    def answers(self, noise: float, rows: np.ndarray) -> Answers:
        score = 1 / (1 + np.exp(-4 * (self.bad[rows] - 0.5) - noise * np.random.default_rng(0).normal(0, 4, len(rows))))
        return Answers(np.stack([1 - score, score], axis=1), score, None)

    def mask_threshold(self, noise: float, rows: np.ndarray) -> float:
        return 0.5

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        return np.random.default_rng(1).random((len(self.bad), 4))[rows]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """A hundred and twenty parts of three images each; every third part is defective."""
    with DatasetWriter(tmp_path / "data") as writer:
        for number in range(360):
            image = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            bad = number // 3 % 3 == 0
            facts = {"label": "defect" if bad else "normal", "split": "train", "source": "bad" if bad else "good"}
            mask = np.ones((8, 8), np.uint8) if bad else None
            writer.add(image, f"{number:03}.png", mask, group=f"P{number // 3}", **facts)
        return writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command="test")


def flags(tmp_path: Path, *more: str) -> argparse.Namespace:
    return build_parser().parse_args(["--runs", str(tmp_path / "runs"), "--start", "30", *more])


def test_parts_stay_whole_and_few_of_the_line_are_defective(manifest: Manifest, tmp_path: Path) -> None:
    tested: list[int] = []
    for seed in range(3):
        data = divide(flags(tmp_path), "made", manifest, seed)
        sides = [set(data.parts[rows].tolist()) for rows in (data.line, data.val, data.test)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
        assert 0.05 <= data.bad[data.line].mean() <= 0.15
        assert len(data.start) == 30 == len(set(data.start.tolist())) and set(data.start) <= set(data.line)
        assert min(data.bad[data.start].sum(), (~data.bad[data.start]).sum()) >= FEWEST
        tested += data.test.tolist()
        assert divide(flags(tmp_path, "--defects", "1"), "made", manifest, seed).bad.mean() == pytest.approx(1 / 3)
    assert sorted(tested) == list(range(360)), "each image is tested once in three seeds"


def test_runs_are_kept_and_the_table_tells_what_is_better(manifest: Manifest, tmp_path: Path, capsys) -> None:
    args, oracle, folder = flags(tmp_path), Oracle(manifest), tmp_path / "runs"
    for seed in (0, 1):
        run_seed(args, folder, oracle, divide(args, "made", manifest, seed), seed)
    assert oracle.trainings == 14 == len(list(folder.iterdir()))
    run_seed(args, folder, oracle, divide(args, "made", manifest, 0), 0)
    assert oracle.trainings == 14, "nothing is done twice"
    one = folder / "seed0_selected25.json"
    run = json.loads(one.read_text(encoding="utf-8"))
    assert kept(one, run["setting"]) == run and run["labels"] == 55 and len(run["next"]) == 25
    with pytest.raises(DefectError, match="another setting"):
        kept(one, run["setting"] | {"updates": 1})
    capsys.readouterr()
    print_table(folder, [0, 1, 2], (25, 50, 100))
    out = capsys.readouterr().out
    assert "seeds 0 1;" in out, "a seed that is not finished does not count"
    row = next(line for line in out.splitlines() if line.startswith("| 25 |"))
    found = [int(text) for text in row.split("|")[2].split("/")]
    assert found[0] > found[1], "selected images show more defects than random ones"
    difference = row.split("|")[4].split()
    assert float(difference[0]) > 0 and float(difference[1].strip("(")) <= float(difference[0])
    write(one, run | {"score": [1 - score for score in run["score"]]})
    print_table(folder, [0, 1], (25, 50, 100))
    worse = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| 25 |"))
    assert float(worse.split("|")[4].split()[0]) < float(difference[0])
