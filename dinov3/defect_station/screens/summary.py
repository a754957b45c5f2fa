"""What the figures of the database come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from dinov3.defect_station.store.figures import BINS
from dinov3.defect_station.store.inspected import ERROR

VERDICTS = ("accept", "review", "reject", ERROR)


@dataclass
class Tally:
    """Counts of images of one kind: of a day, a model or a class.

    Attributes:
        verdicts: of the model, by name.
        decided: by verdict of the model and decision of people.
        classes_named: images whose class a person named when rejecting, by whether the model had predicted it.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    decided: Counter[tuple[str, str]] = field(default_factory=Counter)
    classes_named: Counter[bool] = field(default_factory=Counter)

    @property
    def images(self) -> int:
        """All of them."""
        return self.verdicts.total()

    @property
    def judged(self) -> int:
        """With a verdict of the model: not those that could not be inspected."""
        return self.images - self.verdicts[ERROR]

    def share(self, verdict: str) -> float | None:
        """Of those with a verdict."""
        return self.verdicts[verdict] / self.judged if self.judged else None

    @property
    def compared(self) -> int:
        """Accepted or rejected by the model, and decided by a person."""
        return sum(count for (verdict, _), count in self.decided.items() if verdict in ("accept", "reject"))

    @property
    def agreed(self) -> int:
        """Of those ``compared``, how many the person decided as the model did."""
        return sum(self.decided[name, name] for name in ("accept", "reject"))

    @property
    def agreement(self) -> float | None:
        """Share of those ``compared``."""
        return self.agreed / self.compared if self.compared else None

    @property
    def doubtful_rejected(self) -> float | None:
        """Of those for review that people decided, the share that they rejected."""
        rejected, accepted = self.decided["review", "reject"], self.decided["review", "accept"]
        return rejected / (rejected + accepted) if rejected + accepted else None


@dataclass
class Summary:
    """Of some days.

    Attributes:
        bins: by day, images in each range of the defect probability.
    """

    days: Sequence[date]
    total: Tally
    by_day: dict[date, Tally]
    by_model: dict[str, Tally]
    by_class: dict[str, Tally]
    bins: dict[date, list[int]]


def summarize(
    days: Sequence[date],
    inspected: Iterable[Mapping[str, Any]],
    decided: Iterable[Mapping[str, Any]],
    model: str | None = None,
) -> Summary:
    """Add up.

    Args:
        inspected, decided: rows of :mod:`~dinov3.defect_station.store.figures`.
        model: all but ``by_model`` is of its images alone; None: of all.
    """
    by_day = {day: Tally() for day in days}
    found = Summary(days, Tally(), by_day, {}, {}, {day: [0] * BINS for day in days})

    def tallies(row: Mapping[str, Any]) -> list[Tally]:
        counted = [found.by_model.setdefault(row["model"], Tally())]
        if model is None or row["model"] == model:
            counted += [found.total, by_day[row["day"]]]
            if row["predicted_class"]:
                counted.append(found.by_class.setdefault(row["predicted_class"], Tally()))
        return counted

    for row in inspected:
        for tally in tallies(row):
            tally.verdicts[row["verdict"]] += row["images"]
        if row["bin"] is not None and model in (None, row["model"]):
            found.bins[row["day"]][row["bin"]] += row["images"]
    for row in decided:
        for tally in tallies(row):
            tally.decided[row["verdict"], row["decision"]] += row["images"]
            if row["class_name"] and row["decision"] == "reject":
                tally.classes_named[row["class_name"] == row["predicted_class"]] += row["images"]
    return found
