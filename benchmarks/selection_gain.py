"""What labels are worth: a model retrained after 25, 50 and 100 images that ``select_defect_images.py`` chooses, beside
one retrained after as many drawn at random.

MAGNETIC_TILE_DIR=/path/to/magnetic_tile DEFECT_DATA_DIR=/path/to/sets python benchmarks/selection_gain.py

Each seed tests on another fold of the parts; a fifth of the other parts is validation, which sets the thresholds; the
rest comes along the line, where few parts are defective. A few of its images are labelled at the start. Each model
chooses what the next one is trained with besides; the random images of a seed come in one order. Finished runs are kept
as small files in --runs: stop at any time and give the same command.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from accuracy_data import open_data, strata_and_groups  # noqa: E402
from accuracy_folds import assign_folds  # noqa: E402
from selection_model import Images  # noqa: E402
from selection_table import print_table  # noqa: E402

from dinov3.data.defect_manifest import Manifest  # noqa: E402
from dinov3.data.defect_prepare.splits import grouped_split  # noqa: E402
from dinov3.defect_errors import DefectError, run_script  # noqa: E402
from dinov3.defect_evaluation.targets import Target  # noqa: E402
from dinov3.defect_evaluation.temperature import calibrate  # noqa: E402
from dinov3.defect_evaluation.thresholds import Thresholds  # noqa: E402
from dinov3.defect_station.candidates import Candidate  # noqa: E402
from dinov3.defect_station.selection import select  # noqa: E402

STEPS = (25, 50, 100)  # labels added
SETTING = ("start", "defects", "random_share", "novelty", "image_size", "updates", "folds")
FEWEST = 4  # images of either kind at the start, without which there is nothing to begin with


@dataclass(frozen=True)
class Data:
    """A set for one seed.

    Attributes:
        line: (L,) rows that come along the line.
        start: those of them that are labelled at the start.
    """

    manifest: Manifest
    parts: np.ndarray
    val: np.ndarray
    test: np.ndarray
    line: np.ndarray
    start: np.ndarray

    @cached_property
    def bad(self) -> np.ndarray:
        """(N,) whether each image of the set shows a defect."""
        return self.manifest.labels > 0


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", nargs="+", default=["solar_cells", "tiles"], help="sets, as accuracy.py has them")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the fold, what is labelled first, and the weights")
    add("--folds", type=int, default=3)
    add("--start", type=int, default=40, help="images labelled at the start")
    add("--defects", type=float, default=0.1, help="share of the line's images with a defect; 1: as many as there are")
    add("--random_share", type=float, default=0.2, help="of select_defect_images.py")
    add("--novelty", action="store_true", help="models that know what good parts look like")
    add("--image_size", type=int, default=96)
    add("--updates", type=int, default=150, help="of each training, by batches of 16")
    add("--work_dir", type=Path, default=Path("runs/accuracy"), help="where datasets are made")
    add("--runs", type=Path, default=ROOT / "benchmarks/runs/selection", help="where finished runs are kept")
    add("--table_only", action="store_true", help="print the table of what has been run; needs no data")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, and print the table."""
    args = build_parser().parse_args(argv)
    for name in () if args.table_only else args.data:
        manifest = open_data(argparse.Namespace(data=name, work_dir=args.work_dir))
        images = Images(manifest, args.image_size)
        for seed in args.seeds:
            run_seed(args, folder_of(args, name), images, divide(args, name, manifest, seed), seed)
    for name in args.data:
        print_table(folder_of(args, name), args.seeds, STEPS)
    return 0


def folder_of(args: argparse.Namespace, data: str) -> Path:
    """Where the runs of a set and setting are kept."""
    share = "as_is" if args.defects == 1 else f"{args.defects:.0%}_defects"
    return args.runs / f"{data}_{share.replace('%', 'percent')}{'_novelty' if args.novelty else ''}"


def divide(args: argparse.Namespace, name: str, manifest: Manifest, seed: int) -> Data:
    """Test, validation and line by parts; some of the line's defective parts stay aside, so that few are defective."""
    strata, groups = strata_and_groups(argparse.Namespace(data=name, random_split=False), manifest)
    parts, bad = np.array(groups), manifest.labels > 0
    folds = np.array(assign_folds(strata, groups, args.folds, seed=0))
    rest = np.flatnonzero(folds != seed % args.folds)
    shares = {"line": 0.8, "val": 0.2}
    inner = np.array(grouped_split([strata[r] for r in rest], [groups[r] for r in rest], shares, seed=seed))
    line = rest[inner == "line"]
    if args.defects < 1:
        good, defective = line[~bad[line]], line[bad[line]]
        kept: list[int] = []
        for part in np.random.default_rng([seed, 0]).permutation(np.unique(parts[defective])):
            if len(kept) < args.defects / (1 - args.defects) * len(good):
                kept += defective[parts[defective] == part].tolist()
        line = np.sort(np.concatenate([good, np.array(kept, int)]))
    order = np.random.default_rng([seed, 2]).permutation(line)
    sure = np.concatenate([order[bad[order]][:FEWEST], order[~bad[order]][:FEWEST]])
    start = np.concatenate([sure, order[~np.isin(order, sure)]])[: args.start]
    return Data(manifest, parts, rest[inner == "val"], np.flatnonzero(folds == seed % args.folds), line, start)


