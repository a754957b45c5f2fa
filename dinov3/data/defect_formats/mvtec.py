"""Public defect datasets that say by folders and file names what an image shows: MVTec AD, VisA, KolektorSDD2."""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dinov3.data.defect_files import one_spelling, spelled_as
from dinov3.data.defect_formats.base import NORMAL, ImportOptions, ImportReport, SourceImage
from dinov3.data.defect_formats.detect import wrong_layout
from dinov3.data.defect_formats.folders import GOOD_FOLDERS, subfolders
from dinov3.data.defect_formats.parsing import kept_splits, shown
from dinov3.data.defect_formats.shapes import Shape, ShapeError
from dinov3.data.defect_images import ImageReadError, list_images, read_foreign_mask, read_image
from dinov3.defect_errors import DefectError

WITHOUT_MASK = "defect images without a mask; they train the class alone"
MASK_WITHOUT_IMAGE = "masks that no image takes; left out"

# Folder to split. MVTec AD has train and test; LOCO adds validation, AD 2 has test_public in place of test.
_MVTEC_SPLITS = {"train": "train", "validation": "val", "test": "test", "test_public": "test"}
_MAX_TABLE = 2**26  # bytes; VisA's own have less than a million
_MVTEC_SECRET = ("test_private", "test_private_mixed")  # AD 2: the answers are with the benchmark's server


def _name(folder: Path) -> str:
    """What a folder is called where it is given, be it a link or ``.``."""
    return Path(os.path.abspath(folder)).name or "images"


def _remark(report: ImportReport, kind: str, lines: Sequence[object]) -> None:
    if lines:
        report.remarks[kind] += map(str, lines)


# --- MVTec AD


def read_mvtec(source: Path, options: ImportOptions, report: ImportReport) -> list[SourceImage]:
    """MVTec AD (Bergmann et al. 2019), LOCO (2022), AD 2 (2025), and datasets laid out alike such as BTAD.

    One category, or a folder of several: images in ``train/good`` and ``test/TYPE``, masks in ``ground_truth/TYPE``.
    The type is the label. LOCO's several masks per image become one.

    Raises:
        DefectError: no category there.
    """
    root = options.images or source
    categories = [folder for folder in [root, *subfolders(root)] if _is_category(folder)] if root.is_dir() else []
    if not categories:
        raise wrong_layout(root, "mvtec", "[CATEGORY/]train/good, test/TYPE and ground_truth/TYPE/NAME_mask.png")
    samples = []
    for folder in categories[:1] if categories[0] == root else categories:
        samples += _read_category(folder, source if folder == root else source / folder.name, report)
    return kept_splits(samples, report)


def _is_category(folder: Path) -> bool:
    return any((folder / split / good).is_dir() for split in _MVTEC_SPLITS for good in GOOD_FOLDERS)


def _read_category(folder: Path, truth: Path, report: ImportReport) -> list[SourceImage]:
    category = _name(folder)
    samples = []
    taken: set[Path] = set()
    for split_folder in (folder / name for name in _MVTEC_SPLITS if (folder / name).is_dir()):
        split = _MVTEC_SPLITS[split_folder.name]
        for kind in (path for path in subfolders(split_folder) if path.name != "ground_truth"):
            label = NORMAL if kind.name.lower() in GOOD_FOLDERS else kind.name
            places = ("ground_truth", f"ground_truth/{split_folder.name}", f"{split_folder.name}/ground_truth")
            masks = _masks_by_stem([spelled_as(truth / place / kind.name, truth) for place in places])
            for path in (path for path in list_images(kind) if path.parent == kind):
                name = f"{category}/{path.relative_to(folder).as_posix()}"
                own = masks.pop(one_spelling(path.stem), [])
                taken |= {path, *own}
                if not own and label != NORMAL:
                    report.remarks[WITHOUT_MASK].append(str(path))
                mask = own[0] if len(own) == 1 else None
                shapes = (_union(label, own),) if len(own) > 1 else None
                samples.append(SourceImage(path, name, category, label, mask, shapes, split))
        for path in list_images(split_folder):
            if path not in taken and "ground_truth" not in path.relative_to(split_folder).parts:
                report.skipped.append(f"{path}: expected right in a folder of its type, {split_folder}/TYPE")
    answers = truth / "ground_truth"
    left = [path for path in list_images(answers) if path not in taken] if answers.is_dir() else []
    _remark(report, MASK_WITHOUT_IMAGE, left)
    for secret in (folder / name for name in _MVTEC_SECRET if (folder / name).is_dir()):
        report.notes.append(f"{secret}: {len(list_images(secret))} images without a public verdict; left out")
    return samples


