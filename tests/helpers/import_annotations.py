"""Annotated images as labelme, COCO tools and CVAT write them, from the formats' published descriptions."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from conftest import ROOT
from helpers.organizing import masks_by_image
from PIL import Image

from dinov3.data.defect_formats.base import ImportOptions, ImportReport, SourceImage
from dinov3.data.defect_formats.labels import resolve_labels
from dinov3.data.defect_formats.shapes import ShapeError
from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.defect_errors import DefectError

HEIGHT, WIDTH = 40, 60
SQUARE = [[10, 5], [30, 5], [30, 25], [10, 25]]  # corners of an outline that marks SQUARE_PIXELS by COCO's rule
LABELME_SQUARE = [[10, 5], [29, 5], [29, 24], [10, 24]]  # the same by labelme's, which marks the outline too
SQUARE_PIXELS = np.zeros((HEIGHT, WIDTH), bool)
SQUARE_PIXELS[5:25, 10:30] = True

# Names that files may have, and that may be in an annotation.
NAMES = ["with space", 'it\'s "quoted"', "划痕 01", "🔥", "a,b;c", "100%", "x.y.z", "-dash", "<&>"]
# Paths in an annotation that lead to a file out of the source, or to none.
ESCAPES = ["../secret.png", "..\\secret.png", "{outside}", "C:\\secret.png", "a\0b.png", "", ".", "..", "\ud800.png"]


def photo(path: Path, number: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def base64_of(content: bytes | np.ndarray, kind: str = "PNG") -> str:
    """A file, or an array as an image file, in base64."""
    if isinstance(content, np.ndarray):
        buffer = io.BytesIO()
        Image.fromarray(content).save(buffer, kind)
        content = buffer.getvalue()
    return base64.b64encode(content).decode()


def huge_png(side: int = 50_000) -> bytes:
    """A valid grey PNG of ``side`` by ``side`` pixels up to its first rows: a few kilobytes that claim gigabytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(10 * (side + 1)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def runs_of(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of 0 and 1 along the rows."""
    flat = np.concatenate([[0], mask.ravel(), [1 - mask.ravel()[-1]]])
    return np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()


# --- labelme


def labelme_shape(
    label: str = "scratch", points: object = LABELME_SQUARE, kind: str = "polygon", **more: object
) -> dict:
    base = {"label": label, "points": points, "group_id": None, "description": "", "shape_type": kind}
    return base | {"flags": {}, "mask": None} | more


def write_labelme(path: Path, *shapes: object, image: object = None, **changes: object) -> Path:
    """A JSON file for the image of its name with suffix .png, or for ``image``."""
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": path.with_suffix(".png").name if image is None else image,
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


def labelme_set(root: Path) -> Path:
    """Two images with a scratch, two clean ones."""
    for number, name in enumerate("abcd"):
        photo(root / f"{name}.png", number)
        write_labelme(root / f"{name}.json", *([labelme_shape()] if name in "ab" else []))
    return root


# --- COCO


def coco_region(image: object, outline: object = None, category: object = 1, **more: object) -> dict:
    outline = [[float(c) for corner in SQUARE for c in corner]] if outline is None else outline
    base = {"id": 1, "image_id": image, "category_id": category, "segmentation": outline}
    return base | {"bbox": [10.0, 5.0, 20.0, 20.0], "area": 400.0, "iscrowd": 0} | more


def coco_image(key: object, name: object, **more: object) -> dict:
    return {"id": key, "file_name": name, "width": WIDTH, "height": HEIGHT, "license": 1} | more


def write_coco(path: Path, images: list, annotations: list, **changes: object) -> Path:
    for number, annotation in enumerate(annotations, start=1):
        if isinstance(annotation, dict):
            annotation["id"] = number
    categories = [{"id": 1, "name": "scratch", "supercategory": "flaw"}, {"id": 2, "name": "dent"}]
    content = {"info": {"year": 2024}, "licenses": [], "images": images, "annotations": annotations}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | {"categories": categories} | changes), encoding="utf-8")
    return path


def coco_set(root: Path, images: list | None = None, annotations: list | None = None, **changes: object) -> Path:
    """Two images with a scratch, a and b; two without annotation, c and d; and what is given."""
    for number, name in enumerate("abcd"):
        photo(root / f"{name}.png", number)
    own = [coco_image(number, f"{name}.png") for number, name in enumerate("abcd")]
    regions = [coco_region(0), coco_region(1)]
    write_coco(root / "all.json", own + (images or []), regions + (annotations or []), **changes)
    return root


# --- CVAT


def element(tag: str, *inside: str, **attributes: object) -> str:
    text = "".join(f" {name}={quoteattr(str(value))}" for name, value in attributes.items())
    return f"<{tag}{text}>{''.join(inside)}</{tag}>\n"


def cvat_polygon(label: str = "scratch", points: str | None = None, **more: object) -> str:
    points = points or ";".join(f"{x:.2f},{y:.2f}" for x, y in SQUARE)
    more = {"occluded": 0, "points": points, "z_order": 0} | more
    return element("polygon", '<attribute name="depth">1</attribute>', label=label, source="manual", **more)


def cvat_image(name: str, *inside: str, **more: object) -> str:
    return element("image", *inside, **{"id": 0, "name": name, "width": WIDTH, "height": HEIGHT} | more)


def write_cvat(path: Path, *images: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = "<meta><task><id>1</id><name>parts</name><labels><label><name>scratch</name></label></labels></task></meta>"
    text = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n{meta}\n{"".join(images)}'
    path.write_text(f"{text}</annotations>\n", encoding="utf-8")
    return path


def cvat_set(root: Path, *images: str) -> Path:
    """Two images with a scratch, a and b; two tagged good, c and d; and what is given."""
    own = []
    for number, name in enumerate("abcd"):
        photo(root / "images" / f"{name}.png", number)
        own.append(cvat_image(f"{name}.png", cvat_polygon() if name in "ab" else element("tag", label="good")))
    write_cvat(root / "annotations.xml", *own, *images)
    return root


# --- running and looking


def importer(script: Callable[..., tuple[int, str, str]], output: Path) -> Callable[..., tuple[Manifest, str]]:
    """A function that imports: (format, source, flags) -> manifest, what was printed."""

    def run(kind: str, source: Path, *flags: object) -> tuple[Manifest, str]:
        arguments = ["import", kind, source, "--output_dir", output, *flags]
        status, out, err = script("prepare_defect_data", *arguments)
        assert status == 0, err
        assert "Traceback" not in err
        return read_manifest(output), out

    return run


def labels_by_image(manifest: Manifest) -> dict[str, str]:
    """{name below images/: label}."""
    names = [name.removeprefix("images/") for name in manifest.columns["image"].tolist()]
    return dict(zip(names, manifest.columns["label"].tolist(), strict=True))


def mask_of(manifest: Manifest, name: str) -> np.ndarray | None:
    return masks_by_image(manifest)[f"images/{name}"]


def survives(read: Callable, source: Path, unannotated: str = "skip") -> list[SourceImage]:
    """Read a source of arbitrary content and draw what is in it: nothing but DefectError may be raised. Returns the
    images with their classes; none if the source was refused."""
    report = ImportReport()
    try:
        samples = read(source, ImportOptions(), report)
        resolved = resolve_labels(samples, report, unannotated=unannotated, unmatched="skip")
    except DefectError:
        return []
    assert len({sample.name for sample in samples}) == len(samples)
    for sample in resolved:
        assert not Path(sample.name).is_absolute() and ".." not in Path(sample.name).parts
        if isinstance(sample.image, Path):
            assert sample.image.resolve().is_relative_to(source if source.is_dir() else source.parent)
        else:
            assert isinstance(sample.image(), bytes)
        sample.label.encode()
        for shape in sample.shapes or ():
            try:
                assert shape.draw(HEIGHT, WIDTH).shape == (HEIGHT, WIDTH)
            except ShapeError as error:
                report.skipped.append(str(error))
    "\n".join([*report.skipped, *(line for lines in report.remarks.values() for line in lines)]).encode()
    return resolved


def kill_while_importing(kind: str, source: Path, output: Path) -> None:
    """Start a real import and kill it as soon as it has written an image."""
    command = [sys.executable, ROOT / "examples" / "prepare_defect_data.py", "import", kind, source]
    command += ["--output_dir", output, "--unannotated", "normal"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not list(output.parent.glob(f".{output.name}-*/images/*")) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    assert not list(output.parent.rglob("manifest.csv"))


def many(path: Path, root: Path, count: int = 800) -> list[Path]:
    """Links to one image, so that an import takes a while."""
    links = [root / f"{number:04}.png" for number in range(count)]
    for link in links:
        os.symlink(path, link)
    return links
