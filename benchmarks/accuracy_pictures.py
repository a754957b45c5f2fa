"""The pictures of ``accuracy.py``: means with their intervals over something that was varied."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

Interval = tuple[float, float, float]  # mean, and its 95% interval
Series = dict[str, dict[float, Interval]]  # by label and x


def draw(picture: Path, panels: Mapping[str, Series], xlabel: str, xs: Mapping[float, str]) -> None:
    """One panel for each label of a y axis, at evenly spaced ``xs``, each with its text."""
    places = {x: place for place, x in enumerate(xs)}
    figure = Figure(figsize=(2 + 3.5 * len(panels), 3.6), layout="constrained")
    for axes, (ylabel, series) in zip(np.ravel(figure.subplots(1, len(panels))), panels.items(), strict=True):
        for shift, (label, points) in enumerate(series.items()):
            middle, low, high = np.array(list(points.values())).T
            spread = np.maximum([middle - low, high - middle], 0)
            at = [places[x] + 0.06 * (shift - (len(series) - 1) / 2) for x in points]  # bars beside each other
            axes.errorbar(at, middle, spread, marker="o", capsize=3, label=label)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_xticks(range(len(xs)), xs.values())
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    picture.parent.mkdir(parents=True, exist_ok=True)
    # Words stay words, and the same figures give the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": picture.name, "font.family": "sans-serif"}):
        figure.savefig(picture, metadata={"Date": None})
