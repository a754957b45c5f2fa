"""A report of 90 images, and what a browser shows of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers.report_page import record, rule

P = np.random.default_rng(3).uniform(0, 1, 90).round(6)
ENTRIES = [
    record(
        f"line{i % 3}/{i:03d}.png",
        float(p),
        mask_area_fraction=float((p * 7) % 1),
        disagreement=i % 10 == 0,
        **({"verdict": "reject", "decided_by": [rule()]} if i in (4, 8) else {}),
    )
    for i, p in enumerate(P)
]
NAMES = [entry["image"] for entry in ENTRIES]


def shown_names(page: Any) -> list[str]:
    """Of the pictures that are in the document, in order."""
    return page.locator("#grid .name").all_inner_texts()


def counts(page: Any) -> list[int]:
    return [int(page.locator(f"#now-{v}").inner_text().replace(",", "")) for v in ("accept", "review", "reject")]


def expected(review: float, reject: float) -> list[int]:
    """Counts of all images, with the two that a rule rejected as they are."""
    by_rule = np.isin(np.arange(len(P)), (4, 8))
    reject_all = (reject <= P) | by_rule
    review_all = (review <= P) & ~reject_all
    return [int((~reject_all & ~review_all).sum()), int(review_all.sum()), int(reject_all.sum())]
