"""What two models are compared on: a split of a dataset, a folder, or the images of a results database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dinov3.data.defect_files import list_images
from dinov3.data.defect_manifest import Manifest
from dinov3.defect_errors import DefectError
from dinov3.defect_station.store.inspected import ERROR, is_unchanged

if TYPE_CHECKING:
    from dinov3.defect_station.store import Store


class Images(NamedTuple):
    """What to compare on.

    Attributes:
        classes: of each image, empty if not known.
        labels: (N,) class indices, 0 is normal and whatever is above it a defect; -1 if not known.
        parts: (N,) names of the physical parts.
        source: for the reader.
        gone: names of images of a database that are no more where they were inspected, or are others now; skipped.
    """

    paths: list[Path]
    names: list[str]
    classes: list[str]
    labels: np.ndarray
    parts: np.ndarray
    source: str
    gone: Sequence[str] = ()


def of_split(rows: Manifest, source: str) -> Images:
    """The labelled images of a dataset's split."""
    names, classes = rows.columns["image"].tolist(), rows.columns["label"].tolist()
    return Images([rows.root / name for name in names], names, classes, rows.labels, rows.parts, source)


def of_folder(folder: Path, part_of: Callable[[str], str] | None) -> Images:
    """The images of a folder, without labels.

    Raises:
        DefectError: there are none.
    """
    if not folder.is_dir():
        raise DefectError(f"--images {folder}: no such folder")
    paths = list_images(folder)
    if not paths:
        raise DefectError(f"--images {folder}: no images in it; expected files such as .jpg or .png")
    names = [path.relative_to(folder).as_posix() for path in paths]
    parts = names if part_of is None else [part_of(name) for name in names]
    return Images(paths, names, [""] * len(paths), np.full(len(paths), -1), np.array(parts), str(folder))


def of_store(
    store: Store, part_of: Callable[[str], str] | None, *, normal: str, decided: bool = False, **filters: Any
) -> Images:
    """The images of a results database, each file once, with what people decided last as labels.

    Args:
        normal: name of the class of good images.
        decided: only those that a person decided.
        filters: as :meth:`Store.rows` has them.

    Raises:
        DefectError: there are none.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    decisions: dict[tuple[str, str], dict[str, Any]] = {}
    for row in store.rows(**filters):
        if row["verdict"] == ERROR or not row["image_path"]:
            continue
        key = row["name"], row["content_hash"]
        found[key] = row
        if row["decision"] and row["decision_time"] >= decisions.get(key, row)["decision_time"]:
            decisions[key] = row  # one of another model's look at the same file counts as well
    rows = [row for key, row in found.items() if not decided or _label(decisions.get(key)) >= 0]
    there, gone = [], []
    for row in rows:
        if is_unchanged(Path(row["image_path"]), row["content_hash"]):
            there.append(row)
        else:
            gone.append(row["name"])
    if not there:
        which = "decided by a person, " if decided else ""
        more = f"; {len(gone)} are gone or were overwritten since, such as {gone[0]}" if gone else ""
        raise DefectError(f"--store {store.place}: no images {which}that match{more}")
    deciding = [decisions.get((row["name"], row["content_hash"])) for row in there]
    labels = np.array([_label(row) for row in deciding])
    classes = [
        "" if label < 0 else normal if label == 0 else row["class_name"] or "defect"
        for label, row in zip(labels.tolist(), deciding, strict=True)
    ]
    names = [row["name"] for row in there]
    parts = [(row["part"] if part_of is None else part_of(row["name"])) or row["name"] for row in there]
    return Images(
        [Path(row["image_path"]) for row in there], names, classes, labels, np.array(parts), store.place, gone
    )


def _label(row: dict[str, Any] | None) -> int:
    """0 or 1 as a person accepted or rejected it; -1: nobody did, or they took it back."""
    return {"accept": 0, "reject": 1}.get("" if row is None else row["decision"], -1)
