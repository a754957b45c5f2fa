"""Inspection reports: made-up records, reports made of them, and a page taken apart."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from dinov3.defect_evaluation.thresholds import Thresholds
from dinov3.inference.reports.inspection import ReportWriter

THRESHOLDS = Thresholds(classification=0.6, mask=0.5, review=0.3)
HOSTILE = [
    "</script><script>alert(1)</script>.png",
    '"><img src=x onerror=alert(1)>.png',
    "a'b\"c&amp;<!--.png",
    "line\nbreak\ttab.png",
    "裂纹 🔥 100% #1?.png",
    "<!--images-->.png",
]


def record(name: str, p: float, verdict: str = "", **more: Any) -> dict[str, Any]:
    """An entry of predictions.json."""
    region = {"class_name": "crack", "box": [1, 2, 3, 4], "polygon": [[1, 2]], "area": 9, "score": 0.7, "peak": 0.8}
    return {
        "image": name,
        "verdict": verdict or THRESHOLDS.verdict(p),
        "predicted_class": "crack" if p > 0.5 else "normal",
        "defect_probability": p,
        "prob_normal": 1 - p,
        "prob_crack": p,
        "threshold": 0.6,
        "review_threshold": 0.3,
        "mask_area_fraction": 0.01,
        "num_regions": 1,
        "reason": f"defect probability {p:.2f}",
        "decided_by": [{"kind": "probability", "probability": p, "threshold": 0.3, "limit": "review"}],
        "disagreement": False,
        "milliseconds": 1.5,
        "error": "",
        "regions": [region],
    } | more


def rule(name: str = "max_area_mm2", **more: Any) -> dict[str, Any]:
    """What a rule that fired leaves in ``decided_by``."""
    return {"kind": "rule", "rule": name, "class": "crack", "value": 9.0, "most": 2.0, "regions": 1} | more


def picture(seed: int = 0, size: int = 48) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)
    mask = np.zeros((size, size), np.uint8)
    mask[4:12, 6:16] = 1
    return image, mask


def writer(path: Path, **options: Any) -> ReportWriter:
    return ReportWriter(path, **({"classes": ["normal", "crack"], "thresholds": THRESHOLDS} | options))


def write(path: Path, records: list[dict[str, Any]], **options: Any) -> Page:
    with writer(path, **options) as report:
        for number, entry in enumerate(records):
            report.add(entry, *(() if entry.get("error") else picture(number)))
    return Page(path)


class Page(HTMLParser):
    """A report as a browser would take it apart: ``texts`` of elements with an id, all tags, and the text to read."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.text, self._inside = "", ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = dict(attrs).get("id") or tag
            self.texts[self._inside] = ""

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._inside = ""

    def handle_data(self, data):
        if self._inside:
            self.texts[self._inside] = data
        else:
            self.text += data

    def json(self, name: str) -> Any:
        return json.loads(self.texts[name])

    @property
    def probabilities(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of all images: defect probability; index of the mildest and of the strictest verdict it can have."""
        packed = np.frombuffer(base64.b64decode(self.texts["everything"]), "<u4")
        return (packed & 0xFFFFF) / 1e6, packed >> 20 & 3, packed >> 22

    def pictures(self) -> list[list[str]]:
        blocks = sorted((name for name in self.texts if name.startswith("pictures-")), key=lambda n: int(n[9:]))
        return [pair for name in blocks for pair in self.json(name)]