def run_seed(args: argparse.Namespace, folder: Path, images: Images, data: Data, seed: int) -> None:
    """All runs of a seed on a set that are not kept yet."""
    rest = np.setdiff1d(data.line, data.start)
    drawn = np.random.default_rng([seed, 1]).permutation(rest)
    names = {name: row for row, name in enumerate(data.manifest.columns["image"].tolist())}
    setting = {name: getattr(args, name) for name in SETTING}
    chosen: list[int] = []
    for place, labels in enumerate((0, *STEPS)):
        more = 0 if labels == STEPS[-1] else STEPS[place] - labels
        run = kept(folder / f"seed{seed}_selected{labels}.json", setting)
        if run is None:
            run = measure(args, images, data, np.concatenate([data.start, np.array(chosen, int)]), more, seed)
            write(folder / f"seed{seed}_selected{labels}.json", {"setting": setting} | run)
        chosen += [names[name] for name in run["next"]]
        if labels and kept(folder / f"seed{seed}_random{labels}.json", setting) is None:
            run = measure(args, images, data, np.concatenate([data.start, drawn[:labels]]), 0, seed)
            write(folder / f"seed{seed}_random{labels}.json", {"setting": setting} | run)


def measure(
    args: argparse.Namespace, images: Images, data: Data, rows: np.ndarray, more: int, seed: int
) -> dict[str, Any]:
    """Train with ``rows``, test, and choose ``more`` of the line; what is kept of it."""
    begun = time.perf_counter()
    model = images.train(rows, args.updates, seed, rows[~data.bad[rows]] if args.novelty else None)
    test = images.answers(model, data.test)
    chosen = choose(args, images, model, data, rows, more, seed) if more else np.zeros(0, int)
    number = {name: n for n, name in enumerate(np.unique(data.parts[data.test]).tolist())}
    return {
        "labels": len(rows),
        "defects": int(data.bad[rows].sum()),
        "line": {"images": len(data.line), "defects": int(data.bad[data.line].sum())},
        "seconds": round(time.perf_counter() - begun),
        "next": data.manifest.columns["image"][chosen].tolist(),
        "label": data.bad[data.test].astype(int).tolist(),
        "part": [number[name] for name in data.parts[data.test].tolist()],
        "score": [float(f"{1 - p:.6g}") for p in test.class_prob[:, 0].astype(float).tolist()],
    }


def choose(
    args: argparse.Namespace, images: Images, model: nn.Module, data: Data, rows: np.ndarray, count: int, seed: int
) -> np.ndarray:
    """Rows that select_defect_images.py would choose of those on the line that have no label yet."""
    val = images.answers(model, data.val)
    labels = data.manifest.labels[data.val]
    calibration = calibrate(val.class_prob, labels, data.parts[data.val], Target())
    mask = images.mask_threshold(model, data.val)
    limits = Thresholds.of({"thresholds": calibration.thresholds({"mask": mask})})
    waiting = np.setdiff1d(data.line, rows)
    found = images.answers(model, waiting)
    scores = 1 - limits.calibrated(found.class_prob)[:, 0]
    candidates = []
    for place, row in enumerate(waiting.tolist()):
        name, score = str(data.manifest.columns["image"][row]), float(scores[place])
        verdict = limits.verdict(score)
        candidate = Candidate(
            name=name,
            image=data.manifest.root / name,
            mask=None,
            part=str(data.parts[row]),
            verdict=verdict,
            defect_probability=score,
            doubt=abs(score - limits.classification),
            disagreement=verdict == ("accept" if found.peak[place] >= mask else "reject"),
            novelty=None if found.novelty is None else float(found.novelty[place]),
            regions=[],
            row=row,
        )
        candidates.append(candidate)

    def features(some: list[Candidate]) -> list[np.ndarray]:
        return [images.embeddings(np.array([candidate.row for candidate in some]))]

    selection = select(candidates, count, args.random_share, seed, features)
    return np.array([one.candidate.row for one in selection.chosen], int)


def kept(path: Path, setting: dict[str, Any]) -> dict[str, Any] | None:
    """A finished run; None if there is none.

    Raises:
        DefectError: it had another setting.
    """
    if not path.is_file():
        return None
    run = json.loads(path.read_text(encoding="utf-8"))
    if run["setting"] != setting:
        raise DefectError(f"{path}: it had another setting ({run['setting']}, now {setting}); give another --runs")
    return run


def write(path: Path, content: dict[str, Any]) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    lines = [f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in content.items()]
    unfinished.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    unfinished.replace(path)
    print(f"{path}: {content['labels']} labels, {content['defects']} defects, {content['seconds']} s", flush=True)


if __name__ == "__main__":
    run_script(main)
