"""Average precision and per-region overlap of pixels from histograms of their scores, for training and evaluation."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

AUPRO_LIMIT = 0.3  # false-positive rate


class Curve(NamedTuple):
    """Points of a curve, from the strictest threshold to the loosest."""

    x: np.ndarray
    y: np.ndarray


def share(part: np.ndarray, whole: np.ndarray, nothing: float = math.nan) -> np.ndarray:
    """``part / whole``, and ``nothing`` where ``whole`` is 0."""
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, nothing), where=whole > 0)


def binned_average_precision(normal: np.ndarray, defect: np.ndarray) -> np.ndarray:
    """(R,) average precision from histograms (R, bins), the highest score first; NaN without a defect pixel.

    Precision is integrated through each bin, taking its pixels as evenly mixed: with t from 0 to 1 through a bin, the
    precision is (a + t d) / (A + t D), for a of A pixels so far and d of D in the bin defective.
    """
    both = normal + defect
    a, all_so_far = np.cumsum(defect, axis=1) - defect, np.cumsum(both, axis=1) - both
    mixed = share(defect, both, 0.0)
    rest = share(a - all_so_far * mixed, both, 0.0) * np.log1p(share(both, all_so_far, 0.0))
    return share((defect * (mixed + rest)).sum(axis=1), defect.sum(axis=1))


def pro_curve(normal: np.ndarray, region: np.ndarray) -> Curve:
    """False-positive rate and per-region overlap (Bergmann et al. 2021) from histograms (bins,), highest first."""
    rate, overlap = share(np.cumsum(normal), normal.sum()), share(np.cumsum(region), region.sum())
    return Curve(np.append(0.0, rate), np.append(0.0, overlap))


def area_below(curve: Curve, limit: float = AUPRO_LIMIT) -> float:
    """Area below a rising curve from 0 to ``limit``, over ``limit``."""
    if np.isnan(curve.x).any() or np.isnan(curve.y).any():
        return math.nan
    inside = curve.x < limit
    x, y = np.append(curve.x[inside], limit), np.append(curve.y[inside], np.interp(limit, *curve))
    return float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2 / limit)
