"""The formats that ``prepare_defect_data.py import`` reads, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dinov3.data.defect_formats.base import ImportOptions, ImportReport, SourceImage
from dinov3.data.defect_formats.coco import read_coco
from dinov3.data.defect_formats.cvat import read_cvat
from dinov3.data.defect_formats.folders import read_folders
from dinov3.data.defect_formats.ksdd2 import read_ksdd2
from dinov3.data.defect_formats.labelme import read_labelme
from dinov3.data.defect_formats.mvtec import read_mvtec
from dinov3.data.defect_formats.visa import read_visa
from dinov3.data.defect_formats.yolo import read_yolo

FormatName = Literal["coco", "cvat", "folders", "ksdd2", "labelme", "mvtec", "visa", "yolo"]
Importer = Callable[[Path, ImportOptions, ImportReport], list[SourceImage]]

# Each reader takes the source (a folder or an annotation file), options and report, and returns its images in a
# stable order. What it cannot use it reports; it raises DefectError only if there is nothing to import at all.
IMPORTERS: dict[FormatName, Importer] = {
    "coco": read_coco,
    "cvat": read_cvat,
    "folders": read_folders,
    "ksdd2": read_ksdd2,
    "labelme": read_labelme,
    "mvtec": read_mvtec,
    "visa": read_visa,
    "yolo": read_yolo,
}
