"""VisA: folders of normal and anomalous images per object, masks, and tables of splits."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

from dinov3.data.defect_files import list_images, spelled_as
from dinov3.data.defect_formats.base import (
    MASK_WITHOUT_IMAGE,
    NORMAL,
    WITHOUT_MASK,
    ImportOptions,
    ImportReport,
    SourceImage,
)
from dinov3.data.defect_formats.detect import wrong_layout
from dinov3.data.defect_formats.folders import folder_name, subfolders
from dinov3.data.defect_formats.names import plain
from dinov3.data.defect_formats.pairing import masks_by_stem, masks_for
from dinov3.data.defect_formats.parsing import kept_splits, shown
from dinov3.defect_errors import DefectError
from dinov3.defect_text import decode_text, read_small, rows_of_table

_MAX_TABLE = 2**26  # bytes; VisA's own have less than a million


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
    objects = [folder for folder in [root, *subfolders(root)] if spelled_as(folder / "Data" / "Images", folder)]
    if not objects:
        raise wrong_layout(root, "visa", "OBJECT/Data/Images/Normal, OBJECT/Data/Images/Anomaly and split_csv/")
    samples: dict[str, SourceImage] = {}
    for folder in objects:
        name = folder_name(folder)
        drawn = base if folder == root else base / folder.name
        masks = masks_by_stem([spelled_as(drawn / "Data" / "Masks" / "Anomaly", drawn)])
        for kind, label in (("Normal", NORMAL), ("Anomaly", "defect")):
            images = spelled_as(folder / "Data" / "Images" / kind, folder)
            paths = list_images(images) if images and images.is_dir() else []
            masks_of = masks_for(paths, masks) if label != NORMAL else {}
            for path in paths:
                own = tuple(masks_of.get(path, ()))
                if not own and label != NORMAL:
                    report.remarks[WITHOUT_MASK].append(str(path))
                place = f"{name}/Data/Images/{kind}/{path.relative_to(images).as_posix()}"
                samples[place] = SourceImage(path, place.replace("/Data/Images/", "/", 1), name, label, own)
        report.remark(MASK_WITHOUT_IMAGE, [path for left in masks.values() for path in left])
    return _with_splits(samples, table, report) if table else list(samples.values())


def _split_table(source: Path, report: ImportReport) -> Path | None:
    places = [source / "split_csv" / f"{name}.csv" for name in ("2cls_highshot", "2cls_fewshot", "1cls")]
    found = [path for path in places if path.is_file()]
    if found:
        others = f"; to use another, give it as the source: {', '.join(map(str, found[1:]))}" if found[1:] else ""
        report.notes.append(f"splits of {found[0]}{others}")
    else:
        report.notes.append(f"no {source / 'split_csv'}; splits are assigned anew")
    return found[0] if found else None


def _with_splits(samples: dict[str, SourceImage], table: Path, report: ImportReport) -> list[SourceImage]:
    """The images that the table lists, each in its split."""
    objects = {plain(sample.source) for sample in samples.values()}
    spelled = {plain(place): place for place in samples}
    absent: Counter[str] = Counter()
    found: dict[str, SourceImage] = {}
    for line, row in read_visa_table(table):
        name, split = plain(row["object"]), row["split"]
        given = row["image"] if row["image"] in samples else row["image"].replace("\\", "/")
        image = given if given in samples else spelled.get(plain(given), row["image"])
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
    report.remark("objects of the split file that are not there", [f"{shown(k)}: {n}" for k, n in absent.items()])
    report.skipped += [f"{s.place}: not listed in {table}" for place, s in samples.items() if place not in found]
    return kept_splits([found[place] for place in samples if place in found], report)


def read_visa_table(table: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a split file, as (line, {column: text}).

    Raises:
        DefectError: not a CSV file, or without its columns.
    """
    columns = ("object", "split", "label", "image")
    try:
        lines = rows_of_table(decode_text(read_small(table, _MAX_TABLE)))
        _, header = next(lines, (0, []))
        missing = [column for column in columns if column not in header]
        rows = [(line, dict.fromkeys(columns, "") | dict(zip(header, row, strict=False))) for line, row in lines]
    except OSError as error:
        raise DefectError(
            f"{table}: cannot be read ({error.strerror}); give another split file as the source"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DefectError(f"{table}: not a CSV file ({error}); give another split file as the source") from None
    if missing:
        raise DefectError(f"{table}: no column {' or '.join(missing)}; expected object,split,label,image,mask")
    return rows
