"""What a factory reads of the kept runs: at a promised miss rate, how many good parts are rejected or reviewed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from accuracy_intervals import mean_value
from accuracy_metrics import is_bad
from accuracy_pictures import Interval, draw
from accuracy_runs import Run, read_run, unpack

from dinov3.defect_evaluation.targets import Limits, Target
from dinov3.defect_evaluation.temperature import calibrate, defect_scores

VARIANT = "guided"
MISS_RATES = (0.01, 0.02, 0.05)
OVERKILL = 0.02  # where a review band is allowed


@dataclass(frozen=True)
class Point:
    """What one promised miss rate gives on test parts: mean and 95% interval over parts and runs.

    Attributes:
        kept: whether every run had the validation parts that the promise takes; else the lowest possible was promised.
        missed: defect images accepted; rejected: good images rejected, where one limit decides all.
        rejected_beside_review, reviewed: good images rejected, and images of either kind that a person sees, where
            ``OVERKILL`` is promised, too.
    """

    asked: float
    kept: bool
    missed: Interval
    rejected: Interval
    rejected_beside_review: Interval
    reviewed: Interval


def print_factory(root: Path, pictures: Path | None) -> None:
    """A table of every setting in which all defects and masks train, and its picture."""
    points = {}
    for folder in sorted({path.parent for path in root.glob(f"*/*/{VARIANT}/fold*_seed*.json")}):
        runs = {}
        for path in sorted(folder.glob("fold?_seed?.json")):
            content = read_run(path)
            setting = content["setting"]
            bad = np.array(content["test"]["label"]) > 0
            if setting["masks"] == 100 and "defects" not in setting and not setting["without"] and not bad.all():
                runs[setting["fold"], setting["seed"]] = content
        if runs:
            points[folder.parents[1].name, folder.parent.name] = [point(rate, runs) for rate in MISS_RATES]
    print(
        f"\n{VARIANT}: limits from validation parts, shares of test images (95% interval over parts and runs)\n\n"
        "| data | promised miss rate | missed | good ones rejected | with review: good ones rejected | to review |\n"
        "|---|---|---|---|---|---|"
    )
    for (data, _), found in points.items():
        for one in found:
            shares = (one.missed, one.rejected, one.rejected_beside_review, one.reviewed)
            promised = f"{one.asked:.0%}" + ("" if one.kept else ", too few parts")
            print(f"| {data} | {promised} | " + " | ".join(map(share_text, shares)) + " |")
    if pictures is not None:
        series = {
            data.removesuffix("_grouped"): {one.asked: one.rejected for one in found}
            for (data, _), found in points.items()
        }
        xs = {rate: f"{rate:.0%}" for rate in MISS_RATES}
        draw(pictures / "accuracy_factory.svg", {"share of good images rejected": series}, "promised miss rate", xs)


def share_text(share: Interval) -> str:
    """With its interval, in percent."""
    return "{:.1%} ({:.1%} to {:.1%})".format(*share)


def point(rate: float, contents: dict[tuple[int, int], dict]) -> Point:
    """What a promised miss rate of ``rate`` gives, by run file content."""
    alone, banded, kept = {}, {}, True
    for cell, content in contents.items():
        alone[cell], promised = limited(content, Target(max_miss_rate=rate))
        banded[cell], _ = limited(content, Target(max_miss_rate=rate, max_overkill=OVERKILL))
        kept &= promised
    shares = (partial(share, part) for part in (_missed, _rejected))
    missed, rejected = (mean_value(alone, metric) for metric in shares)
    shares = (partial(share, part) for part in (_rejected, _reviewed))
    return Point(rate, kept, missed, rejected, *(mean_value(banded, metric) for metric in shares))


def limited(content: dict, target: Target) -> tuple[Run, bool]:
    """The test images of a run with the limits that its validation images give for ``target``, and whether the parts
    sufficed for the promise."""
    val, test = unpack(content["val"]), unpack(content["test"])
    found = calibrate(_class_prob(val), val["images"]["label"], val["group"], target)
    scores = defect_scores(_class_prob(test), found.temperature)
    return test | {"score": scores, "limits": found.limits}, found.limits.promises[0].is_possible


def _class_prob(run: Run) -> np.ndarray:
    score = run["images"]["score"]
    return np.stack([1 - score, score], axis=1)


def share(of: Callable[[Run], tuple[np.ndarray, np.ndarray]], run: Run, weight: np.ndarray) -> float:
    """How many of some images something happens to: ``of`` says which, and to which."""
    happened, among = of(run)
    return float(np.average(happened[among], weights=weight[among])) if weight[among].any() else np.nan


def _lower(limits: Limits) -> float:
    return limits.classification if limits.review is None else limits.review


def _missed(run: Run) -> tuple[np.ndarray, np.ndarray]:
    return run["score"] < _lower(run["limits"]), is_bad(run)


def _rejected(run: Run) -> tuple[np.ndarray, np.ndarray]:
    return run["score"] >= run["limits"].classification, ~is_bad(run)


def _reviewed(run: Run) -> tuple[np.ndarray, np.ndarray]:
    band = (run["score"] >= _lower(run["limits"])) & (run["score"] < run["limits"].classification)
    return band, np.ones(len(band), bool)