def _masks_by_stem(folders: Sequence[Path | None]) -> dict[str, list[Path]]:
    """{stem of the image: its masks}, of ``STEM_mask.png`` or ``STEM.png``, or of all in a folder ``STEM`` (LOCO)."""
    found = defaultdict(list)
    for folder in folders:
        for path in list_images(folder) if folder and folder.is_dir() else ():
            inside = path.relative_to(folder).parts
            stem = path.stem.removesuffix("_mask") if len(inside) == 1 else inside[0]
            found[one_spelling(stem)].append(path)
    return found


def _union(label: str, masks: Sequence[Path]) -> Shape:
    """One region of several mask files."""

    def draw(height: int, width: int) -> np.ndarray:
        try:
            return np.any([read_foreign_mask(path, (height, width))[0] for path in masks], axis=0)
        except ImageReadError as error:
            raise ShapeError(str(error)) from None

    return Shape(label, 1.0, draw)  # the image has no other region to compare areas with


# --- VisA


def read_visa(source: Path, options: ImportOptions, report: ImportReport) -> list[SourceImage]:
    """VisA (Zou et al. 2022): ``OBJECT/Data/Images/{Normal,Anomaly}``, ``Data/Masks/Anomaly``, ``split_csv/*.csv``.

    All flaws are of one class, 'defect': an image often has several types, and what a mask's pixel values stand for
    differs from object to object. Splits are those of ``2cls_highshot.csv``, which has defects in train, or else of
    ``2cls_fewshot.csv`` or ``1cls.csv``; ``source`` may also be the file to use.

    Raises:
        DefectError: no object there, or the split file is broken.
    """
    table = source if source.is_file() else _split_table(source, report)
    base = source if source.is_dir() else source.parent.parent if source.parent.name == "split_csv" else source.parent
    root = options.images or base
    objects = [folder for folder in [root, *subfolders(root)] if (folder / "Data" / "Images").is_dir()]
    if not objects:
        raise wrong_layout(root, "visa", "OBJECT/Data/Images/Normal, OBJECT/Data/Images/Anomaly and split_csv/")
    samples: dict[str, SourceImage] = {}
    for folder in objects:
        name = _name(folder)
        masks = _masks_by_stem([(base if folder == root else base / folder.name) / "Data" / "Masks" / "Anomaly"])
        for kind, label in (("Normal", NORMAL), ("Anomaly", "defect")):
            images = folder / "Data" / "Images" / kind
            for path in list_images(images) if images.is_dir() else ():
                mask = masks.pop(one_spelling(path.stem), [None])[0] if label != NORMAL else None
                if mask is None and label != NORMAL:
                    report.remarks[WITHOUT_MASK].append(str(path))
                place = f"{name}/{path.relative_to(folder).as_posix()}"
                samples[place] = SourceImage(path, place.replace("/Data/Images/", "/", 1), name, label, mask)
        _remark(report, MASK_WITHOUT_IMAGE, [path for left in masks.values() for path in left])
    return _with_splits(samples, table, report) if table else list(samples.values())


