"""What the test for drift gets to see: of each image, or part, two numbers."""

from __future__ import annotations

import csv
import math
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dinov3.defect_errors import DefectError
from dinov3.inference.records import read_records

OPEN_PARTS = 4  # whose next image may still come


@dataclass(frozen=True)
class Observation:
    """What one image says to the test. A value that is not finite raises ``ValueError``.

    Attributes:
        name: of the image.
        score: its defect probability, 0 to 1.
        novelty: how unlike good training images it is, in standard deviations; None without ``--novelty``.
        part: that it shows, if known.
        id, time: its row in a results database, and when it was inspected.
    """

    name: str
    score: float
    novelty: float | None = None
    part: str | None = None
    id: int | None = None
    time: str | None = None

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in self.values().values()):
            raise ValueError(f"{self.name}: {self.values()}; expected finite numbers")

    def values(self) -> dict[str, float]:
        """What is tested."""
        return {"score": self.score} | ({} if self.novelty is None else {"novelty": self.novelty})


def read_observations(path: Path) -> list[Observation]:
    """The images of a results folder, in the order of their inspection, or of an evaluation's ``per_image.csv``; those
    that could not be read are skipped.

    Raises:
        DefectError: there is no such table, or it is not one of ours.
    """
    table = path / "predictions.json" if path.is_dir() else path
    try:
        found = list(_of_results(table) if table.suffix == ".json" else _of_table(table))
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise DefectError(
            f"{table}: cannot be read ({reason}); expected a results folder of inference_defect_model.py, or the "
            "per_image.csv of evaluate_defect_model.py"
        ) from None
    if not found:
        raise DefectError(f"{table}: says nothing on any image")
    return found


def _of_results(path: Path) -> Iterator[Observation]:
    for record, _ in read_records(path):
        if not record.get("error"):
            novelty = record.get("novelty")
            yield Observation(
                record["image"], float(record["defect_probability"]), novelty and float(novelty["deviations"])
            )


def _of_table(path: Path) -> Iterator[Observation]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            if row["defect_probability"]:
                yield Observation(row["image"], float(row["defect_probability"]))


def of_score(row: Mapping[str, Any], model: str) -> Observation | None:
    """That of a row of :meth:`~dinov3.defect_station.store.Store.scores`; None if it has no score of this model."""
    score, novelty = row["defect_probability"], row["novelty"]
    if score is None or row["model"] != model:
        return None
    return Observation(row["name"], score, novelty, part=row["part"], id=row["id"], time=row["time"])


def one_per_part(
    images: Iterable[Observation], part_of: Callable[[str], str] | None, largest: bool = True
) -> Iterator[Observation]:
    """For images of one part, as :class:`OnePerPart` joins them."""
    joined = OnePerPart(part_of, largest)
    for image in images:
        yield from joined.add(image)
    yield from joined.rest()


class OnePerPart:
    """Makes one of the images of one part that come soon after each other.

    A part is done when images of :data:`OPEN_PARTS` later ones were there. An image of no known part stands for itself.

    Args:
        part_of: the part that an image, given by its name, shows, or the name itself if that does not tell; then, and
            if this is None, it is the part that the image says itself.
        largest: one with the largest values, named after the first; False: any of them, by chance, which can be
            compared with single images of a reference whose parts are not known.
    """

    def __init__(self, part_of: Callable[[str], str] | None = None, largest: bool = True):
        self.part_of, self.largest = part_of, largest
        self._open, self._views, self._chance = OrderedDict[str, Observation](), Counter[str](), random.Random(0)

    def add(self, image: Observation) -> list[Observation]:
        """Take the next image; those of parts that are done now."""
        part = self._part(image)
        if part is None:
            return [image]
        before = self._open.get(part)
        self._views[part] += 1
        if before is None:
            self._open[part] = image
        elif self.largest:
            novelty = [one.novelty for one in (before, image) if one.novelty is not None]
            score = max(before.score, image.score)
            self._open[part] = replace(before, score=score, novelty=max(novelty, default=None))
        elif self._chance.randrange(self._views[part]) == 0:  # each of them has the same chance
            self._open[part] = image
        return [self._done() for _ in range(len(self._open) - OPEN_PARTS)]

    def _part(self, image: Observation) -> str | None:
        named = image.name if self.part_of is None else self.part_of(image.name)
        part = image.part if named == image.name else named
        return None if part == image.name else part

    def _done(self) -> Observation:
        part, image = self._open.popitem(last=False)
        del self._views[part]
        return image

    def rest(self) -> list[Observation]:
        """Those of all other parts, when no more images come."""
        return [self._done() for _ in range(len(self._open))]
