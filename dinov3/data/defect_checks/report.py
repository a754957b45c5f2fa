"""What the checks found: in the terminal, as JSON, and as an HTML sheet with thumbnails."""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path

import cv2
import numpy as np

from dinov3.data.defect_checks.explanations import EXPLANATIONS, PAGE_STYLE
from dinov3.data.defect_checks.row_checks import Issue
from dinov3.data.defect_drawing import class_color
from dinov3.data.defect_files import JPEG_SUFFIXES
from dinov3.data.defect_formats.masks import foreground
from dinov3.data.defect_images import ImageReadError, open_image, read_image
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_masks import IGNORE_INDEX, MASK_MODES

THUMBNAIL = 400  # pixels of the longer side; shown at half of that, for sharp screens


def print_issues(manifest: Manifest, issues: list[Issue]) -> None:
    """A line for each kind of problem, and the number of images."""
    for issue in issues:
        print(f"{issue.severity}: {issue.check}: {issue.count} (for example {', '.join(issue.examples)})")
        if issue.summary:
            print(f"    {issue.summary}")
    kinds = f"{len(issues)} kind{'s' * (len(issues) > 1)} of problems"
    print(f"checked {len(manifest)} images: " + (kinds if issues else "nothing found"))


def write_json(path: Path, issues: list[Issue]) -> None:
    """``{"issues": [{"check", "severity", "count", "examples"}]}``."""
    keys = ("check", "severity", "count", "examples")
    content = {"issues": [{key: getattr(issue, key) for key in keys} for issue in issues]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_html(path: Path, manifest: Manifest, issues: list[Issue]) -> None:
    """One self-contained page: each issue explained, with thumbnails of its examples and their masks' outlines."""
    rows = {
        image: (mask, f"{label or 'no label'}, {split}")
        for image, mask, label, split in zip(
            *(manifest.columns[name].tolist() for name in ("image", "mask", "label", "split")), strict=True
        )
    }
    errors = sum(issue.severity == "error" for issue in issues)
    verdict = (
        f"{errors} error{'s' * (errors != 1)} and {len(issues) - errors} warning{'s' * (len(issues) - errors != 1)}"
    )
    name = escape(manifest.root.resolve().name)
    parts = [
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Check of {name}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{PAGE_STYLE}</style>\n</head>\n<body>\n<header><h1>{name}</h1>"
        f"<p>{len(manifest)} images checked: {verdict if issues else 'nothing found'}</p></header>"
    ]
    if issues:
        parts.append(_contents(issues))
    parts += [_section(manifest, issue, rows) for issue in issues]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts) + "\n</body>\n</html>\n", encoding="utf-8")


def _badge(issue: Issue) -> str:
    return f'<span class="badge {issue.severity}">{issue.severity}</span>'


def _contents(issues: list[Issue]) -> str:
    lines = [
        f'<tr><td>{_badge(issue)}</td><td><a href="#{issue.check}">{issue.check}</a></td><td>{issue.count}</td></tr>'
        for issue in issues
    ]
    return "<table>" + "".join(lines) + "</table>"


def _section(manifest: Manifest, issue: Issue, rows: dict[str, tuple[str, str]]) -> str:
    meaning, remedy = EXPLANATIONS[issue.check]
    cards = "".join(
        _card(manifest, example, note, *rows.get(example, ("", "")))
        for example, note in zip(issue.examples, issue.notes, strict=True)
    )
    summary = f"<p><strong>{escape(issue.summary)}</strong></p>" if issue.summary else ""
    return (
        f'<section id="{issue.check}"><h2>{_badge(issue)} {issue.check} <span class="count">{issue.count}</span></h2>'
        f'<p>{escape(meaning)}</p>{summary}<p class="todo">{escape(remedy)}</p>'
        f'<div class="cards">{cards}</div></section>'
    )


def _card(manifest: Manifest, example: str, note: str, mask: str, row: str) -> str:
    root = manifest.root
    picture = _thumbnail(root / example, root / mask if mask else None, len(manifest.mask_classes))
    if picture:
        picture = f'<img src="data:image/jpeg;base64,{picture}" alt="">'
    elif row or (root / example).exists():
        picture = '<div class="none">cannot be shown</div>'
    caption = "".join(f"<span>{escape(line)}</span>" for line in (row, note) if line)
    name = escape(example).replace("/", "/<wbr>").replace("_", "_<wbr>")
    return f"<figure>{picture}<figcaption><b>{name}</b>{caption}</figcaption></figure>"


def _thumbnail(path: Path, mask_path: Path | None, classes: int) -> str:
    """A small JPEG in base64, the outline of the mask in it; "" if the file is no image."""
    try:
        image = read_image(path)
    except (ImageReadError, ValueError, OSError, MemoryError):
        return ""
    height, width = image.shape[:2]
    scale = THUMBNAIL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    if mask_path:
        small = _outlined(small, mask_path, classes)
    _, jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return base64.b64encode(jpeg.tobytes()).decode()


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
