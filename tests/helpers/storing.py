"""Images for the results database."""

from __future__ import annotations

from typing import Any

from dinov3.defect_station.store.inspected import Inspected

LIMITS = {"classification": 0.6, "review": 0.3, "mask": 0.5}


def inspected(number: int, probability: float | None = None, **changes: Any) -> Inspected:
    """Image number so and so; its verdict follows from the probability, which rises by hundredths if not given."""
    probability = (number % 100) / 100 if probability is None else probability
    verdict = "reject" if probability >= 0.6 else "review" if probability >= 0.3 else "accept"
    facts = {"name": f"{number:05}.png", "content_hash": f"{number:064x}", "model": "m" * 64, "verdict": verdict}
    facts |= {"thresholds": LIMITS, "defect_probability": probability, "probabilities": {"normal": 1 - probability}}
    return Inspected(**facts | changes)
