"""An inspection report, taken apart."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np


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
