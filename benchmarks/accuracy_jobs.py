"""Which runs of ``accuracy.py`` this process does, and several such processes side by side."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accuracy_data import keep_defects, keep_masks, trained_on, without_type
from accuracy_run import run
from accuracy_runs import expect_setting, write_run
from accuracy_variants import VARIANTS

from dinov3.data.defect_manifest import read_manifest
from dinov3.defect_errors import StoppedError

GRACE = 10.0  # seconds that a run which has to end gets for it


@dataclass(frozen=True)
class Place:
    """Where the runs of one setting are, and what they have in common beside their name."""

    data: Path  # folds, and weights while a run lasts
    runs: Path  # the files of finished runs
    setting: dict[str, Any]


def run_share(args: argparse.Namespace, place: Place, cells: Sequence[tuple[str, int, int]]) -> int:
    """Do the runs (variant, fold, seed) that are missing; as one of several processes, every ``jobs``-th of ``cells``,
    and a run that fails there leaves the others.

    Returns:
        1 if a run failed, else 0.
    """
    start, longest, failed = time.monotonic(), 0.0, 0
    for name, fold, seed in cells if args.share is None else cells[args.share :: args.jobs]:
        path = place.runs / name / f"fold{fold}_seed{seed}.json"
        setting = place.setting | {"variant": name, "fold": fold, "seed": seed}
        if path.is_file():
            expect_setting(path, setting)
            continue
        begun = time.monotonic()
        if args.minutes and begun - start + longest > 60 * args.minutes:
            print(f"{name}, fold {fold}, seed {seed}: not begun, as a run takes {longest:.0f} s", flush=True)
            break
        print(f"{name}, fold {fold}, seed {seed}", flush=True)
        try:
            data = keep_masks(read_manifest(place.data / f"fold{fold}"), args.masks, seed)
            data = keep_defects(data, args.defects, seed) if args.defects < 100 else data
            data = without_type(data, args.without) if args.without else data
            for how, splits in run(args, VARIANTS[name], data, place.data / f"{name}_fold{fold}_seed{seed}", seed):
                rest = {"trained_on": trained_on(data), **splits}
                write_run(path.with_stem(path.stem + how), setting, time.monotonic() - begun, rest)
        except StoppedError:  # asked to end
            raise
        except Exception:
            if args.share is None:
                raise
            traceback.print_exc()
            failed = 1
        longest = max(longest, time.monotonic() - begun)
        print(f"{name} {fold}/{seed}: {time.monotonic() - begun:.0f} s", flush=True)
    return failed


def run_side_by_side(args: argparse.Namespace) -> int:
    """Start this script ``--jobs`` times, each for its share of the runs, and wait until all are done or ``--minutes``
    are over.

    Returns:
        1 if a run failed, else 0; runs that time did not allow are no failure.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    deadline = time.monotonic() + 60 * args.minutes if args.minutes else None
    command = [sys.executable, *sys.argv]
    minutes = ["--minutes", f"{args.minutes:.3f}"] if args.minutes else []
    processes = [subprocess.Popen([*command, *minutes, "--share", str(n)], env=environment) for n in range(args.jobs)]
    status = 0
    try:
        for process in processes:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            status |= process.wait(left) != 0
    except subprocess.TimeoutExpired:
        print(f"{args.minutes:g} minutes are over", flush=True)
    finally:
        end(processes)
    return status


def end(processes: Sequence[subprocess.Popen]) -> None:
    """End those that still run."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
