"""What masks and defective parts are worth, from the kept runs in which some of them trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_intervals import mean_difference, mean_value, with_interval
from accuracy_metrics import image_ap, mean_iou_defect, pixel_iou
from accuracy_pictures import Series, draw
from accuracy_runs import Run, read_run
from accuracy_table import read_runs
from accuracy_variants import VARIANTS

# What was fewer, of what all the rest is alike: the key in a run's setting, and in ``trained_on``
SHARES = {"masks": "masks", "defects": "defective_parts"}
METRICS: dict[str, Callable[[Run, np.ndarray], float]] = {
    "image AP": image_ap,
    "pixel IoU": pixel_iou,
    "IoU per defect image": mean_iou_defect,
}
Runs = dict[str, dict[tuple[int, int], Run]]


def print_curves(root: Path, split: str, pictures: Path | None) -> None:
    """A table, and a picture, for every family of settings that differ in the share of masks or of defective parts."""
    for what, counted in SHARES.items():
        for (data, setting), folders in families(root, what).items():
            curve = {percent: _read(folder, split) for percent, folder in sorted(folders.items())}
            numbers = {percent: _number(folder, counted) for percent, folder in folders.items()}
            print(f"\n## {data}, {setting}: {what} in training\n")
            print(
                f"| {what} | variant | runs | "
                + " | ".join(METRICS)
                + " | guided minus it, "
                + "; ".join(METRICS)
                + " |"
            )
            print("|---|---|---|" + "---|" * (len(METRICS) + 1))
            for percent, runs in curve.items():
                for name, found in runs.items():
                    means = [f"{mean_value(found, metric)[0]:.3f}" for metric in METRICS.values()]
                    label = f"{percent}% ({numbers[percent]})"
                    print(f"| {label} | {name} | {len(found)} | " + " | ".join(means) + f" | {_behind(runs, name)} |")
            if pictures is not None:
                xs = {percent: f"{percent}%\n{numbers[percent]}" for percent in curve}
                panels = {name: _series(curve, METRICS[name]) for name in ("image AP", "IoU per defect image")}
                picture = pictures / f"accuracy_{what}_{data.removesuffix('_grouped')}.svg"
                draw(picture, panels, f"{counted.replace('_', ' ')} in training", xs)


def _series(curve: dict[int, Runs], metric: Callable[[Run, np.ndarray], float]) -> Series:
    """A line over the share for each variant that has two points."""
    lines: Series = {}
    for name in dict.fromkeys(name for runs in curve.values() for name in runs):
        there = {percent: runs[name] for percent, runs in curve.items() if name in runs}
        if len(there) > 1:
            label = VARIANTS[name].what.removeprefix("attention-guided: ")
            lines[label] = {percent: mean_value(runs, metric) for percent, runs in there.items()}
    return lines


def families(root: Path, what: str) -> dict[tuple[str, str], dict[int, Path]]:
    """Folders of settings by the percentage of ``what``, of each family in which it differs."""
    found: dict[tuple[str, str], dict[int, Path]] = defaultdict(dict)
    for folder in sorted({path.parents[1] for path in root.glob("*/*/*/fold*_seed*.json")}):
        setting = _setting(folder)
        others = {name: setting.get(name, 100) for name in SHARES if name != what}
        if set(others.values()) == {100} and not setting["without"]:
            percent = setting.get(what, 100)
            family = folder.name.removesuffix(f"_{percent}{what}")
            found[folder.parent.name, family][percent] = folder
    return {family: folders for family, folders in found.items() if len(folders) > 1}


def _setting(folder: Path) -> dict[str, Any]:
    return read_run(next(folder.glob("*/fold*_seed*.json")))["setting"]


def _read(folder: Path, split: str) -> Runs:
    names = [name for name in VARIANTS if next((folder / name).glob("fold?_seed?.json"), None)]
    cells = [read_run(path)["setting"] for path in folder.glob("*/fold?_seed?.json")]
    seeds, folds = ({setting[name] for setting in cells} for name in ("seed", "fold"))
    return read_runs(folder, names, sorted(seeds), sorted(folds), split=split)


def _number(folder: Path, counted: str) -> str:
    """How many there were: the mean over folds and seeds; ``?`` in files of before this was kept."""
    numbers = [read_run(path).get("trained_on", {}).get(counted) for path in folder.glob("*/fold?_seed?.json")]
    known = [number for number in numbers if number is not None]
    return f"{np.mean(known):.0f}" if known else "?"


def _behind(runs: Runs, name: str) -> str:
    """The default minus ``name`` in each metric, over the runs both have."""
    first = next(iter(runs))
    shared = sorted(set(runs[first]) & set(runs[name]))
    if name == first or not shared:
        return ""
    pairs = [(fold, runs[first][fold, seed], runs[name][fold, seed]) for fold, seed in shared]
    return "; ".join(with_interval(*mean_difference(pairs, metric)) for metric in METRICS.values())
