"""Parts, that is physical workpieces: which one an image shows, and what the images of one come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from dinov3.data.defect_prepare.splits import find_group, group_pattern, match_group, read_groups
from dinov3.defect_cli import flag

COLUMNS = "part verdict images reject review accept error defect_probability image".split()


@dataclass(frozen=True, kw_only=True)
class PartFlags:
    """How to tell which images show one part; the table comes first."""

    part_csv: Path | None = flag(None, "columns image,group: images of one group show one part", group="parts")
    part_regex: str | None = flag(None, "finds the part in an image's name, such as 'cell([0-9]+)'", group="parts")

    def part_of(self) -> PartOf | None:
        """What tells the part of an image; None if no flag was given.

        Raises:
            DefectError: the table or the pattern cannot be used.
        """
        return None if self.part_csv is None and self.part_regex is None else PartOf(self)


class PartOf:
    """Called with an image's name, ``/``-separated, gives its part's: the image's own if nothing tells."""

    def __init__(self, flags: PartFlags):
        self.groups = {} if flags.part_csv is None else read_groups(flags.part_csv, "--part_csv")
        self.pattern = None if flags.part_regex is None else group_pattern(flags.part_regex, "--part_regex")

    def __call__(self, name: str) -> str:
        found = find_group(PurePosixPath(name), self.groups)
        if found is None and self.pattern is not None:
            found = match_group(name, self.pattern)
        return name if found is None else found


@dataclass
class Views:
    """What was said of the images of one part.

    Attributes:
        counts: images by verdict, and ``error`` for those that could not be inspected.
        defect_probability: the highest; None if no image could be inspected.
        image: the one with the highest; empty without one.
    """

    counts: Counter[str] = field(default_factory=Counter)
    defect_probability: float | None = None
    image: str = ""

    def add(self, record: dict[str, Any]) -> None:
        """Take the record of another image."""
        if record["error"]:
            self.counts["error"] += 1
            return
        self.counts[record["verdict"]] += 1
        probability = record["defect_probability"]  # None if a person alone looked at it
        if probability is not None and (self.defect_probability is None or probability > self.defect_probability):
            self.defect_probability, self.image = probability, record["image"]

    def verdict(self, views_to_reject: int = 1) -> str:
        """``reject`` if so many views are; ``accept`` only if all views are: one that is doubtful, or could not be
        inspected, sends the part to review."""
        if self.counts["reject"] >= views_to_reject:
            return "reject"
        return "accept" if self.counts.keys() <= {"accept"} else "review"


def calibrated_views(calibration: Mapping[str, Any] | None) -> int | None:
    """Images that must be rejected to reject a part, as a model was calibrated for parts; None: for images."""
    views = ((calibration or {}).get("target_values") or {}).get("views_to_reject")
    return None if views is None else max(int(views), 1)


def parts_note(flags: PartFlags, views_to_reject: int | None, calibration: Mapping[str, Any] | None) -> str:
    """What to know where verdicts and calibration speak of different things; empty if they do not.

    Args:
        views_to_reject: what was asked for; None: as calibrated.
    """
    views = calibrated_views(calibration)
    given = flags.part_csv is not None or flags.part_regex is not None
    if views is not None and not given:
        return "the model was calibrated for parts, and promises nothing of images; give --part_csv or --part_regex"
    if views is not None and views_to_reject not in (None, views):
        return (
            f"the model was calibrated for parts that {views} of their images reject; it promises nothing with "
            f"--views_to_reject {views_to_reject}"
        )
    if views is None and given and calibration and calibration.get("promise"):
        return "the model was calibrated for images: what it promises is about images, not parts"
    return ""


class Parts:
    """What was said of each part so far, in the order in which they came."""

    def __init__(self, part_of: PartOf, views_to_reject: int = 1):
        self.part_of, self.views_to_reject = part_of, views_to_reject
        self.views: dict[str, Views] = {}

    def add(self, record: dict[str, Any]) -> None:
        """Take the record of an image (:mod:`~dinov3.inference.records`)."""
        self.views.setdefault(self.part_of(record["image"]), Views()).add(record)

    def verdicts(self) -> Counter[str]:
        """How many parts have each verdict."""
        return Counter(views.verdict(self.views_to_reject) for views in self.views.values())

    def rows(self) -> Iterator[dict[str, Any]]:
        """Of ``parts.csv``."""
        for name, views in self.views.items():
            yield {
                "part": name,
                "verdict": views.verdict(self.views_to_reject),
                "images": views.counts.total(),
                **{kind: views.counts[kind] for kind in ("reject", "review", "accept", "error")},
                "defect_probability": "" if views.defect_probability is None else views.defect_probability,
                "image": views.image,
            }
