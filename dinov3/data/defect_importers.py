"""The formats that ``prepare_defect_data.py import`` reads, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dinov3.data.defect_sources import ImportOptions, ImportReport, SourceImage

Importer = Callable[[Path, ImportOptions, ImportReport], list[SourceImage]]

# Each reader takes the source (a folder or an annotation file), options and report, and returns its images in a
# stable order. What it cannot use it reports; it raises DefectError only if there is nothing to import at all.
IMPORTERS: dict[str, Importer] = {}
