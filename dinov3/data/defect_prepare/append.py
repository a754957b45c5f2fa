"""New images for a dataset that is in use: what is in it stays as it is, to the byte."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter, defaultdict
from pathlib import Path

from dinov3.data.defect_files import one_spelling
from dinov3.data.defect_formats.base import NORMAL, ImportReport, SourceImage
from dinov3.data.defect_formats.mask_rules import MaskRules
from dinov3.data.defect_manifest import COLUMNS, SPLITS, UNKNOWN, Manifest, count_rows, read_manifest
from dinov3.data.defect_prepare.grouping import Grouping, find_groups
from dinov3.data.defect_prepare.near_duplicates import ImageFile, digest_of
from dinov3.data.defect_prepare.organize import classes_of, expect_apart, write_images
from dinov3.data.defect_prepare.ownership import APPENDING, clear_append, note_append
from dinov3.data.defect_prepare.splits import grouped_split
from dinov3.data.defect_prepare.writer import DatasetWriter
from dinov3.defect_errors import DefectError
from dinov3.defect_folders import FolderLock
from dinov3.defect_text import decode_text, is_utf8


class DatasetAppender(DatasetWriter):
    """Adds rows to a dataset folder. Its files come first and its table last: interrupted anywhere, the dataset is
    the old one, at worst with files in it that no row names. A list says which these are, and the next try removes
    them; other files that no row names are never touched."""

    def __init__(self, manifest: Manifest):
        self.output_dir = manifest.root
        self.place = self.workplace = Path(os.path.realpath(manifest.root))  # on the same disk, be it a mount point
        self.manifest = manifest
        self.rows, self.white_level = [], manifest.white_level
        self._replaced = None

    def _lock_replaced(self) -> None:
        """Nothing is replaced; :func:`append` has the dataset from before it was read."""

    def finish(self, *, classes: list[str], mask_classes: list[str], seed: int, command: str) -> Manifest:
        """Move the new files in, then replace ``dataset.json`` and ``manifest.csv``."""
        info = json.loads((self.output_dir / "dataset.json").read_text(encoding="utf-8"))
        names = ("split", "label")
        old = zip(*(self.manifest.columns[name].tolist() for name in names), strict=True)
        rows = [*(dict(zip(names, row, strict=True)) for row in old), *self.rows]
        info |= {"classes": classes, "mask_classes": mask_classes, "seed": seed, "counts": count_rows(rows, classes)}
        info["appended"] = [*info.get("appended", []), command]
        self._write("dataset.json", json.dumps(info, indent=2, ensure_ascii=False).encode())
        lines = io.StringIO(newline="")
        csv.DictWriter(lines, COLUMNS).writerows(self.rows)
        table = (self.output_dir / "manifest.csv").read_bytes()
        if not is_utf8(table):  # a spreadsheet saved it
            table = decode_text(table).encode("utf-8-sig")
        ending = b"" if table.endswith(b"\n") else b"\n"
        self._write("manifest.csv", table + ending + lines.getvalue().encode())
        names = [row[column] for row in self.rows for column in ("image", "mask") if row[column]]
        self._expect_no_other(names)
        note_append(self.output_dir, names)
        moved: list[Path] = []
        try:
            for name in names:
                target = self.output_dir / name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(self.folder / name, target)
                moved.append(target)
            # The old table is valid with the new list of classes, not the other way round.
            os.replace(self.folder / "dataset.json", self.output_dir / "dataset.json")
        except BaseException:
            for path in moved:
                path.unlink(missing_ok=True)
            (self.output_dir / APPENDING).unlink()
            raise
        os.replace(self.folder / "manifest.csv", self.output_dir / "manifest.csv")
        (self.output_dir / APPENDING).unlink()
        return read_manifest(self.output_dir)

    def _expect_no_other(self, names: list[str]) -> None:
        for path in (self.output_dir / name for name in names):
            if os.path.lexists(path):
                raise DefectError(
                    f"{path}: is in the dataset's folder, but in no row of its table, and a new image would take its "
                    "name; move it to another place, or rename the new image"
                )

    def _write(self, name: str, data: bytes) -> None:
        with (self.folder / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def append(
    samples: list[SourceImage],
    report: ImportReport,
    output_dir: Path,
    *,
    val_split: float | None = None,
    test_split: float | None = None,
    grouping: Grouping | None = None,
    rules: MaskRules | None = None,
    link: bool = False,
    command: str = "",
) -> Manifest:
    """Add images to a dataset; those in it keep their files, rows and splits.

    A new image goes to the split of the images that show the same part, and takes over their group; where that is
    empty, the image in the dataset names the part. The other parts are assigned so that the
    shares of the whole come out right. An image whose content or name is in the dataset is skipped and reported. New
    classes come after the old ones, whose numbers stay.

    Args:
        samples: with their final labels.
        report: collects what was skipped or repaired.
        output_dir: the dataset folder.
        val_split, test_split: shares of the whole; None for what they are in the dataset now.
        grouping, rules, link, command: as for organizing a new dataset.

    Raises:
        DefectError: no dataset there, another command is at work on it, images lie in it, shares out of range, or it
            cannot be written.
    """
    read_manifest(output_dir)  # which says what is wrong there, if anything is
    with FolderLock(output_dir, "prepare_defect_data.py organize --append"):
        return _append(samples, report, output_dir, val_split, test_split, grouping or Grouping(), rules, link, command)


def _append(
    samples: list[SourceImage],
    report: ImportReport,
    output_dir: Path,
    val_split: float | None,
    test_split: float | None,
    grouping: Grouping,
    rules: MaskRules | None,
    link: bool,
    command: str,
) -> Manifest:
    manifest = read_manifest(output_dir)
    clear_append(manifest)
    expect_apart(samples, grouping, output_dir)
    fractions = _fractions(manifest, val_split, test_split)
    samples = _only_new(samples, manifest, report)
    if not samples:
        return manifest
    columns = {name: values.tolist() for name, values in manifest.columns.items()}
    # A row without a group is a part of its own, which new images join by its image's name: its line stays as it is.
    columns["group"] = manifest.parts.tolist()
    old = len(manifest)
    names = [*(image.removeprefix("images/") for image in columns["image"]), *(sample.name for sample in samples)]
    images = [*(manifest.root / image for image in columns["image"]), *(sample.image for sample in samples)]
    groups = find_groups(names, images, grouping, report.remarks, known=columns["group"])
    normal = manifest.classes[0]
    labels = [*columns["label"], *(normal if s.label == NORMAL else s.label or UNKNOWN for s in samples)]
    sources = [*columns["source"], *(sample.source for sample in samples)]
    strata = [NORMAL if y == normal else f"{y}/{source}" for y, source in zip(labels, sources, strict=True)]
    info = json.loads((manifest.root / "dataset.json").read_text(encoding="utf-8"))
    seed = info.get("seed", 0)
    splits = grouped_split(strata, groups, fractions, seed, _splits_of(groups, columns, report))
    defects = sorted({*classes_of(samples), *labels} - {normal, NORMAL, UNKNOWN})
    classes = [*manifest.classes, *(name for name in defects if name not in manifest.classes)]
    mask_classes = [*manifest.mask_classes, *(name for name in defects if name not in manifest.mask_classes)]
    if classes != manifest.classes:
        report.remarks["new classes; models trained before don't know them"] += classes[len(manifest.classes) :]
    with DatasetAppender(manifest) as writer:
        write_images(writer, samples, groups[old:], splits[old:], mask_classes, report, link, rules)
        for row in writer.rows:
            row["label"] = normal if row["label"] == NORMAL else row["label"]
        return writer.finish(classes=classes, mask_classes=mask_classes, seed=seed, command=command)


def _fractions(manifest: Manifest, val_split: float | None, test_split: float | None) -> dict[str, float]:
    counts = Counter(manifest.columns["split"].tolist())
    val = counts["val"] / len(manifest) if val_split is None else val_split
    test = counts["test"] / len(manifest) if test_split is None else test_split
    if val < 0 or test < 0 or val + test >= 1:
        raise DefectError(
            f"--val_split {val:.2g} and --test_split {test:.2g} (what is not given is as in {manifest.root}): expected "
            "0 or more, adding up to less than 1"
        )
    return {"train": 1 - val - test, "val": val, "test": test}


def _only_new(samples: list[SourceImage], manifest: Manifest, report: ImportReport) -> list[SourceImage]:
    """Those whose content and name are not in the dataset; names in capitals or not, and however accents are written,
    as some file systems don't tell these apart. A name alone says too little: its first folder depends on which folders
    are given together."""
    known = {_key(image.removeprefix("images/")): image for image in manifest.columns["image"].tolist()}
    contents = [_content(sample.image) for sample in samples]
    stored = _stored_images(manifest, {size for size, _ in contents})
    new = []
    for sample, (_, digest) in zip(samples, contents, strict=True):
        image, copies = known.get(_key(sample.name)), stored.get(digest, [])
        if copies:
            place = sample.place if image in copies else f"{sample.place}: {copies[0]}"
            report.remarks["images that are in the dataset already; left as they are"].append(place)
        elif image is None:
            new.append(sample)
        else:
            kind = "images skipped, as another one in the dataset has their name; rename them or their folder"
            report.remarks[kind].append(f"{sample.place}: {image}")
    return new


def _key(name: str) -> str:
    return one_spelling(name).casefold()


def _stored_images(manifest: Manifest, sizes: set[int]) -> dict[bytes, list[str]]:
    """{digest: images in the dataset}; files of other sizes than these are not read."""
    found = defaultdict(list)
    for image in manifest.columns["image"].tolist():
        path = manifest.root / image
        if os.path.isfile(path) and os.path.getsize(path) in sizes:
            found[_content(path)[1]].append(image)
    found.pop(b"", None)
    return found


def _content(image: ImageFile) -> tuple[int, bytes]:
    """The size of a file and its digest, which is empty if it cannot be read."""
    try:
        data = image.read_bytes() if isinstance(image, Path) else image()
    except (OSError, ValueError):
        return 0, b""
    return len(data), digest_of(data)


def _splits_of(groups: list[str], columns: dict[str, list[str]], report: ImportReport) -> dict[str, str]:
    """The split of each group that is in the dataset: where most of its images are."""
    own: dict[str, Counter[str]] = defaultdict(Counter)
    joined: dict[str, set[str]] = defaultdict(set)
    for group, known, split in zip(groups, columns["group"], columns["split"], strict=False):
        own[known][split] += 1
        joined[group].add(split)
    fixed = {group: max(SPLITS, key=counts.__getitem__) for group, counts in own.items()}
    for group in sorted(set(groups[len(columns["group"]) :])):
        if len(joined[group]) > 1:
            kind = "parts that join images of several splits; the new images are a leak (the command leaks shows it)"
            report.remarks[kind].append(f"{group}: {', '.join(sorted(joined[group]))}; new images in {fixed[group]}")
    return fixed
