"""Tables of what ``accuracy.py`` has run: means, spread, and paired differences with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from accuracy_intervals import mean_difference, with_interval
from accuracy_metrics import METRICS, best_threshold, is_bad
from accuracy_runs import Run, code_digest, read_run, unpack
from accuracy_variants import VARIANTS

Table = dict[str, dict[str, str]]  # cells by variant and column


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
    its class head and, where it fuses their scores, the other way round. ``how`` the answers came about, where not
    plainly: ``_flips``, averaged over mirror images, or ``_novelty``, where what is unlike good images counts (the
    peers have none of it); the first one without that is compared, too. The scores of the ``fused`` variants, which
    have no score fusion themselves, are fused here.

    ``keep`` is called with the tables ``means`` and, as that takes a while, once more with ``differences``, too.
    """
    first = variants[0]
    runs = read_runs(root, variants, seeds, folds, split=split, how=how)
    runs |= {name: _read(root / name, list(runs[name]), split, how, _fused) for name in fused}
    own = list(runs[first])
    if how:
        runs[f"{first} without {how[1:]}"] = _read(root / first, own, split, "")
    runs[f"mask of {first} alone"] = _read(root / first, own, split, how, _mask_alone)
    if VARIANTS[first].fuses_scores and how != "_novelty":
        own = [cell for cell in own if runs[first][cell]["masks"] >= 5]  # as train_defect_model.py decides
        runs[f"classifier of {first} alone"] = _read(root / first, own, split, how, _class_alone)
    runs = {name: found for name, found in runs.items() if found}
    if not runs:
        print("no finished runs")
        return
    tables = {"means": _print_means(runs)}
    keep(tables)
    if check:
        _print_check(runs)
    _print_types(runs)
    if first in runs and len(runs) > 1:
        keep(tables | {"differences": _print_differences(runs)})


def read_runs(
    root: Path, variants: Sequence[str], seeds: Sequence[int], folds: Iterable[int], *, split: str, how: str = ""
) -> dict[str, dict[tuple[int, int], Run]]:
    """The finished runs of each variant, by fold and seed."""
    cells = [(fold, seed) for seed in seeds for fold in folds]
    return {name: _read(root / name, cells, split, how) for name in variants}


def _read(
    folder: Path, cells: list[tuple[int, int]], split: str, how: str, change: Callable[[Run], Run] = lambda run: run
) -> dict[tuple[int, int], Run]:
    """This ``split`` of every finished run, by fold and seed, with its threshold, which validation alone chooses; with
    its scores as they are after ``change``."""
    found = {}
    for fold, seed in cells:
        path = folder / f"fold{fold}_seed{seed}{how}.json"
        if path.is_file():
            content = read_run(path)
            found[fold, seed] = change(unpack(content[split])) | {
                "threshold": best_threshold(change(unpack(content["val"]))),
                "masks": content["setting"].get("masks", 100),
                "variant": folder.name,  # one of VARIANTS, whatever another version wrote into the file
                "code": content["code"],
            }
    return found


def _fused(run: Run) -> Run:
    """The same run, with its scores fused as the default's are."""
    score, peak = (_log_odds(run, name) for name in ("score", "peak"))
    return _with_score(run, 1 / (1 + np.exp(-(score + peak) / 2)))


def _mask_alone(run: Run) -> Run:
    """The same run, had the mask's strongest pixel given the verdict."""
    return _with_score(run, run["images"]["peak"])


def _class_alone(run: Run) -> Run:
    """The same run, had the classifier given the verdict: what fused scores were made of."""
    score, peak = (_log_odds(run, name) for name in ("score", "peak"))
    return _with_score(run, 1 / (1 + np.exp(peak - 2 * score)))


def _log_odds(run: Run, name: str) -> np.ndarray:
    values = run["images"][name].clip(1e-7, 1 - 1e-7)
    return np.log(values / (1 - values))


def _with_score(run: Run, score: np.ndarray) -> Run:
    images = run["images"].copy()
    images["score"] = score
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
    print("\nRuns with today's code\n\n| variant | runs | of them today's |\n|---|---|---|")
    for name, found in runs.items():
        print(
            f"| {name} | {len(found)} | {sum(run['code'] == code_digest(run['variant']) for run in found.values())} |"
        )


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


def _print_types(runs: dict[str, dict[tuple[int, int], Run]]) -> None:
    """Per defect type: the share of images rejected; per size of a defect: the share hit by the mask. Data without good
    images have no threshold."""
    print("\nRecall by defect type at the threshold chosen on validation; defects found by size (share of the image)\n")
    types = sorted({str(t) for found in runs.values() for run in found.values() for t in run["source"][is_bad(run)]})
    sizes = {"under 0.1%": (0, 0.001), "0.1 to 1%": (0.001, 0.01), "over 1%": (0.01, 1.1)}
    print("| variant | " + " | ".join([*types, *sizes]) + " |\n|---|" + "---|" * (len(types) + len(sizes)))
    for name, found in runs.items():
        together = list(found.values())
        rejected = np.concatenate([run["images"]["score"] >= run["threshold"] for run in together])
        kinds = np.concatenate([np.where(is_bad(run), run["source"], "") for run in together])
        has_verdict = not all(is_bad(run).all() for run in together)
        row = [_share(rejected[kinds == kind]) if has_verdict else "-" for kind in types]
        area = np.concatenate(
            [run["regions"]["area"] / run["images"]["size"][run["regions"]["image"]].prod(1) for run in together]
        )
        hit = np.concatenate([run["regions"]["coverage"] >= 0.1 for run in together])
        row += [_share(hit[(area >= low) & (area < high)]) for low, high in sizes.values()]
        print(f"| {name} | " + " | ".join(row) + " |")


def _share(hits: np.ndarray) -> str:
    return f"{hits.mean():.2f}" if hits.size else "-"
