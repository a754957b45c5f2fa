"""The inspection report: ``report.html``, one file that shows what an inspection found and needs no network."""

from __future__ import annotations

import base64
import heapq
import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from markupsafe import Markup

from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.thresholds import VERDICTS, Thresholds
from dinov3.defect_pages.html import data_script
from dinov3.inference.reasons import record_reasons
from dinov3.inference.reports.inspection_page import report_page
from dinov3.inference.reports.spool import Spool
from dinov3.inference.verdict import verdict_bounds

MILLION = 1_000_000  # probabilities are whole millionths here
BLOCK = 50  # pictures that the page unpacks at a time
EVERYTHING = '<script type="text/plain" id="everything">'
REGIONS = 8  # of an image, listed in its full view


@dataclass
class Summary:
    """What the page needs of all images.

    Attributes:
        counts: images by verdict, and of ``error``.
        disagreements: images whose mask and classifier say different things.
        packed: per image with a verdict, the defect probability in millionths (20 bits), then the indices of the
            mildest and of the strictest verdict that any thresholds could give it (2 bits each).
        bound: how many are so bound, by a rule or a disagreement.
        errors: name and reason of the first inputs that failed.
        chosen: places in the spool of the images to show, the most suspicious first.
    """

    counts: Counter[str] = field(default_factory=Counter)
    disagreements: int = 0
    packed: array[int] = field(default_factory=lambda: array("I"))
    bound: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)


