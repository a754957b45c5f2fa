"""Calibrating a model: a pass over the validation images, and where its results go."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinov3.data.defect_manifest import Manifest
from dinov3.defect_evaluation.image_results import ImageResults
from dinov3.defect_evaluation.scoring import read_split, score
from dinov3.defect_evaluation.targets import Target
from dinov3.defect_evaluation.temperature import Calibration, calibrate
from dinov3.defect_evaluation.thresholds import limit_text
from dinov3.defect_interrupts import signals_held
from dinov3.models.defect_engines import Engine


@dataclass(frozen=True)
class ScoredImages:
    """A finished pass: the ``results`` of ``rows``, in their order. Its arrays are of the labelled, readable ones.

    ``views_to_reject``: limits are to be those for parts, see :func:`~dinov3.defect_evaluation.temperature.calibrate`.
    """

    results: ImageResults
    rows: Manifest
    views_to_reject: int | None = None

    @property
    def class_prob(self) -> np.ndarray:
        """(N, K) class probabilities at temperature 1."""
        return self.results.class_prob[self.results.labels >= 0]

    @property
    def labels(self) -> np.ndarray:
        """(N,) class indices."""
        return self.results.labels[self.results.labels >= 0]

    @property
    def parts(self) -> np.ndarray:
        """(N,) names of the physical parts."""
        return self.rows.parts[self.results.labels >= 0]

    def calibration(self, target: Target) -> Calibration:
        """The temperature, and the limits that reach ``target``."""
        return calibrate(self.class_prob, self.labels, self.parts, target, self.views_to_reject)


def score_validation(
    engine: Engine, source: Path, data_root: Path, *, batch_size: int, num_workers: int
) -> ScoredImages:
    """Run a model, read from ``source``, over the val split of a dataset folder.

    Raises:
        DefectError: no such images, or other classes than the model's.
    """
    rows = read_split(engine.facts, source, data_root, "val")
    results = ImageResults(len(rows.classes), engine.facts.thresholds["mask"])
    score(engine, rows, results, batch_size=batch_size, num_workers=num_workers, description="calibrate")
    return ScoredImages(results, rows)


def store_calibration(
    path: Path, facts: Mapping[str, Any], calibration: Calibration, save: Callable[[dict[str, Any]], None]
) -> None:
    """Write thresholds and calibration into the model at ``path`` in one step. Beside it, go NAME.calibration.json and
    NAME.reliability.png.

    Args:
        facts: the model's, with its ``thresholds``; ``save`` is called with what replaces its ``thresholds`` and
            ``calibration``, and writes the file.

    Raises:
        DefectError: the model cannot be written; the files beside it then are as they were, too.
    """
    from dinov3.defect_evaluation.reliability_diagram import draw_reliability  # with matplotlib

    record_facts, thresholds = calibration.facts(), calibration.thresholds(facts["thresholds"])
    text = json.dumps({"checkpoint": path.name, "thresholds": thresholds, **record_facts}, indent=2, ensure_ascii=False)
    record, picture = path.with_suffix(".calibration.json"), path.with_suffix(".reliability.png")
    new = [file.with_name(f".{file.name}.unfinished") for file in (record, picture)]
    try:
        new[0].write_text(text + "\n", encoding="utf-8")
        draw_reliability(calibration, new[1])
        with signals_held():  # what the files say must be what the model does
            save({"thresholds": thresholds, "calibration": record_facts})
            for made, place in zip(new, (record, picture), strict=True):
                made.replace(place)
    finally:
        for file in new:
            file.unlink(missing_ok=True)


def summary(calibration: Calibration) -> str:
    """One line."""
    limits = calibration.limits
    review = "" if limits.review is None else f", reviewed from {limit_text(limits.review)}"
    return (
        f"calibrated on {len(calibration.defective)} validation images: temperature {calibration.temperature:.2f}, "
        f"rejected from {limit_text(limits.classification)}{review} ({calibration.target}); "
        f"misses {calibration.miss.count} of {calibration.miss.images} defects, "
        f"overkill {calibration.overkill.count} of {calibration.overkill.images}"
    )


def table(calibration: Calibration) -> str:
    """All there is to know, in lines."""
    limits, facts = calibration.limits, calibration.facts()
    temperature, fitted = calibration.temperature, calibration.fitted_temperature
    kept = "" if temperature == fitted else f"; {fitted:.3f} suits these images, but not parts that are held out"
    units = "images" if calibration.views_to_reject is None else "parts"
    of_parts = f" of {facts['parts']} parts" if facts["parts"] < facts["images"] else ""
    rows = {
        "images": f"{facts['images']}{of_parts}; {facts['defects']} show a defect",
        "temperature": f"{temperature:.3f}{kept}",
        "calibration error": "{ece_before:.4f} before, {ece_after:.4f} after, {ece_cross_validated:.4f} cross-validated"
        "".format(**facts),
        "target": facts["target"],
        "rejected from": limit_text(limits.classification),
        "reviewed from": "" if limits.review is None else f"{limit_text(limits.review)}; {facts['review']} {units}",
        "miss rate": f"{calibration.miss} on these {units}",
        "overkill": f"{calibration.overkill} on these {units}",
    }
    lines = [f"  {name:<18} {text}" for name, text in rows.items() if text]
    if not limits.promises:
        lines.append("  nothing is promised of other images; --max_miss_rate and --max_overkill do that")
    for promise in limits.promises:
        lines.append(f"  {'promise' if promise.is_possible else 'warning'}: {promise}")
    return "\n".join(lines)
