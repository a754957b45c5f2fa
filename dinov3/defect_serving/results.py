"""What becomes of a prediction: a record for the answer, and messages for sinks."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from dinov3.data.defect_images import ImageReadError
from dinov3.defect_serving.evidence import Evidence
from dinov3.defect_serving.logs import now
from dinov3.defect_serving.models import ServedModel
from dinov3.defect_serving.occasion import Occasion
from dinov3.defect_serving.worker import Result
from dinov3.inference.prediction import Prediction
from dinov3.inference.reasons import record_reasons
from dinov3.inference.records import Record, failed_record, make_record
from dinov3.inference.verdict import verdict_bounds

EXTRA_FIELDS = ("attention", "reasons", "bounds")


@dataclass(frozen=True)
class Outcome:
    """What is said of one image.

    Attributes:
        status: that of HTTP if it were the only image: 200; 422, it cannot be read; 500; 504, not in time.
        evidence: for the results database, if there is one.
    """

    record: Record
    status: int = 200
    evidence: Evidence | None = None


# What the results database is to get of an outcome and its prediction, if it has one.
TakeEvidence = Callable[[Outcome, Prediction | None], Evidence]


@dataclass(frozen=True)
class Extras:
    """What an answer holds beside the fields of ``predictions.json``.

    Attributes:
        mask, attention: as ``data:`` addresses of PNG files.
        explain: the reason in English and Chinese, and the mildest and the strictest verdict that other thresholds
            could give.
    """

    mask: bool = False
    attention: bool = False
    explain: bool = False


def finisher(
    name: str,
    model: ServedModel,
    mm_per_pixel: float | None,
    extras: Extras,
    take: TakeEvidence | None = None,
) -> Callable[[Result], Outcome]:
    """Makes the outcome of a prediction of ``model``."""

    def with_evidence(outcome: Outcome, prediction: Prediction | None) -> Outcome:
        return outcome if take is None else replace(outcome, evidence=take(outcome, prediction))

    def finish(result: Result) -> Outcome:
        if isinstance(result, ImageReadError):
            return with_evidence(Outcome(failed_record(name, str(result)), 422), None)
        record = make_record(name, result, mm_per_pixel)
        record["mask"] = png_uri(result.mask) if extras.mask else None  # there is no folder that it could lie in
        if extras.explain:
            record["reasons"] = record_reasons(record)
            record["bounds"] = verdict_bounds(record, model.predictor.thresholds)
        if extras.attention:
            strongest = max(float(result.attention.max()), 1e-12)
            record["attention"] = png_uri((result.attention * (255 / strongest)).round().astype(np.uint8))
        return with_evidence(Outcome(record), result)

    return finish


def png_uri(image: np.ndarray) -> str:
    """An (H, W) uint8 array as ``data:`` address of a PNG file."""
    content = cv2.imencode(".png", image)[1].tobytes()
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def messages(
    occasion: Occasion, model: ServedModel, outcomes: Sequence[Outcome], parts: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """A message for each outcome; ``id`` tells it from all others. Pictures are not part of it.

    Args:
        parts: what is known of whole parts, by their names.
    """
    common = {"time": now(), "request_id": occasion.request_id, **occasion.labels, "model": model.brief}
    found = []
    for number, outcome in enumerate(outcomes):
        result = {name: value for name, value in outcome.record.items() if name not in EXTRA_FIELDS}
        if "mask" in result:
            result["mask"] = None
        part = parts.get(occasion.part(result["image"]) or "")
        found.append({"id": f"{occasion.request_id}-{number}", **common, "part": part, "result": result})
    return found
