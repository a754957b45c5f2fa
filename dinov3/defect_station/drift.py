"""Whether the images that come in are still like those that the thresholds were made for."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinov3.defect_errors import DefectError
from dinov3.defect_station.martingale import ConformalMartingale
from dinov3.defect_station.observations import Observation, OnePerPart, one_per_part, read_observations
from dinov3.inference.claim import RUN, load_run

LEAST_REFERENCE = 20  # images; fewer say too little of what is usual
KEPT = 1000  # of the last images, to name those that moved the test most
NAMES = {"score": "defect probabilities", "novelty": "distance to good parts"}


@dataclass(frozen=True)
class Alarm:
    """What was found changed.

    Attributes:
        what: ``score`` or ``novelty``.
        after: how many images it took.
        capital: of the gambler (:mod:`~dinov3.defect_station.martingale`): the larger, the surer.
        image: that raised it.
    """

    what: str
    after: int
    capital: float
    image: Observation


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
        self.false_alarm, self.reference_images, self.images = false_alarm, len(reference), 0
        self.alarms: list[Alarm] = []
        self._moves: deque[tuple[float, str, Observation]] = deque(maxlen=KEPT)  # how far, which test, which image

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
            self._moves.append((test.log_capital - before, kind, image))
            if test.log_capital >= self.limit and all(alarm.what != kind for alarm in self.alarms):
                raised.append(Alarm(kind, self.images, math.exp(min(test.log_capital, 700)), image))
        self.alarms += raised
        return raised

    def moved_most(self, count: int = 10) -> list[tuple[Observation, str]]:
        """Of the last thousand values, which images spoke most for a change, and by their ``score`` or ``novelty``."""
        found = sorted((move for move in self._moves if move[0] > 0), key=lambda move: -move[0])
        return [(image, kind) for _, kind, image in found[:count]]

    def state(self) -> dict[str, Any]:
        """Where the test is, as data: ``images`` and ``reference_images``, ``false_alarm``, ``alarm`` (whether one was
        raised), ``tests`` with the logarithm of the capital, the ``limit`` from which on that is an alarm, and when and
        after how many images it was; ``moved_most``."""
        alarms = {alarm.what: alarm for alarm in self.alarms}
        return {
            "images": self.images,
            "reference_images": self.reference_images,
            "false_alarm": self.false_alarm,
            "alarm": bool(alarms),
            "tests": [
                {
                    "what": kind,
                    "log_capital": test.log_capital,
                    "limit": self.limit,
                    "highest": test.highest,
                    "alarm": kind in alarms,
                    "since": alarms[kind].image.time if kind in alarms else None,
                    "after": alarms[kind].after if kind in alarms else None,
                }
                for kind, test in self.tests.items()
            ],
            "moved_most": [{"id": image.id, "name": image.name, "what": kind} for image, kind in self.moved_most()],
        }


def open_monitor(
    path: Path, false_alarm: float, part_of: Callable[[str], str] | None, models: Collection[str], novelty: bool
) -> DriftMonitor:
    """A test against the images of a results folder, or of an evaluation's ``per_image.csv``.

    Args:
        part_of: the part that an image, given by its name, shows.
        models: fingerprints of the model that is tested, and of what it was made from.
        novelty: it tells how unlike good parts images are.

    Raises:
        DefectError: there is no such table, or it is of another model.
    """
    images = read_observations(path)
    run = (load_run(path / RUN) if path.is_dir() else None) or {}
    made_by = run.get("--checkpoint")
    if (made_by is not None and made_by not in models) or (not novelty and images[0].novelty is not None):
        raise DefectError(
            f"--drift_reference {path}: inspected by another model, whose scores cannot be compared with this one's; "
            "inspect those images again with --checkpoint"
        )
    return DriftMonitor(list(one_per_part(images, part_of)), false_alarm)


class RecordsTest:
    """Tests the records of an inspection (:mod:`~dinov3.inference.records`) as they come.

    Args:
        part_of: the part that an image, given by its name, shows.
        raised: told of each alarm.
    """

    def __init__(
        self, monitor: DriftMonitor, part_of: Callable[[str], str] | None, raised: Callable[[Alarm], None] | None = None
    ):
        self.monitor, self.raised, self._joined = monitor, raised, OnePerPart(part_of)

    def add(self, record: dict[str, Any]) -> None:
        """Take the next record; files that could not be read are skipped."""
        if record["error"]:
            return
        novelty = record["novelty"]
        image = Observation(record["image"], record["defect_probability"], novelty and novelty["deviations"])
        for one in self._joined.add(image):
            for alarm in self.monitor.update(one):
                if self.raised is not None:
                    self.raised(alarm)

    def state(self) -> dict[str, Any]:
        """As :meth:`DriftMonitor.state`, when no more records come."""
        for one in self._joined.rest():
            self.monitor.update(one)
        return self.monitor.state()


def alarm_text(alarm: Alarm) -> str:
    """What was seen, and at which image."""
    return f"{_changed(alarm.what, alarm.after)}, at {alarm.image.name}"


def _changed(what: str, after: int) -> str:
    return f"changed: {NAMES[what]}, seen after {after} images"


def told(state: dict[str, Any], reference: Path | str) -> list[str]:
    """The lines of text that say what a test came to; ``state`` as :meth:`DriftMonitor.state` has it."""
    tested = " and ".join(NAMES[test["what"]] for test in state["tests"])
    lines = [f"{state['images']} images against {state['reference_images']} of {reference}, by their {tested}"]
    if not state["alarm"]:
        return [*lines, f"no change was found (chance of a false alarm: at most {state['false_alarm']:g})"]
    lines += [_changed(test["what"], test["after"]) for test in state["tests"] if test["alarm"]]
    names = ", ".join(dict.fromkeys(moved["name"] for moved in state["moved_most"]))
    return [*lines, f"what speaks most for a change: {names}"]
