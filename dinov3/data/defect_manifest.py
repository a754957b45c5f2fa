"""The dataset on disk: ``manifest.csv``, ``dataset.json``, ``images/``, ``masks/``; reading it."""

from __future__ import annotations

import csv
import json
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dinov3.data.defect_images import FULL_RANGE, WHITE_LEVELS
from dinov3.defect_errors import DefectError
from dinov3.defect_replace import restore
from dinov3.defect_text import decode_text, read_small, rows_of_table

COLUMNS = ("image", "mask", "label", "split", "group", "source")
SPLITS = ("train", "val", "test")
UNKNOWN = ""  # the label of an image whose verdict nobody gave: its mask counts, its class does not
FORMAT = "dinov3-defect-dataset"  # other programs have a dataset.json, too
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """A dataset folder's table, one numpy string array per column.

    Loading processes share the columns: forked ones because nobody writes to them, others (Windows, macOS) because
    the columns are pickled as shared memory.
    """

    root: Path
    classes: list[str]  # index 0 is normal
    mask_classes: list[str]  # mask value i + 1 is mask_classes[i]
    columns: dict[str, np.ndarray]
    white_level: int = FULL_RANGE  # value of white in 16-bit images

    def __len__(self) -> int:
        return len(self.columns["image"])

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) class indices; -1 where the verdict is unknown."""
        index = {name: i for i, name in enumerate(self.classes)} | {UNKNOWN: -1}
        return np.array([index[name] for name in self.columns["label"].tolist()], dtype=np.int64)

    @property
    def parts(self) -> np.ndarray:
        """(N,) names of the physical parts: each row's group or, without one, its image, a part of its own."""
        return np.where(self.columns["group"] == "", self.columns["image"], self.columns["group"])

    @cached_property
    def _shared(self) -> dict[str, tuple[Any, str]]:
        """Each column's bytes as a tensor in shared memory, and its dtype; made once for all processes."""
        import torch  # only here, as preparing data does without it

        return {k: (torch.from_numpy(v.view(np.uint8)).share_memory_(), v.dtype.str) for k, v in self.columns.items()}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"columns": None, "_shared": self._shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        columns = {name: data.numpy().view(dtype) for name, (data, dtype) in state["_shared"].items()}
        self.__dict__.update(state | {"columns": columns})

    def select(self, split: str) -> Manifest:
        """The rows of one split."""
        return self.subset(self.columns["split"] == split)

    def subset(self, keep: np.ndarray) -> Manifest:
        """The rows where ``keep`` (N,) is True."""
        return replace(self, columns={k: v[keep] for k, v in self.columns.items()})

    def counts(self) -> dict[str, dict[str, int]]:
        """Images per split and class."""
        pairs = Counter(zip(self.columns["split"].tolist(), self.columns["label"].tolist(), strict=True))
        return {split: {name: pairs[split, name] for name in self.classes} for split in SPLITS}

    def weak_labels(self) -> list[str]:
        """Lines that say how many images teach only one of the two answers; empty if none does."""
        labels, masked = self.labels, self.columns["mask"] != ""
        classes, masks = int(((labels > 0) & ~masked).sum()), int(((labels < 0) & masked).sum())
        lines = [f"{classes} defect images without a mask: they train the class alone"] if classes else []
        return lines + ([f"{masks} images with a mask but no verdict: they train the mask alone"] if masks else [])


