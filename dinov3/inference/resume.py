"""Whether an inspection may be gone on with: by the same model, the same way, on the same images."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from dinov3.defect_errors import DefectError
from dinov3.inference.claim import RUN, load_run
from dinov3.inference.config import InspectConfig
from dinov3.inference.records import files_noted
from dinov3.inference.reports.inspection import is_report

# Flags that decide what a result is; the others say how fast it comes, or where it goes.
DECISIVE = (
    "threshold mask_threshold tile_size tile_overlap no_visualize mixed_precision mm_per_pixel "
    "min_region_area on_disagreement"
).split()


def describe_run(config: InspectConfig) -> dict[str, Any]:
    """What the results depend on, as ``run.json`` has it."""
    source = (config.image or config.image_dir).resolve()
    return {
        "--checkpoint": _fingerprint(config.checkpoint),
        "--image" if config.image else "--image_dir": str(source),
        "--rules": _fingerprint(config.rules) if config.rules else None,
        "--store": None if config.store is None else _without_password(config.store),
        **{f"--{name}": getattr(config, name) for name in DECISIVE},
    }


def _without_password(store: str) -> str:
    """The name of a database that may be written down."""
    return re.sub("//[^/@]*@", "//", store) if "://" in store else os.path.abspath(store)


def start_run(output_dir: Path, run: dict[str, Any]) -> None:
    """Note what is about to be done in ``output_dir``, in place of what an earlier run did there.

    Raises:
        DefectError: the folder cannot be written.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        _remove_earlier(output_dir)
        temporary = output_dir / f".{RUN}.unfinished"
        temporary.write_text(json.dumps(run, indent=1, ensure_ascii=False), encoding="utf-8")
        temporary.replace(output_dir / RUN)
    except OSError as error:
        raise DefectError(f"--output_dir {output_dir}: cannot be written ({error.strerror})") from None


def _remove_earlier(output_dir: Path) -> None:
    """Remove the masks, pictures and report of an earlier run, and no other file."""
    path, results, report = (output_dir / name for name in (RUN, "predictions.json", "report.html"))
    run = load_run(path) or {}
    ours = bool(run)
    begun = path.stat().st_mtime_ns if ours else 0
    # First, so that nothing goes on from half of the files; if this is cut off, predictions.json tells of the rest.
    path.unlink(missing_ok=True)
    kinds = ["masks"] if run.get("--no_visualize") else ["masks", "visualizations"]
    folders = set()
    for file in chain(files_noted(results), _files_unnoted(output_dir / "masks", run, begun) if ours else ()):
        ours = True
        for picture in (output_dir / kind / file for kind in kinds):
            if os.path.isfile(picture):
                picture.unlink()
                folders.add(picture.parent)
    for folder in folders:
        with suppress(OSError):  # not empty
            while folder != output_dir:
                folder.rmdir()
                folder = folder.parent
    if ours:
        report.with_suffix(".spool").unlink(missing_ok=True)
        (output_dir / "parts.csv").unlink(missing_ok=True)
        if is_report(report):
            report.unlink()
    results.unlink(missing_ok=True)


def _files_unnoted(masks: Path, run: dict[str, Any], begun: int) -> Iterator[str]:
    """Masks that a stopped run wrote and had not noted yet: newer than its start, and of an image that it was given."""
    image = run.get("--image")
    for folder, _, files in os.walk(masks):
        for path in (Path(folder, file) for file in files if file.endswith(".png")):
            name = path.relative_to(masks).as_posix().removesuffix(".png")
            given = name == Path(image).name if image else os.path.isfile(Path(run["--image_dir"], name))
            if given and path.lstat().st_mtime_ns >= begun:
                yield f"{name}.png"


def check_same_run(output_dir: Path, run: dict[str, Any]) -> bool:
    """Whether there are results in ``output_dir`` to go on with.

    Raises:
        DefectError: there are, but of another run; all differences are named.
    """
    path = output_dir / RUN
    if not path.is_file():
        if (output_dir / "predictions.json").exists():
            raise DefectError(
                f"--resume: {output_dir} holds results, but no {RUN} that says how they came about; "
                "leave out --resume to begin anew, or choose another --output_dir"
            )
        return False
    before = load_run(path)
    if before is None:
        raise DefectError(f"{path}: damaged; leave out --resume to begin anew")
    if changes := changes_between(before, run):
        raise DefectError(
            f"--resume: the results in {output_dir} are of another run: {changes}. "
            "Use what was used then, or choose another --output_dir, or leave out --resume to begin anew"
        )
    return True


def changes_between(before: dict[str, Any], run: dict[str, Any]) -> str:
    """What differs between two runs as :func:`describe_run` describes them; empty if nothing does."""
    names = dict.fromkeys([*before, *run])
    differing = [name for name in names if before.get(name) != run.get(name)]
    return "; ".join(_change(name, before.get(name), run.get(name)) for name in differing)


def _change(name: str, old: Any, new: Any) -> str:
    """Such as ``--threshold was 0.3, now not given``; files by their content are just others."""
    if name in ("--checkpoint", "--rules") and old and new:
        return f"{name} is another file, or has changed"
    told = ["not given" if value is None or value is False else value for value in (old, new)]
    if name in ("--checkpoint", "--rules"):
        told = [value if value == "not given" else "given" for value in told]
    return f"{name} was {told[0]}, now {told[1]}"


def _fingerprint(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DefectError(f"{path}: cannot be read ({error.strerror}); expected a file") from None
    return digest.hexdigest()