class ReportWriter:
    """Collects the images of an inspection as they come and writes the page at the end.

    Beside the page, a ``.spool`` file holds their records and thumbnails (about 5 KB an image) until :meth:`close`;
    memory holds 4 bytes per image and ``max_images`` records. Use as a context manager, or call :meth:`close`.

    Args:
        path: of the page.
        classes: of the model, index 0 is normal.
        thresholds: that gave the verdicts.
        calibration: of the checkpoint; what it says of these thresholds is shown.
        title: heading, in place of "Inspection report".
        checkpoint, source: shown as they are: which model, and where the images came from.
        panels: the four-panel pictures are in ``visualizations/`` beside the page.
        drift: tells where the test for drift is at the end, as :meth:`~dinov3.defect_station.drift.DriftMonitor.state`
            has it; None: there is no test. ``drift_reference``: what the images are compared with, shown as it is.
        max_images: so many have a picture in the page: rejected ones and those for review first, then accepted ones
            whose mask disagrees, then those nearest the threshold. All images count in the numbers, the histogram
            and the sliders.
        done: to go on with an inspection, the records of the images that it finished. Their thumbnails are in the
            spool if it was stopped, else in its page: what that did not show, the next does not either. Those
            that are in neither are shown without picture.

    Raises:
        DefectError: the folder cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        classes: Sequence[str],
        thresholds: Thresholds,
        calibration: dict[str, Any] | None = None,
        title: str = "",
        checkpoint: str = "",
        source: str = "",
        panels: bool = False,
        drift: Callable[[], dict[str, Any]] | None = None,
        drift_reference: str = "",
        max_images: int = 5000,
        done: Iterable[dict[str, Any]] = (),
    ):
        self.path, self.classes, self.thresholds, self.max_images = path, list(classes), thresholds, max_images
        self._shown: dict[str, Any] = {"title": title, "checkpoint": checkpoint, "source": source}
        self._shown |= {"calibration": calibration, "has_panels": panels, "drift_reference": drift_reference}
        self._drift = drift
        try:
            self._spool = Spool(path.with_suffix(".spool"), done, pictures_in(path))
        except OSError as error:
            raise DefectError(f"{path}: cannot be written ({error.strerror})") from None

    def __enter__(self) -> ReportWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(finished=kind is None)

    def add(self, record: dict[str, Any], display: np.ndarray | None = None, mask: np.ndarray | None = None) -> None:
        """Add the next image.

        Args:
            record: its entry in ``predictions.json``; with a non-empty ``error``, only that and ``image`` count.
            display: (h, w, 3) uint8 RGB copy at any size.
            mask: (H, W) uint8 mask classes at any size, 0 where nothing is marked.
        """
        self._spool.add(record, display, mask)

    def close(self, *, finished: bool = True) -> None:
        """Write the page; ``finished``: no one will go on with this inspection, so the spool can go."""
        summary = self._survey()
        page = report_page(
            self._data(summary),
            classes=self.classes,
            thresholds=self.thresholds,
            counts=summary.counts,
            disagreements=summary.disagreements,
            bound=summary.bound,
            errors=summary.errors,
            images_shown=len(summary.chosen),
            block=BLOCK,
            drift=None if self._drift is None else self._drift(),
            **self._shown,
        )
        new = self.path.with_name(self.path.name + ".new")
        with new.open("w", encoding="utf-8") as file:
            file.writelines(page)
        os.replace(new, self.path)
        self._spool.close(delete=finished)

    def _survey(self) -> Summary:
        """One pass over all records."""
        summary = Summary()
        best: list[tuple[int, float, int]] = []  # a heap, the least interesting image on top
        for position, record in self._spool.records():
            if record.get("error"):
                summary.counts["error"] += 1
                if len(summary.errors) < self.max_images:
                    summary.errors.append((record["image"], record["error"]))
                continue
            summary.counts[record["verdict"]] += 1
            summary.disagreements += bool(record.get("disagreement"))
            mildest, strictest = verdict_bounds(record, self.thresholds)
            summary.bound += (mildest, strictest) != (0, 2)
            packed = placed(record["defect_probability"], self.thresholds)
            summary.packed.append(packed | mildest << 20 | strictest << 22)
            heapq.heappush(best, (*_interest(record), -position))
            if len(best) > self.max_images:
                heapq.heappop(best)
        summary.chosen = [-minus for _, _, minus in sorted(best, reverse=True)]
        return summary

    def _data(self, summary: Summary) -> Iterator[Markup]:
        """The elements with what the script reads: probabilities, rows, and blocks of pictures."""
        packed = np.frombuffer(summary.packed, np.uint32).astype("<u4").tobytes()
        yield Markup(f"{EVERYTHING}{base64.b64encode(packed).decode()}</script>")
        rows = []
        for start in range(0, len(summary.chosen), BLOCK):
            block = []
            positions = summary.chosen[start : start + BLOCK]
            for position, (record, photo, mask) in zip(positions, self._spool.lines(positions), strict=True):
                rows.append(self._row(json.loads(record)) | {"index": len(rows), "position": position})
                block.append([photo, mask])
            yield data_script(f"pictures-{start // BLOCK}", block)
        yield data_script("rows", rows)

    def _row(self, record: dict[str, Any]) -> dict[str, Any]:
        """One image for the script; probabilities in millionths, verdict and class by index."""
        picture = record.get("mask", "").removeprefix("masks/") or f"{record['image']}.png"
        regions = [{k: v for k, v in r.items() if k != "polygon"} for r in record.get("regions", [])[:REGIONS]]
        return {
            "name": record["image"],
            "picture": picture,
            "verdict": VERDICTS.index(record["verdict"]),
            "bounds": verdict_bounds(record, self.thresholds),
            "class": self.classes.index(record["predicted_class"]),
            "p": placed(record["defect_probability"], self.thresholds),
            "probabilities": [millionths(record[f"prob_{name}"]) for name in self.classes],
            "area": record["mask_area_fraction"],
            "regions": record["num_regions"],
            "reasons": record_reasons(record),
            "disagrees": bool(record.get("disagreement")),
            "milliseconds": record["milliseconds"],
            "largest": regions,
        }


def is_report(path: Path) -> bool:
    """Whether this is a page that :class:`ReportWriter` wrote."""
    if not path.is_file():  # a pipe would wait for whoever writes into it
        return False
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return any(line.startswith(EVERYTHING) for line in file)
    except OSError:
        return False


def pictures_in(page: Path) -> Iterator[tuple[dict[str, Any], str, str]]:
    """What :meth:`ReportWriter.close` put into a page, if there is one: of each image shown what tells its record
    from others, thumbnail and mask."""
    try:
        rows = (row for part in _parts(page, "rows") for row in part)
        pictures = (pair for block in _parts(page, "pictures-") for pair in block)
        for row, (photo, mask) in zip(rows, pictures, strict=False):
            yield {"image": row["name"], "milliseconds": row["milliseconds"]}, photo, mask
    except (OSError, ValueError, KeyError, TypeError):
        return  # none, or a page of something else, or damaged


def _parts(page: Path, name: str) -> Iterator[Any]:
    """The values in the ``data_script`` elements whose name begins so; each is a line of its own."""
    start, end = f'<script type="application/json" id="{name}', "</script>\n"
    with page.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith(start) and line.endswith(end):
                yield json.loads(line[line.index(">") + 1 : -len(end)])


def millionths(probability: float) -> int:
    """0 to 1,000,000."""
    return round(probability * MILLION)


def placed(probability: float, limits: Thresholds) -> int:
    """A probability in millionths, on the same side of each limit in millionths as it is of the limit itself."""
    value = millionths(probability)
    for limit in (limits.classification, limits.review):
        if limit is not None:
            here = limit_in_millionths(limit)
            value = max(value, here) if probability >= limit else min(value, here - 1)
    return max(value, 0)


def limit_in_millionths(limit: float) -> int:
    """As ``report.js`` has it; only a limit of 0 is 0, as there is nothing below that."""
    return max(millionths(limit), 1) if limit > 0 else 0


def _interest(record: dict[str, Any]) -> tuple[int, float]:
    """What an image with a verdict is sorted by: the larger, the more it should be seen."""
    group = 2 if record["verdict"] != "accept" else 1 if record.get("disagreement") else 0
    return group, record["defect_probability"]
