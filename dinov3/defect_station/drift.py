"""Whether the images that come in are still like those that the thresholds were made for."""

from __future__ import annotations

import csv
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dinov3.defect_errors import DefectError
from dinov3.defect_station.martingale import ConformalMartingale
from dinov3.inference.records import read_records

LEAST_REFERENCE = 20  # images; fewer say too little of what is usual
KEPT = 1000  # of the last images, to name those that moved the test most


@dataclass(frozen=True)
class Observation:
    """What one image says to the test. A value that is not finite raises ``ValueError``.

    Attributes:
        name: of the image.
        score: its defect probability, 0 to 1.
        novelty: how unlike good training images it is, in standard deviations; None without ``--novelty``.
    """

    name: str
    score: float
    novelty: float | None = None

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in self.values().values()):
            raise ValueError(f"{self.name}: {self.values()}; expected finite numbers")

    def values(self) -> dict[str, float]:
        """What is tested."""
        return {"score": self.score} | ({} if self.novelty is None else {"novelty": self.novelty})


@dataclass(frozen=True)
class Alarm:
    """What was found changed.

    Attributes:
        what: ``score`` or ``novelty``.
        after: how many images it took.
        capital: of the gambler (:mod:`~dinov3.defect_station.martingale`): the larger, the surer.
    """

    what: str
    after: int
    capital: float


class DriftMonitor:
    """Tests each image against the reference and all images before it; may be looked at after every one.

    As long as nothing changes, an alarm comes with a chance of at most ``false_alarm``, over any number of images. That
    holds for images that are independent of each other: of several photographs of one part, show it one, or their
    largest values.

    Args:
        reference: of a time when all was well, or the validation images.
        false_alarm: the chance of an alarm without a change, 0 to 1, shared evenly by score and novelty.
        seed: of the random ranks of equal values.

    Attributes:
        alarms: the first of each kind.

    Raises:
        DefectError: too few reference images.
    """

    def __init__(self, reference: Sequence[Observation], false_alarm: float = 0.01, seed: int = 0):
        if len(reference) < LEAST_REFERENCE:
            raise DefectError(
                f"{len(reference)} reference images; expected at least {LEAST_REFERENCE}: inspect more of a time when "
                "all was well"
            )
        kinds = set.intersection(*(set(one.values()) for one in reference))
        self.tests = {
            kind: ConformalMartingale((one.values()[kind] for one in reference), seed + number)
            for number, kind in enumerate(sorted(kinds, reverse=True))
        }
        self.limit = math.log(len(self.tests) / false_alarm)
        self.images = 0
        self.alarms: list[Alarm] = []
        self._moves: deque[tuple[float, str, str]] = deque(maxlen=KEPT)  # how far, which test, which image

    def update(self, image: Observation) -> list[Alarm]:
        """Take the next image.

        Returns:
            the alarms that it raised.

        Raises:
            DefectError: it lacks a value that the reference has.
        """
        values, raised = image.values(), []
        if missing := [kind for kind in self.tests if kind not in values]:
            raise DefectError(f"{image.name}: no {missing[0]}, which the reference has; inspect both with one model")
        self.images += 1
        for kind, test in self.tests.items():
            before = test.log_capital
            test.update(values[kind])
            self._moves.append((test.log_capital - before, kind, image.name))
            if test.log_capital >= self.limit and all(alarm.what != kind for alarm in self.alarms):
                raised.append(Alarm(kind, self.images, math.exp(min(test.log_capital, 700))))
        self.alarms += raised
        return raised

    def moved_most(self, count: int = 10) -> list[tuple[str, str]]:
        """Of the last thousand values, which images spoke most for a change: name, and ``score`` or ``novelty``."""
        found = sorted((move for move in self._moves if move[0] > 0), reverse=True)
        return [(name, kind) for _, kind, name in found[:count]]


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


def one_per_part(images: Iterable[Observation], part_of: Callable[[str], str]) -> Iterator[Observation]:
    """For images of one part that follow each other, one with the largest values, named after the first.

    Args:
        part_of: the part that an image, given by its name, shows.
    """
    for _, group in itertools.groupby(images, lambda image: part_of(image.name)):
        views = list(group)
        novelty = [view.novelty for view in views if view.novelty is not None]
        yield Observation(views[0].name, max(view.score for view in views), max(novelty, default=None))
