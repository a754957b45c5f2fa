"""Whether an inspection may be gone on with: by the same model, the same way, on the same images."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from dinov3.defect_errors import DefectError

NAME = "run.json"

# Flags that decide what a result is; the others say how fast it comes, or where it goes.
DECISIVE = (
    "threshold mask_threshold tile_size tile_overlap no_visualize mixed_precision mm_per_pixel "
    "min_region_area on_disagreement"
).split()


def describe_run(args: argparse.Namespace) -> dict[str, Any]:
    """What the results of these flags depend on, as ``run.json`` has it."""
    source = (args.image or args.image_dir).resolve()
    return {
        "--checkpoint": _fingerprint(args.checkpoint),
        "--image" if args.image else "--image_dir": str(source),
        "--rules": _fingerprint(args.rules) if args.rules else None,
        **{f"--{name}": getattr(args, name) for name in DECISIVE},
    }


def start_run(output_dir: Path, run: dict[str, Any]) -> None:
    """Note what is about to be done in ``output_dir``, in place of whatever was done there before.

    Raises:
        DefectError: the folder cannot be written.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / "predictions.json").unlink(missing_ok=True)  # it belongs to another run from now on
        temporary = output_dir / f".{NAME}.unfinished"
        temporary.write_text(json.dumps(run, indent=1, ensure_ascii=False), encoding="utf-8")
        temporary.replace(output_dir / NAME)
    except OSError as error:
        raise DefectError(f"--output_dir {output_dir}: cannot be written ({error.strerror})") from None


def check_same_run(output_dir: Path, run: dict[str, Any]) -> bool:
    """Whether there are results in ``output_dir`` to go on with.

    Raises:
        DefectError: there are, but of another run; all differences are named.
    """
    path = output_dir / NAME
    if not path.is_file():
        if (output_dir / "predictions.json").exists():
            raise DefectError(
                f"--resume: {output_dir} holds results, but no {NAME} that says how they came about; "
                "leave out --resume to begin anew, or choose another --output_dir"
            )
        return False
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise DefectError(f"{path}: damaged; leave out --resume to begin anew")
    names = dict.fromkeys([*before, *run])
    differing = [name for name in names if before.get(name) != run.get(name)]
    if differing:
        changes = "; ".join(_change(name, before.get(name), run.get(name)) for name in differing)
        raise DefectError(
            f"--resume: the results in {output_dir} are of another run: {changes}. "
            "Use what was used then, or choose another --output_dir, or leave out --resume to begin anew"
        )
    return True


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
