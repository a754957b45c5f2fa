"""What the checks found: in the terminal, as JSON, and as an HTML sheet with thumbnails."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from dinov3.data.defect_checks.explanations import EXPLANATIONS, Text
from dinov3.data.defect_checks.row_checks import Issue
from dinov3.data.defect_drawing import class_color
from dinov3.data.defect_files import JPEG_SUFFIXES
from dinov3.data.defect_formats.masks import foreground
from dinov3.data.defect_images import ImageReadError, open_image, read_image
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_masks import IGNORE_INDEX, MASK_MODES
from dinov3.defect_display import on_a_line
from dinov3.defect_pages.html import stream

TEMPLATE = Path(__file__).parent / "templates" / "check_sheet.html"
THUMBNAIL = 400  # pixels of the longer side; shown at half of that, for sharp screens


def print_issues(manifest: Manifest, issues: list[Issue]) -> None:
    """A line for each kind of problem, and the number of images."""
    for issue in issues:
        print(f"{issue.severity}: {issue.check}: {issue.count} (for example {on_a_line(', '.join(issue.examples))})")
        if issue.summary:
            print(f"    {issue.summary[0]}")
    kinds = f"{len(issues)} kind{'s' * (len(issues) > 1)} of problems"
    print(f"checked {len(manifest)} images: " + (kinds if issues else "nothing found"))


def write_json(path: Path, issues: list[Issue]) -> None:
    """``{"issues": [{"check", "severity", "count", "examples"}]}``."""
    keys = ("check", "severity", "count", "examples")
    content = {"issues": [{key: getattr(issue, key) for key in keys} for issue in issues]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_html(path: Path, manifest: Manifest, issues: list[Issue]) -> None:
    """One self-contained page in English and Chinese: each issue explained, with thumbnails of its examples and their
    masks' outlines."""
    names = ("image", "mask", "label", "split")
    rows = {image: row for image, *row in zip(*(manifest.columns[name].tolist() for name in names), strict=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    page = stream(
        TEMPLATE,
        dataset=manifest.root.resolve().name,
        total=len(manifest),
        issues=issues,
        errors=sum(issue.severity == "error" for issue in issues),
        explanations=EXPLANATIONS,
        examples=lambda issue: (
            _Example(manifest, name, note, *rows.get(name, ("", "", "")))
            for name, note in zip(issue.examples, issue.notes, strict=True)
        ),
    )
    with path.open("w", encoding="utf-8") as file:
        file.writelines(page)


class _Example:
    """A file (or class) that an issue names, for the page."""

    def __init__(self, manifest: Manifest, name: str, note: Text, mask: str, label: str, split: str):
        path, mask_path = manifest.root / name, manifest.root / mask if mask else None
        self.name, self.note = name, note
        self.row: Text | None = (f"{label or 'no label'}, {split}", f"{label or '无标签'}，{split}") if split else None
        self.picture = _thumbnail(path, mask_path, len(manifest.mask_classes))
        self.is_file = self.row is not None or path.exists()


def _thumbnail(path: Path, mask_path: Path | None, classes: int) -> np.ndarray | None:
    """A small (h, w, 3) uint8 copy, the outline of the mask in it; None if the file is no image."""
    try:
        image = read_image(path)
    except (ImageReadError, ValueError, OSError, MemoryError):
        return None
    height, width = image.shape[:2]
    scale = THUMBNAIL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return _outlined(small, mask_path, classes) if mask_path else small


def _outlined(image: np.ndarray, path: Path, classes: int) -> np.ndarray:
    """The image (H, W, 3) with the outline of each class in its colour, on a dark line that shows on any ground."""
    try:
        mask = open_image(path)
        indices = np.asarray(mask, dtype=np.uint8) if mask.mode in MASK_MODES else None
        if indices is None or ((indices > classes) & (indices != IGNORE_INDEX)).any():
            indices = foreground(mask, path.suffix.lower() in JPEG_SUFFIXES, [])
    except (ImageReadError, ValueError, OSError, MemoryError):
        return image
    image = image.copy()
    for value in np.unique(indices[indices > 0]).tolist():
        # Area resizing keeps a trace of the smallest region.
        region = cv2.resize((indices == value) * np.float32(1), image.shape[1::-1], interpolation=cv2.INTER_AREA) > 0
        outline = cv2.findContours(region.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
        color = (255, 255, 255) if value == IGNORE_INDEX else class_color(value)
        cv2.drawContours(image, outline, -1, (0, 0, 0), 4)
        cv2.drawContours(image, outline, -1, color, 2)
    return image
