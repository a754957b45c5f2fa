"""An inspected image as the results database keeps it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from dinov3.inference.config import PredictorConfig
from dinov3.inference.predictor import DefectPredictor
from dinov3.inference.records import Record
from dinov3.models.defect_facts import fingerprint

ERROR = "error"  # in place of a verdict, of a file that could not be inspected


def now() -> str:
    """UTC, as the database has times: ``2026-01-31T12:00:00.000000Z``; their order is that of their texts."""
    return time_text(datetime.now(timezone.utc))


def time_text(time: datetime) -> str:
    """A time, which without a zone is taken as UTC, as the database has it."""
    utc = time.replace(tzinfo=timezone.utc) if time.tzinfo is None else time.astimezone(timezone.utc)
    return utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def deciding_settings(config: PredictorConfig, predictor: DefectPredictor) -> dict[str, Any]:
    """What decides a verdict beside the model and its thresholds, for :attr:`Inspected.settings`."""
    tiling = predictor.tiling
    return {
        "rules": fingerprint(config.rules) if config.rules else None,
        "min_region_area": config.min_region_area,
        "mm_per_pixel": config.mm_per_pixel,
        "on_disagreement": config.on_disagreement,
        "mixed_precision": config.mixed_precision,
        "tiles": None if tiling is None else [tiling.size, tiling.overlap],
    }


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """One image and what was said of it.

    Attributes:
        name: by which people know it, such as its path below the inspected folder.
        content_hash: SHA-256 of the file, in hexadecimal; empty if it could not be read at all.
        part: the physical part that it shows; None: not known.
        model: fingerprint of the model, SHA-256 of its file.
        thresholds: ``classification``, ``review`` (or None) and ``mask``, as they were in force.
        settings: what else decides a verdict, such as the fingerprint of the rules; any names and plain values.
        verdict: ``accept``, ``review``, ``reject`` or ``error``.
        decided_by: causes, as :mod:`dinov3.inference.reasons` describes them.
        probabilities: of each class, calibrated.
        defect_probability: 0 to 1; None after an error.
        novelty: where the image is least like good parts, as ``predictions.json`` has it; None: the model cannot tell.
        regions: as ``predictions.json`` has them.
        embedding: (D,) the network's own description of the image; kept as float16. None: there is none.
        image_path, mask_path: where the files are, absolute; empty if nowhere.
        labels: what else is known of how it came, such as its camera; decides nothing.
        occasion: tells this inspection from others of the same image, such as a second upload; empty: there are none.
        file_bytes: of files that are kept for this row alone, and count for its size.
        time: UTC, as :func:`now` writes it.
    """

    name: str
    content_hash: str
    model: str
    verdict: str
    thresholds: Mapping[str, float | None]
    settings: Mapping[str, Any] = field(default_factory=dict)
    part: str | None = None
    predicted_class: str = ""
    decided_by: list[dict[str, Any]] = field(default_factory=list)
    probabilities: Mapping[str, float] = field(default_factory=dict)
    defect_probability: float | None = None
    disagreement: bool = False
    novelty: Mapping[str, Any] | None = None
    regions: list[dict[str, Any]] = field(default_factory=list)
    milliseconds: float | None = None
    error: str = ""
    embedding: np.ndarray | None = None
    image_path: str = ""
    mask_path: str = ""
    labels: Mapping[str, Any] = field(default_factory=dict)
    occasion: str = ""
    file_bytes: int = 0
    time: str = field(default_factory=now)

    @classmethod
    def of_record(cls, record: Record, **facts: Any) -> Inspected:
        """From a record of :mod:`dinov3.inference.records`; ``facts`` are the attributes that it does not have."""
        classes = {name.removeprefix("prob_"): p for name, p in record.items() if name.startswith("prob_")}
        same = "predicted_class defect_probability disagreement novelty decided_by regions milliseconds".split()
        known = {name: record[name] for name in same if name in record}
        verdict = ERROR if record["error"] else record["verdict"]
        return cls(
            name=record["image"], verdict=verdict, error=record["error"], probabilities=classes, **(known | facts)
        )

    @property
    def key(self) -> str:
        """SHA-256 of all that decides the verdict, and of the occasion: an image with the key of an earlier one is that
        image again. What could not be inspected may be tried again, and is another image then."""
        deciding = [self.name, self.content_hash, self.model, dict(self.thresholds), dict(self.settings)]
        occasion = [self.occasion] if self.occasion else []
        text = json.dumps([*deciding, self.verdict == ERROR, *occasion], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def doubt(self) -> float | None:
        """How far the defect probability is from the nearest threshold: 0 is the most doubtful."""
        if self.defect_probability is None:
            return None
        limits = (self.thresholds.get(name) for name in ("classification", "review"))
        return min((abs(self.defect_probability - limit) for limit in limits if limit is not None), default=None)

    def to_row(self) -> dict[str, Any]:
        """Values by column of the table ``inspections``, but for ``id``."""
        embedding = None if self.embedding is None else np.ascontiguousarray(self.embedding, "<f2").reshape(-1)
        if embedding is not None and not np.isfinite(embedding).all():  # beyond float16
            embedding = None
        row = {
            "key": self.key,
            "time": self.time,
            "name": self.name,
            "content_hash": self.content_hash,
            "part": self.part,
            "model": self.model,
            "thresholds": dict(self.thresholds),
            "settings": dict(self.settings),
            "verdict": self.verdict,
            "predicted_class": self.predicted_class,
            "defect_probability": self.defect_probability,
            "doubt": self.doubt,
            "disagreement": self.disagreement,
            "novelty": None if self.novelty is None else finite(self.novelty["deviations"]),
            "decided_by": self.decided_by,
            "probabilities": dict(self.probabilities),
            "regions": self.regions,
            "milliseconds": self.milliseconds,
            "error": self.error,
            "image_path": self.image_path,
            "mask_path": self.mask_path,
            "labels": dict(self.labels),
            "embedding": None if embedding is None else embedding.tobytes(),
            "embedding_width": None if embedding is None else len(embedding),
        }
        # What it takes in the database, nearly: numbers and what surrounds a row are about 300 bytes.
        texts = (len(value) if isinstance(value, (str, bytes)) else len(json.dumps(value)) for value in row.values())
        return row | {"bytes": sum(texts) + 300 + self.file_bytes}


def is_unchanged(path: Path, content_hash: str) -> bool:
    """Whether an image is still the one that was inspected: a camera may write the next one under the same name. With
    an empty hash, whether there is one."""
    try:
        return path.is_file() and content_hash in ("", fingerprint(path))
    except OSError:
        return False


def finite(value: float) -> float | None:
    """None in place of NaN and infinity, which JSON and some databases do not have."""
    return value if math.isfinite(value) else None


def read_embedding(row: Mapping[str, Any]) -> np.ndarray | None:
    """(D,) float32 of a row of :meth:`Store.rows` with ``embeddings``; None if there is none."""
    if row["embedding"] is None:
        return None
    return np.frombuffer(row["embedding"], "<f2", row["embedding_width"]).astype(np.float32)
