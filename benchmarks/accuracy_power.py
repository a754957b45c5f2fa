"""The smallest difference between two variants that runs of ``accuracy.py`` can show, from those that are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from accuracy_intervals import part_spread
from accuracy_metrics import METRICS
from accuracy_table import read_runs

FACTOR = 1.96 + 0.84  # of a standard error: at 5% two-sided, found four times in five (Cohen 1988)
RUNS = (1, 2, 3, 5, 10)


def print_power(
    root: Path, variants: Sequence[str], seeds: Sequence[int], folds: Iterable[int], *, split: str = "test"
) -> None:
    """For each metric: the standard deviation of a fold's paired difference over parts and over runs, averaged over all
    pairs of variants, and the difference that n runs a fold show in four cases of five; parts can't be had by training.
    """
    runs = {name: found for name, found in read_runs(root, variants, seeds, folds, split=split).items() if found}
    pairs = [(a, b) for i, a in enumerate(runs) for b in list(runs)[i + 1 :]]
    print(f"\nSmallest difference that n runs a fold show in four cases of five ({len(pairs)} pairs of variants)\n")
    print(
        "| metric | over parts | over runs | "
        + " | ".join(f"n = {n}" for n in RUNS)
        + " |\n|---|---|---|"
        + "---|" * len(RUNS)
    )
    for name, metric in METRICS.items():
        parts, luck, tested = [], [], set()
        for one, other in pairs:
            shared = sorted(set(runs[one]) & set(runs[other]))
            for fold in sorted({fold for fold, _ in shared}):
                both = [(runs[one][cell], runs[other][cell]) for cell in shared if cell[0] == fold]
                once = np.ones(len(both[0][0]["images"]))
                differences = [metric(a, once) - metric(b, once) for a, b in both]
                if np.isfinite(differences).all():
                    tested.add(fold)
                    parts.append(part_spread(both[0], metric, fold) ** 2)
                    luck += [np.var(differences, ddof=1)] if len(both) > 1 else []
        cells = ["-"] * (2 + len(RUNS))
        if luck:
            over_parts, over_runs = np.mean(parts), np.mean(luck)
            shown = [FACTOR * np.sqrt((over_parts + over_runs / n) / len(tested)) for n in RUNS]
            cells = [f"{value:.3f}" for value in (np.sqrt(over_parts), np.sqrt(over_runs), *shown)]
        print(f"| {name} | " + " | ".join(cells) + " |")
