"""How images came, and which parts they show."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinov3.inference.parts import Views
from dinov3.inference.records import Record


@dataclass(frozen=True)
class Occasion:
    """A request, or a file in a watched folder.

    Attributes:
        labels: ``part_id``, ``camera`` and ``trigger_id``; None or blank where there is none: a reader of codes that
            failed tells nothing.
        part_of: tells the part from an image's name, where there is no ``part_id``; gives the name back if it cannot.
        watched: the folder, and the time of the file's last write in nanoseconds; None of a request.
    """

    request_id: str
    labels: Mapping[str, str | None]
    part_of: Callable[[str], str] | None = None
    watched: tuple[Path, int] | None = None

    def key(self, number: int) -> str:
        """Tells the image of this number from others of the same name and content. A request with a trigger's id may be
        sent again and is the same then, as is a file that was not written anew."""
        if self.watched is not None:
            return f"written {self.watched[1]}"
        if self._given("trigger_id"):
            return "trigger " + json.dumps([self.labels[name] for name in ("trigger_id", "camera", "part_id")])
        return f"request {self.request_id}-{number}"

    def part(self, name: str) -> str | None:
        """The part that an image shows; None if it is not known."""
        if (given := self._given("part_id")) or self.part_of is None:
            return given
        found = self.part_of(name)
        return None if found == name else found

    def _given(self, label: str) -> str | None:
        text = self.labels[label]
        return text if text is not None and text.strip() else None

    def parts(self, records: Iterable[Record], views_to_reject: int) -> dict[str, dict[str, Any]]:
        """What the images of each known part come to, by its name."""
        found: dict[str, Views] = {}
        for record in records:
            part = self.part(record["image"])
            if part is not None:
                found.setdefault(part, Views()).add(record)
        return {part: part_answer(part, views, views_to_reject) for part, views in found.items()}


def part_answer(part: str, views: Views, views_to_reject: int) -> dict[str, Any]:
    """A part's verdict and what it comes from, as clients are told."""
    return {
        "part": part,
        "verdict": views.verdict(views_to_reject),
        "images": views.counts.total(),
        **{kind: views.counts[kind] for kind in ("reject", "review", "accept", "error")},
        "defect_probability": views.defect_probability,
        "image": views.image or None,
    }


def storable(text: str) -> str:
    """A text that any database takes."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")
