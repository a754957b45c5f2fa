"""labelme's annotations: one JSON file per image, with the image in it or beside it.

The format is what labelme itself writes and reads (github.com/wkentaro/labelme, ``labelme/_label_file.py``); the
rectangles and polygons of four corners that X-AnyLabeling and newer versions write are understood too.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from dinov3.data.defect_files import JPEG_SUFFIXES
from dinov3.data.defect_formats.base import ImportOptions, ImportReport, Regions, SourceImage
from dinov3.data.defect_formats.copies import joined_entries
from dinov3.data.defect_formats.detect import expect_some
from dinov3.data.defect_formats.image_index import ImageFiles
from dinov3.data.defect_formats.labelme_flags import class_flags, set_flags
from dinov3.data.defect_formats.labelme_shapes import cut_holes, read_shape
from dinov3.data.defect_formats.parsing import (
    AnnotationError,
    ForeignFileError,
    annotation_files,
    checked_size,
    kept_splits,
    one_label,
    read_json,
    split_of,
)
from dinov3.data.defect_formats.words import is_unfinished
from dinov3.data.defect_images import FORMATS, open_image, to_rgb

_SAME = 4  # levels of grey, of 64 x 64; JPEG changes single pixels by more, but not areas


def read_labelme(source: Path, options: ImportOptions, report: ImportReport) -> list[SourceImage]:
    """The images below a folder, and those that its JSON files embed.

    - A JSON file without shapes says that the image is clean; an image without a JSON file is not annotated.
    - A flag of the image that is set is its class if :func:`class_flags` says so; if several are, its shapes decide,
      and without shapes it is skipped.
    - What is marked in several files for one image counts together.
    - labelme has no splits; top folders that are all called train, val or test are taken as such.

    Raises:
        DefectError: no labelme file can be used.
    """
    source = Path(os.path.abspath(source))
    root = source if source.is_dir() else source.parent
    images = ImageFiles(options.images, root)
    files = annotation_files(source, ".json")
    splits = _folder_splits(files, root)
    broken: list[Path] = []
    found: dict[Path, _Found] = {}
    for file in files:
        try:
            found[file] = one = _read_file(file, root, splits, options, report)
            if one.suffix is None or images.exact(one.path, file.parent):
                images.expect(one.path, file.parent)
        except AnnotationError as error:
            report.skipped.append(f"{file}: {error}")
            broken += [file] * (not isinstance(error, ForeignFileError))
    classes = class_flags({file: (one.sample, one.flags) for file, one in found.items()}, options, report)
    samples = []
    for file, one in found.items():
        try:
            sample = _with_class(one, classes, str(file), report)
            image, name = _find_image(file, one, root, images)
            samples.append(replace(sample, image=image, name=name))
        except AnnotationError as error:
            report.skipped.append(f"{file}: {error}")
            broken.append(file)
    expect_some(samples, source, "labelme", "a folder of labelme JSON files", report)
    for file in broken:
        for path in (alike := images.called_like(file)):
            images.owners.setdefault(path, "a file that cannot be used")  # so it is not one that nobody annotated
        if not alike and (file not in found or found[file].sample.shapes or found[file].flags):
            report.lost.append(str(file))
    samples = joined_entries(samples, report)
    for path in images.left():
        split = splits.get(path.relative_to(root).parts[0]) if path.is_relative_to(root) else None
        samples.append(SourceImage(path, images.names[path], root.name, split=split))
    return kept_splits(samples, report)


def _folder_splits(files: list[Path], root: Path) -> dict[str, str]:
    """{top folder: split}, if every file lies in a folder named after a split."""
    tops = {file.relative_to(root).parts[0] for file in files}
    splits = {top: split_of(top) for top in tops if (root / top).is_dir()}
    return {top: split for top, split in splits.items() if split} if all(map(splits.get, tops)) else {}


class _Found(NamedTuple):
    """What a file says.

    Attributes:
        sample: with the file's own path in place of the image, which is looked for when all files are known.
        path: ``imagePath``, whatever that is.
        suffix: of the image that it embeds; None if it embeds none.
        flags: of the image, that are set.
    """

    sample: SourceImage
    path: object
    suffix: str | None
    flags: tuple[str, ...]


def _read_file(file: Path, root: Path, splits: dict[str, str], options: ImportOptions, report: ImportReport) -> _Found:
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise ForeignFileError("not a labelme file, it has no list of shapes")
    regions = Regions(str(file), report)
    size = checked_size(content.get("imageWidth")), checked_size(content.get("imageHeight"))
    entries = []
    for number, shape in enumerate(content["shapes"], start=1):
        regions.place = f"{file}, shape {number}"
        regions.add(read_shape, shape, size, options.line_width)
        entries += [shape] * (len(regions.shapes) - len(entries))
    folder = file.relative_to(root).parent
    sample = SourceImage(
        file,
        file.name,
        root.name if folder == Path() else folder.as_posix(),
        shapes=cut_holes(list(zip(regions.shapes, entries, strict=True))),
        split=splits.get(file.relative_to(root).parts[0]),
        whole=regions.whole,
    )
    suffix = _embedded_suffix(content) if content.get("imageData") else None
    return _Found(sample, content.get("imagePath"), suffix, set_flags(content.get("flags")))


def _with_class(found: _Found, classes: set[str], place: str, report: ImportReport) -> SourceImage:
    """The image with the class that its flags say; one that is still to be annotated is not clean."""
    label = one_label(classes & set(found.flags), bool(found.sample.shapes), "flags", place, report)
    if label is None and not found.sample.shapes and any(map(is_unfinished, set(found.flags) - classes)):
        return replace(found.sample, shapes=None)
    return replace(found.sample, label=label)


def _find_image(file: Path, named: _Found, root: Path, images: ImageFiles) -> tuple[Path | Callable[[], bytes], str]:
    """The image at ``imagePath``; else the one beside the JSON file and called like it; else the embedded; else one
    called like ``imagePath`` elsewhere, which comes before the embedded one only if it is the same picture."""
    path = images.exact(named.path, file.parent)
    beside = [path for path in images.called_like(file) if path.parent == file.parent]
    if path is None or _of_another(path, file):
        path = beside[0] if len(beside) == 1 else None
    elif path.parent == file.parent and beside and path not in beside:
        images.owners.setdefault(path, str(file))
        raise AnnotationError(f"its image is {path.name} by its imagePath, {beside[0].name} by its own name: which?")
    if path is None:
        try:
            path = images.find(named.path, file.parent)
            if _of_another(path, file):
                raise AnnotationError(f"its image is missing; {path} belongs to the JSON file beside that")
        except AnnotationError:
            if named.suffix is None:
                raise
            path = None
        if named.suffix and (path is None or not _same_picture(path, _embedded(file))):
            return _embedded(file), images.unused(file.relative_to(root).with_suffix(named.suffix).as_posix())
    return path, images.take(path, str(file))


def _of_another(image: Path, file: Path) -> bool:
    """Whether an image in another folder has a JSON file of its own."""
    return image.parent != file.parent and image.with_suffix(".json").is_file()


def _same_picture(image: Path, embedded: Callable[[], bytes]) -> bool:
    """Whether an image file is what a JSON file embeds, which labelme writes anew; False if that cannot be told."""
    try:
        one = to_rgb(open_image(image))
        with Image.open(io.BytesIO(embedded()), formats=FORMATS) as other:
            if set(other.size) != set(one.size):  # checked before its pixels take memory
                return False
            other = to_rgb(ImageOps.exif_transpose(other))
    except Exception:  # Pillow raises many types on damaged files
        return False
    small = [np.asarray(picture.convert("L").resize((64, 64)), int) for picture in (one, other)]
    return one.size == other.size and np.abs(small[0] - small[1]).max() <= _SAME


def _embedded_suffix(content: dict) -> str:
    """What labelme embeds is a PNG or a JPEG, whatever ``imagePath`` is."""
    jpeg = str(content["imageData"]).startswith("/9j/")  # the first bytes of a JPEG, in base64
    suffix = Path(str(content.get("imagePath"))).suffix.lower()
    return (suffix if suffix in JPEG_SUFFIXES else ".jpg") if jpeg else ".png"


def _embedded(file: Path) -> Callable[[], bytes]:
    """Reads the image again when it is wanted, so that not all are in memory; no bytes if it is none."""

    def read() -> bytes:
        try:
            return base64.b64decode(read_json(file)["imageData"])
        except (AnnotationError, ValueError, TypeError, KeyError):
            return b""

    return read