def _split_table(source: Path, report: ImportReport) -> Path | None:
    places = [source / "split_csv" / f"{name}.csv" for name in ("2cls_highshot", "2cls_fewshot", "1cls")]
    found = [path for path in places if path.is_file()]
    if found:
        others = f"; to use another, give it as the source: {', '.join(map(str, found[1:]))}" if found[1:] else ""
        report.notes.append(f"splits of {found[0]}{others}")
    else:
        report.notes.append(f"no {source / 'split_csv'}; splits are dealt anew")
    return found[0] if found else None


def _with_splits(samples: dict[str, SourceImage], table: Path, report: ImportReport) -> list[SourceImage]:
    """The images that the table lists, each in its split."""
    objects = {one_spelling(sample.source) for sample in samples.values()}
    spelled = {one_spelling(place): place for place in samples}
    absent: Counter[str] = Counter()
    found: dict[str, SourceImage] = {}
    for line, row in read_visa_table(table):
        name, split = one_spelling(row["object"]), row["split"]
        image = spelled.get(one_spelling(row["image"]), row["image"])
        sample = samples.get(image)
        if name not in objects:
            absent[name] += 1
        elif sample is None:
            report.skipped.append(f"{table} line {line}: {shown(image)} is not among the images")
        elif split not in ("train", "test"):
            report.skipped.append(f"{table} line {line}: split {shown(split)}; expected train or test")
        elif (row["label"] == "normal") != (sample.label == NORMAL):
            report.skipped.append(f"{table} line {line}: {image} called {shown(row['label'])}, against its folder")
        elif image in found:
            report.remarks["listed twice; the first entry counts"].append(f"{table} line {line}: {image}")
        else:
            found[image] = replace(sample, split=split)
    _remark(report, "objects of the split file that are not there", [f"{shown(k)}: {n}" for k, n in absent.items()])
    report.skipped += [f"{s.place}: not listed in {table}" for place, s in samples.items() if place not in found]
    return kept_splits([found[place] for place in samples if place in found], report)


def read_visa_table(table: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a split file, as (line, {column: text}).

    Raises:
        DefectError: not a CSV file, or without its columns.
    """
    columns = ("object", "split", "label", "image")
    if table.stat().st_size > _MAX_TABLE:
        raise DefectError(f"{table}: {table.stat().st_size / 2**20:.0f} MB, too large for a split file")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            rows = [(reader.line_num, {column: row.get(column) or "" for column in columns}) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DefectError(f"{table}: not a CSV file ({error}); give another split file as the source") from None
    if missing:
        raise DefectError(f"{table}: no column {' or '.join(missing)}; expected object,split,label,image,mask")
    return rows


# --- KolektorSDD2


def read_ksdd2(source: Path, options: ImportOptions, report: ImportReport) -> list[SourceImage]:
    """KolektorSDD2 (Božič et al. 2021): ``train`` and ``test`` with ``10000.png`` and its mask ``10000_GT.png``.

    An image is defective where its mask is not empty.

    Raises:
        DefectError: no such folders, or no masks in them.
    """
    root = options.images or source
    truths = {split: list_images(source / split) for split in ("train", "test") if (source / split).is_dir()}
    answers = [(split, p) for split, paths in truths.items() for p in paths if p.stem.endswith("_GT")]
    masks = {(split, one_spelling(path.stem[:-3])): path for split, path in answers}
    if not masks:
        raise wrong_layout(source, "ksdd2", "train/ and test/ with pairs NAME.png and NAME_GT.png")
    samples = []
    for split in ("train", "test"):
        for path in list_images(root / split) if (root / split).is_dir() else ():
            if path.stem.endswith("_GT"):
                continue
            mask = masks.pop((split, one_spelling(path.stem)), None)
            try:
                label = None if mask is None else "defect" if read_image(mask).any() else NORMAL
            except ImageReadError as error:
                report.skipped.append(f"{path}: its verdict is not known; {error}")
                continue
            name = path.relative_to(root).as_posix()
            samples.append(SourceImage(path, name, _name(root), label, mask, split=split))
    _remark(report, MASK_WITHOUT_IMAGE, list(masks.values()))
    return kept_splits(samples, report)