def read_manifest(root: Path | str) -> Manifest:
    """Open a dataset folder.

    Raises:
        DefectError: the folder or a file is missing, or rows break the format; the first rows are named.
    """
    root = Path(root)
    remedy = "make one with: python examples/prepare_defect_data.py organize (or demo) --output_dir DATASET"
    if not root.is_dir() and not restore(root):
        raise DefectError(f"{root}: no such dataset folder; {remedy}")
    missing = [name for name in ("manifest.csv", "dataset.json") if not (root / name).is_file()]
    if missing:
        raise DefectError(f"{root}: not a dataset folder, {' and '.join(missing)} missing; {remedy}")
    try:
        info = json.loads(read_small(root / "dataset.json").decode("utf-8-sig"))
        classes, mask_classes = info["classes"], info["mask_classes"]
        version, kind = info["format_version"], info.get("format", FORMAT)  # the first versions named none
        white_level = info.get("white_level", FULL_RANGE)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise DefectError(f"{root / 'dataset.json'}: broken ({reason}); {remedy}") from None
    if kind != FORMAT:
        raise DefectError(f"{root / 'dataset.json'}: of another program (format {reprlib.repr(kind)}); {remedy}")
    if version != FORMAT_VERSION:
        found = reprlib.repr(version)
        raise DefectError(f"{root / 'dataset.json'}: format_version {found}; this version reads {FORMAT_VERSION}")
    if white_level not in WHITE_LEVELS:
        expected, found = ", ".join(map(str, WHITE_LEVELS)), reprlib.repr(white_level)
        raise DefectError(f"{root / 'dataset.json'}: white_level {found}; expected one of {expected}")
    for key, names in (("classes", classes), ("mask_classes", mask_classes)):
        if not _are_names(names) or (key == "classes" and len(names) < 2):
            raise DefectError(
                f"{root / 'dataset.json'}: {key} {reprlib.repr(names)}; expected a list of different names; {remedy}"
            )
    path = root / "manifest.csv"
    try:
        lines = rows_of_table(decode_text(read_small(path)))
        _, header = next(lines, (0, []))
        rows = list(lines)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DefectError(f"{path}: not a UTF-8 CSV file ({error})") from None
    if tuple(header) != COLUMNS:
        raise DefectError(f"{path}: columns are {','.join(header)[:200] or 'missing'}; expected {','.join(COLUMNS)}")
    problems = [p for number, row in rows for p in _row_problems(number, row, classes)]
    if problems:
        shown = "\n  ".join(problems[:5])
        raise DefectError(f"{path}: {len(problems)} broken entries, first:\n  {shown}")
    if not rows:
        raise DefectError(f"{path}: no rows, the dataset is empty; {remedy}")
    columns = {name: np.array([row[i] for _, row in rows]) for i, name in enumerate(COLUMNS)}
    return Manifest(root, classes, mask_classes, columns, white_level)


def _are_names(value: object) -> bool:
    """Whether this is a list of texts that are not empty, no two alike."""
    named = isinstance(value, list) and all(isinstance(name, str) and name for name in value)
    return named and len(set(value)) == len(value)


def _row_problems(number: int, row: list[str], classes: list[str]) -> list[str]:
    if len(row) != len(COLUMNS):
        return [f"line {number}: {len(row)} fields; expected {len(COLUMNS)}"]
    image, mask, label, split, _, _ = row
    shown, problems = reprlib.repr, []
    if label != UNKNOWN and label not in classes:
        problems.append(
            f"line {number}: label {shown(label)}; expected one of {', '.join(classes[:20])} (dataset.json)"
        )
    if split not in SPLITS:
        problems.append(f"line {number}: split {shown(split)}; expected train, val or test")
    for name, value in (("image", image), ("mask", mask)):
        if (name == "image" and not value) or value.startswith("/") or ".." in value.split("/"):
            problems.append(f"line {number}: {name} {shown(value)}; expected a path inside the dataset folder")
    return problems


def count_rows(rows: Iterable[Mapping[str, str]], classes: Iterable[str]) -> dict[str, dict[str, int]]:
    """Rows per split and class, as :meth:`Manifest.counts` gives them."""
    pairs = Counter((row["split"], row["label"]) for row in rows)
    return {split: {name: pairs[split, name] for name in classes} for split in SPLITS}


def __getattr__(name: str) -> Any:
    """``DatasetWriter``, which was here in earlier versions."""
    if name == "DatasetWriter":
        from dinov3.data.defect_prepare.writer import DatasetWriter  # it imports this module

        return DatasetWriter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
