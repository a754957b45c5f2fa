"""Means over runs of ``accuracy.py`` and their intervals over parts and runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from accuracy_metrics import is_bad
from accuracy_runs import Run

RESAMPLES = 1000


def mean_difference(
    pairs: Sequence[tuple[int, Run, Run]], metric: Callable[[Run, np.ndarray], float]
) -> tuple[float, float, float]:
    """The first run's ``metric`` minus the second's, averaged over ``pairs`` (fold, first, second); its 95% interval.

    The interval draws the test parts of each fold anew, the same for all its runs, and the runs of each fold: the same
    training with other seeds, or on a machine that rounds differently, gives other models, whose figures differ by as
    much as those of other parts. Of n runs n - 1 are drawn, as n of them would vary too little (Rao and Wu 1988); with
    three per fold the interval still holds the truth in nine cases of ten, not nineteen of twenty. One run per fold
    can't tell, and its interval is over parts alone.
    """
    return _mean([(fold, one, partial(_difference, metric, one, other)) for fold, one, other in pairs])


def mean_value(
    runs: dict[tuple[int, int], Run], metric: Callable[[Run, np.ndarray], float]
) -> tuple[float, float, float]:
    """The ``metric`` averaged over ``runs``, and its 95% interval, as :func:`mean_difference` has it."""
    return _mean([(fold, run, partial(metric, run)) for (fold, _), run in runs.items()])


def _difference(metric: Callable[[Run, np.ndarray], float], one: Run, other: Run, weight: np.ndarray) -> float:
    return metric(one, weight) - metric(other, weight)


def _mean(cells: Sequence[tuple[int, Run, Callable[[np.ndarray], float]]]) -> tuple[float, float, float]:
    """Of values that depend on how often each image counts: (fold, a run of it, value)."""
    draws, value = np.zeros(RESAMPLES + 1), 0.0
    for fold in sorted({fold for fold, _, _ in cells}):
        mine = [(run, valued) for number, run, valued in cells if number == fold]
        bad, counts = is_bad(mine[0][0]), _resamples(mine[0][0]["group"], fold)
        values = np.array([[valued(w) if w[bad].any() else np.nan for w in counts] for _, valued in mine])
        size = (max(len(mine) - 1, 1), values.shape[1])
        drawn = np.random.default_rng((fold, 1)).integers(len(mine), size=size)
        draws += len(mine) * np.take_along_axis(values, drawn, axis=0).mean(0)
        value += values[:, 0].sum()
    draws, value = draws / len(cells), value / len(cells)
    return float(value), *np.nanpercentile(draws[1:], [2.5, 97.5]).tolist()


def with_interval(mean: float, low: float, high: float) -> str:
    """Of a difference; a dash where there is none."""
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" if np.isfinite(mean) else "-"


def part_spread(pair: tuple[Run, Run], metric: Callable[[Run, np.ndarray], float], fold: int) -> float:
    """Standard deviation of a paired difference, had other parts been tested."""
    one, other = pair
    counts = _resamples(one["group"], fold)[1:]
    return float(np.nanstd([metric(one, w) - metric(other, w) for w in counts]))


def _resamples(groups: np.ndarray, seed: int) -> np.ndarray:
    """(1 + R, N) how often each image counts: once, then as often as its part is drawn."""
    parts, member = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(parts), np.full(len(parts), 1 / len(parts)), size=RESAMPLES)
    return np.concatenate([np.ones((1, len(groups))), counts[:, member].astype(np.float64)])
