"""The table of ``selection_gain.py``: what each way of choosing gains, and how sure the difference is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dinov3.defect_evaluation.bootstrap import image_metrics, resample_parts

RESAMPLES = 1000


def print_table(folder: Path, seeds: Sequence[int], steps: Sequence[int]) -> None:
    """Image AP on test by labels added, mean over the seeds that are finished, and the paired differences.

    An interval is that of a bootstrap over the parts of each test set and over the seeds, in which both ways of
    choosing meet the same parts.
    """
    runs = {seed: _runs(folder, seed, steps) for seed in seeds}
    done = [seed for seed, found in runs.items() if found is not None]
    if not done:
        print(f"\n{folder.name}: no seed is finished")
        return
    ap = {seed: {name: _image_ap(run) for name, run in runs[seed].items()} for seed in done}
    drawn = np.random.default_rng(0).integers(len(done), size=(RESAMPLES, len(done)))

    def told(value: Any) -> str:
        table = np.stack([value(ap[seed]) for seed in done])  # (seeds, 1 + resamples), the first as it is
        mean = table[:, 0].mean()
        low, high = np.percentile(table[drawn, np.arange(1, RESAMPLES + 1)[:, None]].mean(1), (2.5, 97.5))
        return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"

    line = [next(iter(runs[seed].values()))["line"] for seed in done]
    print(f"\n{folder.name}, seeds {' '.join(map(str, done))}; the line has", end=" ")
    print(", ".join(f"{one['images']} images, {one['defects']} with a defect" for one in line))
    print(
        "| labels added | with a defect: selected / random | image AP: selected / random | difference (95% interval) |"
    )
    print("|---|---|---|---|")
    print(f"| 0 | | {np.mean([ap[seed]['selected0'][0] for seed in done]):.3f} | |")
    for step in steps:
        names = [f"{arm}{step}" for arm in ("selected", "random")]
        found = [np.mean([runs[s][n]["defects"] - runs[s]["selected0"]["defects"] for s in done]) for n in names]
        means = [np.mean([ap[seed][name][0] for seed in done]) for name in names]
        difference = told(lambda one: one[names[0]] - one[names[1]])  # noqa: B023  used at once
        print(f"| {step} | {found[0]:.0f} / {found[1]:.0f} | {means[0]:.3f} / {means[1]:.3f} | {difference} |")
    print("gained per 100 labels, over the three: ", end="")
    for arm in ("selected", "random"):
        gain = told(lambda one: np.mean([100 / n * (one[f"{arm}{n}"] - one["selected0"]) for n in steps], axis=0))  # noqa: B023
        print(f"{arm} {gain}", end="; ")
    print(
        "difference of AP:", told(lambda one: np.mean([one[f"selected{n}"] - one[f"random{n}"] for n in steps], axis=0))
    )


def _runs(folder: Path, seed: int, steps: Sequence[int]) -> dict[str, dict[str, Any]] | None:
    """By name; None unless all are there."""
    names = ["selected0", *(f"{arm}{step}" for step in steps for arm in ("selected", "random"))]
    paths = {name: folder / f"seed{seed}_{name}.json" for name in names}
    if not all(path.is_file() for path in paths.values()):
        return None
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items()}


def _image_ap(run: dict[str, Any]) -> np.ndarray:
    """(1 + resamples,) average precision, of the test images and of each draw of their parts."""
    weights = resample_parts(np.array(run["part"]), RESAMPLES).astype(np.float64)
    score, label = np.array(run["score"]), np.array(run["label"])
    return image_metrics(weights, score, label, label)["image_ap"]
