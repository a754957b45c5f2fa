"""What is written of each inspected image: one record, its line in ``predictions.json`` and its row in the tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from dinov3.defect_evaluation.thresholds import same_side
from dinov3.inference.prediction import Prediction
from dinov3.inference.regions import region_record

Record = dict[str, Any]

LONGEST_NAME = 255  # bytes of a file name that common file systems take


def columns(classes: Sequence[str]) -> list[str]:
    """Of ``predictions.csv``."""
    return [
        "image",
        "verdict",
        "predicted_class",
        "defect_probability",
        *(f"prob_{name}" for name in classes),
        "threshold",
        "review_threshold",
        "mask_area_fraction",
        "num_regions",
        "novelty",
        "reason",
        "disagreement",
        "milliseconds",
        "error",
    ]


def make_record(name: str, result: Prediction, mm_per_pixel: float | None) -> Record:
    """The record of one image: what the table says, what decided it (:mod:`~dinov3.inference.reasons`), its regions."""
    return {
        "image": name,
        "verdict": result.verdict,
        "predicted_class": result.predicted_class,
        "defect_probability": same_side(result.defect_probability, 6, result.threshold, result.review_threshold),
        **{f"prob_{c}": round(p, 6) for c, p in result.probabilities.items()},
        "threshold": result.threshold,
        "review_threshold": result.review_threshold,
        "mask_area_fraction": result.mask_area_fraction,
        "num_regions": len(result.regions),
        "novelty": None if result.novel is None else asdict(result.novel),
        "reason": result.reason,
        "decided_by": result.decided_by,
        "disagreement": result.disagrees,
        "milliseconds": round(result.milliseconds, 2),
        "error": "",
        "mask": f"masks/{picture_name(name)}",
        "regions": [region_record(region, mm_per_pixel) for region in result.regions],
    }


def failed_record(name: str, reason: str) -> Record:
    """The record of a file that could not be inspected."""
    return {"image": name, "error": reason}


def table_row(record: Record) -> Record:
    """A record as ``predictions.csv`` has it."""
    row = {key: value for key, value in record.items() if key not in ("mask", "regions", "decided_by")}
    if "disagreement" in row:
        row["disagreement"] = "true" if row["disagreement"] else "false"
    if row.get("novelty"):
        row["novelty"] = row["novelty"]["deviations"]
    return row


def picture_name(name: str) -> str:
    """Where below ``masks/`` and ``visualizations/`` the files of an image lie: its own path with ``.png`` added, so
    that no two images share one. A file name that leaves no room for the suffix is cut and gets a hash of itself."""
    folder, slash, file = name.rpartition("/")
    if len(file.encode()) + len(".png") > LONGEST_NAME:
        mark = "~" + hashlib.sha256(name.encode()).hexdigest()[:16]
        file = file.encode()[: LONGEST_NAME - len(mark) - len(".png")].decode(errors="ignore") + mark
    return f"{folder}{slash}{file}.png"


class StoredRecord(NamedTuple):
    """A record as it stands in a file."""

    record: Record
    end: int  # the place in bytes where it ends


def read_records(path: Path) -> Iterator[StoredRecord]:
    """The whole records of a ``predictions.json`` that a stopped run may have left unfinished, one a line."""
    with path.open("rb") as file:
        place = len(file.readline())
        for line in file:
            text = line.rstrip(b"\n").removesuffix(b",")
            try:
                record = json.loads(text)
            except (ValueError, RecursionError):  # a torn line, or the closing bracket
                return
            if not isinstance(record, dict) or "image" not in record:
                return
            yield StoredRecord(record, place + len(text))
            place += len(line)


def files_noted(results: Path) -> Iterator[str]:
    """Names below ``masks/`` and ``visualizations/`` of the files of the images that a ``predictions.json`` has."""
    for stored in read_records(results) if results.is_file() else ():
        record = stored.record
        file = picture_name(str(record["image"]))
        if record.get("mask") == f"masks/{file}" and not PurePath(file).anchor and ".." not in PurePath(file).parts:
            yield file
