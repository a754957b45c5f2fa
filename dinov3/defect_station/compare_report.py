"""What a comparison of two models leaves: ``report.html``, ``comparison.json`` and ``flips.csv``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from dinov3.data.defect_images import ImageReadError, read_image
from dinov3.defect_evaluation.bootstrap import Estimate
from dinov3.defect_evaluation.thresholds import limit_text
from dinov3.defect_folder_kinds import expect_no_dataset, expect_no_training, expect_none_of, is_json_with
from dinov3.defect_pages.html import render
from dinov3.defect_station.compare import RATES, Answers, Comparison, Flip
from dinov3.defect_tables import write_table
from dinov3.inference.predictor import DefectPredictor
from dinov3.inference.reasons import VERDICT_NAMES, reason_text
from dinov3.inference.reports.pair_pictures import Pair, beside_each_other

TEMPLATE = Path(__file__).parent / "templates" / "comparison.html"
MOST_PICTURES = 60  # in the page; flips.csv has all
FILES = ("report.html", "comparison.json", "flips.csv")
COLUMNS = (
    "image label part kind old_verdict new_verdict old_probability new_probability old_class new_class old_reason "
    "new_reason"
).split()


@dataclass(frozen=True)
class Model:
    """One of the two."""

    path: Path
    predictor: DefectPredictor
    answers: Answers

    def record(self) -> dict[str, Any]:
        """What is written of it."""
        limits, speed = self.predictor.thresholds, self.answers.milliseconds
        return {
            "model": str(self.path),
            "engine": self.predictor.engine.name,
            "thresholds": {"classification": limits.classification, "review": limits.review, "mask": limits.mask},
            "milliseconds": None if math.isnan(speed) else round(speed, 2),
            "images_per_second": round(self.answers.images_per_second, 2),
        }


def expect_own_comparison(folder: Path) -> None:
    """Refuse an ``--output_dir`` in which something would be lost.

    Raises:
        DefectError: it is or lies in a dataset, is that of a training, or holds files of these names that no comparison
            made.
    """
    expect_no_dataset(folder, "--output_dir")
    expect_no_training(folder, "--output_dir")
    if not is_json_with("old", "new", "flips")(folder / "comparison.json"):
        expect_none_of(folder, FILES, "--output_dir", "comparison")


def write_comparison(
    folder: Path,
    comparison: Comparison,
    old: Model,
    new: Model,
    paths: Sequence[Path],
    names: Sequence[str],
    labels: Sequence[str],
    parts: Sequence[str],
    source: str,
    *,
    decided: bool = False,
) -> None:
    """Write all files.

    Args:
        paths, names, labels, parts: of all images; a label may be empty.
        source: what was compared on, for the reader.
        decided: the labels are what people decided, on images that were chosen for it.
    """
    rows = [_row(flip, names, labels, parts) for flip in comparison.flips]
    write_table(folder / "flips.csv", rows, COLUMNS)
    content = {
        "old": old.record(),
        "new": new.record(),
        "images": len(paths),
        "inspected": comparison.inspected,
        "flips": {kind: number for kind, number in _counts(comparison).items()},
        "metrics": {
            name: {"old": _number(a), "new": _number(b), "difference": list(map(_number, difference))}
            for name, (a, b, difference) in comparison.metrics.items()
        },
        "mcnemar": {
            name: {"new_alone": test.new_alone, "old_alone": test.old_alone, "p": test.p}
            for name, test in comparison.tests.items()
        },
        "parts": {"defective": comparison.defective, "good": comparison.good},
        "errors": {names[n]: reason for n, reason in (new.answers.errors | old.answers.errors).items()},
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "comparison.json").write_text(text + "\n", encoding="utf-8")
    shown = list(zip(comparison.flips, rows, strict=True))[:MOST_PICTURES]
    html = render(
        TEMPLATE,
        source=source,
        decided=decided,
        models={"old": old, "new": new},
        comparison=comparison,
        counts=_counts(comparison),
        metrics={
            name: (_share(a), _share(b), _signed(difference), _interval(difference), _verdict(name, difference))
            for name, (a, b, difference) in comparison.metrics.items()
        },
        pictures=[_pair(flip, row, paths[flip.place], old, new) for flip, row in shown],
        hidden=len(rows) - len(shown),
        errors=content["errors"],
        images=len(paths),
        limit_text=limit_text,
        verdict_names=VERDICT_NAMES,
    )
    (folder / "report.html").write_text(html, encoding="utf-8")


def _row(flip: Flip, names: Sequence[str], labels: Sequence[str], parts: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"image": names[flip.place], "label": labels[flip.place]}
    row |= {"part": parts[flip.place], "kind": flip.kind}
    for which, said in (("old", flip.old), ("new", flip.new)):
        row |= {
            f"{which}_verdict": said.verdict,
            f"{which}_probability": round(said.defect_probability, 6),
            f"{which}_class": said.predicted_class,
            f"{which}_reason": reason_text(said.decided_by),
        }
    return row


def _counts(comparison: Comparison) -> dict[str, int]:
    counts: dict[str, int] = {}
    for flip in comparison.flips:
        counts[flip.kind] = counts.get(flip.kind, 0) + 1
    return counts


def _pair(flip: Flip, row: dict[str, Any], path: Path, old: Model, new: Model) -> tuple[dict[str, Any], Pair | None]:
    """What there is to say of a flip, and the picture with the mask of either model; None if it is gone."""
    reasons = [(reason_text(said.decided_by), reason_text(said.decided_by, "zh")) for said in (flip.old, flip.new)]
    facts = row | {"old_reason": reasons[0], "new_reason": reasons[1]}
    try:
        masks = [model.predictor(path).mask for model in (old, new)]
        picture = beside_each_other(read_image(path), *masks)
    except (ImageReadError, cv2.error, MemoryError):
        return facts, None
    return facts, Pair(row["image"], ("", ""), picture)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2%}"


def _signed(difference: Estimate) -> str:
    return "" if math.isnan(difference.value) else f"{100 * difference.value:+.2f}"


def _interval(difference: Estimate) -> str:
    return "" if math.isnan(difference.low) else f"{100 * difference.low:+.2f} … {100 * difference.high:+.2f}"


def _verdict(name: str, difference: Estimate) -> str:
    """``better`` or ``worse`` where the interval says so, else empty."""
    if math.isnan(difference.low) or difference.low <= 0 <= difference.high:
        return ""
    return "better" if (difference.value < 0) == (name in RATES) else "worse"
