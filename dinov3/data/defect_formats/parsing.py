"""Reading what anyone may have written into an annotation file: its text, labels, sizes and splits."""

from __future__ import annotations

import json
import re
import reprlib
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from dinov3.data.defect_files import list_files
from dinov3.data.defect_formats.base import ImportReport, SourceImage
from dinov3.data.defect_formats.shapes import ShapeError
from dinov3.defect_text import decode_text, read_small

# What splits are called in folders, files and descriptions.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validation": "val",
    "valid": "val",
    "test": "test",
}
_LONGEST_LABEL = 100  # characters


class AnnotationError(Exception):
    """An annotation file, or its entry for one image, that cannot be used; the text says why."""


class ForeignFileError(AnnotationError):
    """A file of something else, which holds no annotations of the format asked for."""


def shown(value: object) -> str:
    """What a file says, fit for a message: short, and without line breaks or characters that cannot be printed."""
    brief = reprlib.Repr()  # looks at the first items alone, so that a deep or endless value is no trouble
    brief.maxlevel, brief.maxstring, brief.maxother = 2, 70, 70
    text = brief.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def annotation_files(source: Path, suffix: str) -> list[Path]:
    """``source`` itself if a file, else every file below it with this suffix, sorted; hidden ones are skipped.

    Raises:
        DefectError: a file name that no CSV or JSON file could hold.
    """
    return [source] if source.is_file() else list_files(source, (suffix,))


def read_json(path: Path) -> object:
    """The content of a JSON file.

    Raises:
        AnnotationError: unreadable, empty, not JSON, or neither in UTF-8 nor in GB 18030.
    """
    try:
        text = read_small(path)
        if not text.strip():
            raise AnnotationError("empty file")
        try:
            return json.loads(text)
        except UnicodeDecodeError:
            return json.loads(decode_text(text))
    except OSError as error:
        raise AnnotationError(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise AnnotationError(f"not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise AnnotationError(f"not valid JSON, broken or cut off (line {error.lineno}: {error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"not valid JSON ({shown(str(error))})") from None


def checked_label(value: object) -> str:
    """A label that a manifest can hold, without white space around it.

    Raises:
        ShapeError: not a text, empty, too long, or with control characters.
    """
    if not isinstance(value, str):
        raise ShapeError(f"a label that is no text: {shown(value)}")
    label = " ".join(value.split())
    if not 0 < len(label) <= _LONGEST_LABEL or any(unicodedata.category(c) in ("Cc", "Cs") for c in label):
        raise ShapeError(f"a label that is empty, over {_LONGEST_LABEL} characters or unprintable: {shown(value)}")
    return label


def checked_size(value: object) -> int | None:
    """A width or height in pixels as a file gives it; None if it is none."""
    return value if type(value) is int and value > 0 else None


def one_label(labels: Iterable[str], has_regions: bool, what: str, place: str, report: ImportReport) -> str | None:
    """The class that an image as a whole was given; of several, none: its regions decide.

    Raises:
        AnnotationError: several, and no region.
    """
    names = sorted(set(labels))
    if len(names) < 2:
        return names[0] if names else None
    if not has_regions:
        raise AnnotationError(f"{len(names)} {what}, {', '.join(names[:5])}, and no region: which is its class?")
    report.remarks[f"several {what} for one image; its regions tell the class"].append(
        f"{place}: {', '.join(names[:5])}"
    )
    return None


def split_of(name: str) -> str | None:
    """The split that a folder or file is named after: ``train``, ``instances_val2017``; None if there is no one."""
    words = {SPLIT_NAMES.get(word) for word in re.split(r"[\W_\d]+", name.lower())} - {None}
    return words.pop() if len(words) == 1 else None


def kept_splits(samples: list[SourceImage], report: ImportReport) -> list[SourceImage]:
    """The images with their splits, if these are of use: there is a train split, and another one."""
    splits = {sample.split for sample in samples} - {None}
    if not splits or ("train" in splits and len(splits) > 1):
        return samples
    names = " and ".join(sorted(splits))
    report.remarks["splits of the source that are not kept"].append(f"only {names}; its images are assigned anew")
    return [replace(sample, split=None) for sample in samples]
