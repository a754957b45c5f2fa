"""Tables of what ``accuracy.py`` has run: means, spread, and paired differences with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accuracy_runs import Run, code_digest, read_run, unpack
from torchmetrics.functional.classification import binary_average_precision

RESAMPLES = 1000
OVERKILL = 0.05
Table = dict[str, dict[str, str]]  # cells by variant and column
# A metric takes how often each image (N,) counts: once, or as often as its part is drawn.


def image_ap(run: Run, weight: np.ndarray) -> float:
    """Average precision of the verdict's defect probability."""
    return _ap(run, run["images"]["score"], weight)


def mask_ap(run: Run, weight: np.ndarray) -> float:
    """Average precision of a score that needs no class head: the mask's strongest pixel."""
    return _ap(run, run["images"]["peak"], weight)


def _ap(run: Run, score: np.ndarray, weight: np.ndarray) -> float:
    drawn = np.repeat(np.arange(len(score)), weight.astype(int))
    labels = torch.from_numpy(_bad(run)[drawn]).long()
    if labels.all():
        return np.nan  # nothing to tell apart
    return float(binary_average_precision(torch.from_numpy(score[drawn]), labels, validate_args=False))


def accuracy(run: Run, weight: np.ndarray) -> float:
    """At the threshold with the best accuracy on validation."""
    if _bad(run).all():
        return np.nan
    right = (run["images"]["score"] >= run["threshold"]) == _bad(run)
    return float(np.average(right, weights=weight))


def misses(run: Run, weight: np.ndarray) -> float:
    """Share of the defect images that pass where 5% of the good ones are rejected."""
    score, bad = run["images"]["score"], _bad(run)
    if not weight[~bad].any() or not weight[bad].any():
        return np.nan
    order = np.argsort(-score[~bad])
    rejected = np.cumsum(weight[~bad][order]) / weight[~bad].sum()
    within = rejected <= OVERKILL
    cut = score[~bad][order][within.sum()] if not within.all() else -np.inf  # the first good image that has to pass
    return float(np.average(score[bad] <= cut, weights=weight[bad]))


def best_threshold(run: Run) -> float:
    """The score from which on an image is rejected, so that most verdicts are right: between two scores."""
    score, bad = run["images"]["score"], _bad(run)
    cuts = np.append(np.unique(score), np.inf)
    best = int(((score >= cuts[:, None]) == bad).sum(1).argmax())
    return float(cuts[best] + cuts[best - 1]) / 2 if 0 < best < len(cuts) - 1 else float(cuts[best])


def pixel_iou(run: Run, weight: np.ndarray) -> float:
    """IoU of the defect pixels of all images."""
    tp, fp, fn = (float((run["images"][name] * weight).sum()) for name in ("tp", "fp", "fn"))
    return tp / (tp + fp + fn) if tp + fp + fn else np.nan


def pixel_miou(run: Run, weight: np.ndarray) -> float:
    """Mean of the defect pixels' IoU and the background's."""
    tn, fp, fn = (float((run["images"][name] * weight).sum()) for name in ("tn", "fp", "fn"))
    return (pixel_iou(run, weight) + tn / (tn + fp + fn)) / 2


def mean_iou_defect(run: Run, weight: np.ndarray) -> float:
    """IoU of each defect image, averaged."""
    images = run["images"]
    defective = images["tp"] + images["fn"] > 0
    iou = images["tp"] / np.maximum(images["tp"] + images["fp"] + images["fn"], 1)
    return float(np.average(iou[defective], weights=weight[defective])) if weight[defective].any() else np.nan


METRICS: dict[str, Callable[[Run, np.ndarray], float]] = {
    "image AP": image_ap,
    "mask's AP": mask_ap,
    "accuracy": accuracy,
    "misses at 5% overkill": misses,
    "pixel IoU": pixel_iou,
    "pixel mIoU": pixel_miou,
    "IoU per defect image": mean_iou_defect,
}


def print_tables(
    root: Path,
    variants: Sequence[str],
    seeds: Sequence[int],
    folds: Iterable[int],
    *,
    split: str = "test",
    how: str = "",
    fused: Sequence[str] = (),
    check: bool = False,
    keep: Callable[[dict[str, Table]], None] = lambda tables: None,
) -> None:
    """Print what is there of ``variants``; the first one is what the others are compared with, and its own mask without
    its class head. ``how`` the answers came about, where not plainly: ``_flips``, averaged over mirror images, or
    ``_novelty``, where what is unlike good images counts (the peers have none of it); the first one without that is
    compared, too. The scores of the ``fused`` variants, which have no score fusion themselves, are fused here.

    ``keep`` is called with the tables ``means`` and, as that takes a while, once more with ``differences``, too.
    """
    runs = read_runs(root, variants, seeds, folds, split=split, how=how)
    runs |= {name: {cell: _fused(run) for cell, run in runs[name].items()} for name in fused}
    if how:
        runs[f"{variants[0]} without {how[1:]}"] = _read(root / variants[0], list(runs[variants[0]]), split, "")
    runs[f"mask of {variants[0]} alone"] = {cell: _mask_alone(run) for cell, run in runs[variants[0]].items()}
    runs = {name: found for name, found in runs.items() if found}
    if not runs:
        print("no finished runs")
        return
    tables = {"means": _print_means(runs)}
    keep(tables)
    if check:
        _print_check(runs)
    _print_types(runs)
    if variants[0] in runs and len(runs) > 1:
        keep(tables | {"differences": _print_differences(runs)})


