"""What an inspection may replace in its output folder: what an inspection made, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from dinov3.defect_errors import DefectError
from dinov3.defect_folder_kinds import expect_no_dataset, expect_no_training, expect_none_of
from dinov3.defect_text import read_small
from dinov3.inference.records import files_noted, picture_name, read_records
from dinov3.inference.reports.inspection import is_report

RUN = "run.json"
KINDS = ("masks", "visualizations")
FILES = (RUN, "predictions.json", "predictions.csv", "errors.csv", "parts.csv", "report.html", "report.spool")
SLACK = 2_000_000_000  # nanoseconds; some file systems tell times in steps of two seconds


def expect_own_results(output_dir: Path, with_report: bool = True) -> None:
    """Refuse an output folder in which something would be lost; ``with_report``: a report.html is to be written.

    Raises:
        DefectError: it is or lies in a dataset, is that of a training, holds files of these names that no inspection
            made, or masks that were changed since.
    """
    for place in (output_dir, *(output_dir / kind for kind in KINDS)):
        expect_no_dataset(place, "--output_dir")
    expect_no_training(output_dir, "--output_dir")
    results, report = output_dir / "predictions.json", output_dir / "report.html"
    if load_run(output_dir / RUN) is None and not _is_ours(results):
        full = [kind for kind in KINDS if _holds_something(output_dir / kind)]
        expect_none_of(output_dir, [*FILES, *full], "--output_dir", "inspection")
    elif with_report and os.path.lexists(report) and not is_report(report):
        expect_none_of(output_dir, [report.name], "--output_dir", "inspection")
    _expect_unchanged(output_dir, results)


def load_run(path: Path) -> dict[str, Any] | None:
    """What a ``run.json`` of an inspection says; None if there is none, or it is damaged or of another program."""
    try:
        run = json.loads(read_small(path))
    except (OSError, ValueError, RecursionError):
        return None
    return run if isinstance(run, dict) and (run.get("--image") or run.get("--image_dir")) else None


def _is_ours(results: Path) -> bool:
    """Whether a ``predictions.json`` has the records of an inspection; they tell it where a kill came at the start."""
    first = next(read_records(results), None) if results.is_file() else None
    return first is not None and ("verdict" in first.record or bool(first.record.get("error")))


def _holds_something(folder: Path) -> bool:
    return os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir()))


def _expect_unchanged(output_dir: Path, results: Path) -> None:
    """Masks that someone has drawn on since their inspection are that person's work."""
    written = results.stat().st_mtime_ns if results.is_file() else 0
    for file in files_noted(results):
        with suppress(OSError):
            if (output_dir / "masks" / file).stat().st_mtime_ns > written + SLACK:
                raise DefectError(
                    f"--output_dir {output_dir}: masks/{file} was changed after the inspection that made it, and would "
                    "be removed; choose another folder, or move it to another place"
                )


def files_of_others(output_dir: Path, done: Collection[str]) -> set[str]:
    """Names below ``masks/`` and ``visualizations/`` of files that were there before this inspection began and are of
    no image that it has done; empty without a ``run.json``, which tells when that was."""
    try:
        begun = (output_dir / RUN).stat().st_mtime_ns
    except OSError:
        return set()
    own, found = {picture_name(name) for name in done}, set()
    for kind in KINDS:
        for folder, _, files in os.walk(output_dir / kind):
            for path in (Path(folder, file) for file in files):
                name = path.relative_to(output_dir / kind).as_posix()
                with suppress(OSError):
                    if name not in own and path.lstat().st_mtime_ns < begun:
                        found.add(name)
    return found
