"""Telling annotation formats apart, for whoever named the wrong one."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from dinov3.data.defect_files import IMAGE_SUFFIXES
from dinov3.data.defect_formats.base import ImportReport, SourceImage
from dinov3.defect_errors import DefectError

_PEEK = 64  # files that are looked at
_HEAD = 100_000  # bytes of a file that are looked at


def expect_some(samples: Sequence[SourceImage], source: Path, asked: str, expected: str, report: ImportReport) -> None:
    """Refuse a source in which there is nothing to import, telling what it is instead.

    Raises:
        DefectError: there are no samples.
    """
    if samples:
        return
    why = f"; {len(report.skipped)} skipped, first {report.skipped[0]}" if report.skipped else ""
    raise DefectError(f"{source}: nothing to import as {asked}, expected {expected}{why}{_hint(source, asked)}")


def _hint(source: Path, asked: str) -> str:
    """What a source is that is not in the format ``asked``, if that can be told."""
    if source.is_file() and zipfile.is_zipfile(source):
        return ". It is an archive: unpack it first"
    found = guess_format(source)
    return f". It looks like {found}: try import {found}" if found and found != asked else ""


def guess_format(source: Path) -> str | None:
    """The name of the format that a folder or file looks like, by file names and the first bytes of a few files."""
    files = [source]
    if source.is_dir():
        if (source / "ground_truth").is_dir() or any(source.glob("*/ground_truth")):
            return "mvtec"
        if (source / "split_csv").is_dir() or any(source.glob("*/Data/Images")):
            return "visa"
        if any(source.glob("train/*_GT.png")):
            return "ksdd2"
        if any(source.glob("*.yaml")) and any(source.rglob("labels")):
            return "yolo"
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".json", ".xml"))[:_PEEK]
        images = any(path.suffix.lower() in IMAGE_SUFFIXES for path in source.rglob("*"))
        if images and not files and not (source / "labels").is_dir():
            return "folders"
    return next(filter(None, map(_guess_file, files)), None)


def _guess_file(path: Path) -> str | None:
    if not path.is_file():  # a pipe would wait for whoever writes into it
        return None
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    if re.search(rb"<annotations[\s>]", head):
        return "cvat"
    keys = {json.loads(key) for key in re.findall(rb'("\w+")\s*:', head)}
    if "shapes" in keys or {"imagePath", "imageData"} <= keys:
        return "labelme"
    return "coco" if {"images", "file_name"} <= keys or {"image_id", "category_id"} <= keys else None


def wrong_layout(source: Path, asked: str, expected: str) -> DefectError:
    """The error for a source that is not laid out as format ``asked``: what is there, what is ``expected`` (in a line),
    and which format it may be."""
    found = "a file"
    if source.is_dir():
        entries = sorted(path.name + "/" * path.is_dir() for path in source.iterdir())
        more = f" and {len(entries) - 6} more" if len(entries) > 6 else ""
        found = ", ".join(entries[:6]) + more if entries else "an empty folder"
    text = f"{source}: not in the layout of {asked}; found {found}; expected {expected}{_hint(source, asked)}"
    return DefectError(text)