def read_runs(
    root: Path, variants: Sequence[str], seeds: Sequence[int], folds: Iterable[int], *, split: str, how: str = ""
) -> dict[str, dict[tuple[int, int], Run]]:
    """The finished runs of each variant, by fold and seed."""
    cells = [(fold, seed) for seed in seeds for fold in folds]
    return {name: _read(root / name, cells, split, how) for name in variants}


def _read(folder: Path, cells: list[tuple[int, int]], split: str, how: str) -> dict[tuple[int, int], Run]:
    """This ``split`` of every finished run, by fold and seed, with its threshold, which validation alone chooses."""
    found = {}
    for fold, seed in cells:
        path = folder / f"fold{fold}_seed{seed}{how}.json"
        if path.is_file():
            content = read_run(path)
            found[fold, seed] = unpack(content[split])
            found[fold, seed]["threshold"] = best_threshold(unpack(content["val"]))
            found[fold, seed]["code"] = content["code"]
    return found


def _fused(run: Run) -> Run:
    """The same run, with its scores fused as the default's are."""
    images = run["images"].copy()
    odds = [
        np.log(values / (1 - values)) for values in (images[name].clip(1e-7, 1 - 1e-7) for name in ("score", "peak"))
    ]
    images["score"] = 1 / (1 + np.exp(-(odds[0] + odds[1]) / 2))
    return run | {"images": images}


def _mask_alone(run: Run) -> Run:
    """The same run, had the mask's strongest pixel given the verdict."""
    images = run["images"].copy()
    images["score"] = images["peak"]
    return run | {"images": images}


def _print_means(runs: dict[str, dict[tuple[int, int], Run]]) -> Table:
    table = {}
    print("\nMean over the runs (their standard deviation)\n")
    print("| variant | runs | " + " | ".join(METRICS) + " |\n|---|---|" + "---|" * len(METRICS))
    for name, found in runs.items():
        row = {"runs": str(len(found))}
        for column, metric in METRICS.items():
            values = [metric(run, np.ones(len(run["images"]))) for run in found.values()]
            spread = np.std(values, ddof=1) if len(values) > 1 else 0
            row[column] = f"{np.mean(values):.3f} ({spread:.3f})" if not np.isnan(values).any() else "-"
        print(f"| {name} | " + " | ".join(row.values()) + " |")
        table[name] = row
    return table


def _print_check(runs: dict[str, dict[tuple[int, int], Run]]) -> None:
    """Which runs were done with the code as it is now."""
    now = code_digest()
    print("\nRuns with today's code\n\n| variant | runs | of them today's |\n|---|---|---|")
    for name, found in runs.items():
        print(f"| {name} | {len(found)} | {sum(run['code'] == now for run in found.values())} |")


def _print_differences(runs: dict[str, dict[tuple[int, int], Run]]) -> Table:
    """Differences within the same fold and seed, and what other parts and other luck in training could have given."""
    first, *others = runs
    table = {}
    print(f"\n{first} minus the variant, over the runs both have (95% interval over parts and runs)\n")
    print("| variant | pairs | " + " | ".join(METRICS) + " |\n|---|---|" + "---|" * len(METRICS))
    for name in others:
        shared = sorted(set(runs[first]) & set(runs[name]))
        if not shared:
            continue
        pairs = [(fold, runs[first][fold, seed], runs[name][fold, seed]) for fold, seed in shared]
        row = {"runs": str(len(shared))}
        for column, metric in METRICS.items():
            mean, low, high = mean_difference(pairs, metric)
            row[column] = with_interval(mean, low, high)
        print(f"| {name} | " + " | ".join(row.values()) + " |")
        table[name] = row
    return table


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
        bad, counts = _bad(mine[0][0]), _resamples(mine[0][0]["group"], fold)
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


def _print_types(runs: dict[str, dict[tuple[int, int], Run]]) -> None:
    """Per defect type: the share of images rejected; per size of a defect: the share hit by the mask. Data without good
    images have no threshold."""
    print("\nRecall by defect type at the threshold chosen on validation; defects found by size (share of the image)\n")
    types = sorted({str(t) for found in runs.values() for run in found.values() for t in run["source"][_bad(run)]})
    sizes = {"under 0.1%": (0, 0.001), "0.1 to 1%": (0.001, 0.01), "over 1%": (0.01, 1.1)}
    print("| variant | " + " | ".join([*types, *sizes]) + " |\n|---|" + "---|" * (len(types) + len(sizes)))
    for name, found in runs.items():
        together = list(found.values())
        rejected = np.concatenate([run["images"]["score"] >= run["threshold"] for run in together])
        kinds = np.concatenate([np.where(_bad(run), run["source"], "") for run in together])
        has_verdict = not all(_bad(run).all() for run in together)
        row = [_share(rejected[kinds == kind]) if has_verdict else "-" for kind in types]
        area = np.concatenate(
            [run["regions"]["area"] / run["images"]["size"][run["regions"]["image"]].prod(1) for run in together]
        )
        hit = np.concatenate([run["regions"]["coverage"] >= 0.1 for run in together])
        row += [_share(hit[(area >= low) & (area < high)]) for low, high in sizes.values()]
        print(f"| {name} | " + " | ".join(row) + " |")


def _share(hits: np.ndarray) -> str:
    return f"{hits.mean():.2f}" if hits.size else "-"


def _bad(run: Run) -> np.ndarray:
    return run["images"]["label"] > 0
