"""YOLO datasets: ``data.yaml``, and beside the images one text file each with outlines of 0 to 1, or boxes."""

from __future__ import annotations

from pathlib import Path

from dinov3.data.defect_formats.base import ImportOptions, ImportReport, SourceImage
from dinov3.data.defect_formats.parsing import AnnotationError, kept_splits
from dinov3.data.defect_formats.shapes import Shape
from dinov3.data.defect_formats.yolo_description import absolute, listed_images, open_places, read_description
from dinov3.data.defect_formats.yolo_labels import LabelFiles, expect_outlines, read_labels
from dinov3.defect_errors import DefectError


def read_yolo(source: Path, options: ImportOptions, report: ImportReport) -> list[SourceImage]:
    """A dataset as Ultralytics describes it (docs.ultralytics.com/datasets/segment).

    ``source`` is the YAML file or its folder. Its train, val and test are folders, lists of folders, or text files of
    image paths. The labels of ``images/a.jpg`` are in ``labels/a.txt``; an empty file says that nothing is there, and
    an image without a file is not annotated. Labels lie in the folder of the description, or else in
    ``options.images``, or beside it if that is ``images`` itself. Nothing outside of these is read. Of a pose set
    (``kpt_shape``) the boxes are drawn.

    Raises:
        DefectError: no readable ``data.yaml``, no image is found by it, or its labels are of another kind than it says.
    """
    description = read_description(absolute(source))
    folder = description.path.parent
    roots = [folder] if options.images is None else [absolute(options.images), folder]
    places = open_places(description, roots, report)
    homes = [(folder, ""), *((root, "") for root in roots[:-1])]
    homes += [(root.parent, root.name) for root in roots[:-1] if root.name == "images"]
    splits: dict[Path, str] = {}
    names: dict[Path, str] = {}
    taken: dict[str, Path] = {}
    for split, path in listed_images(description, places, report):
        if path in splits:
            if (first := splits[path]) != split:
                report.remarks["images in two splits; the first counts"].append(f"{path}: {first} and {split}")
            continue
        name = path.relative_to(next(root for root in roots if path.is_relative_to(root))).as_posix()
        if taken.setdefault(name, path) != path:
            report.skipped.append(f"{path}: {taken[name]} has the same name")
            continue
        splits[path], names[path] = split, name
    if not splits and not report.skipped:
        raise DefectError(
            f"{description.path}: no images where its train, val and test say; give their folder as --images"
        )
    labels = LabelFiles(names, homes, description)
    expect_outlines((path for files in labels.of.values() for path in files), description)
    samples = []
    for path, name in names.items():
        shapes: tuple[Shape, ...] | None = None
        whole = True
        files = labels.of.get(path, [])
        if len(files) > 1:
            kind = "images with several label files; what is marked in any of them counts"
            report.remarks[kind].append(f"{path}: {', '.join(map(str, files))}")
        try:
            for file in files:
                regions = read_labels(file, description, report)
                shapes, whole = (*(shapes or ()), *regions.shapes), whole and regions.whole
        except AnnotationError as error:
            report.skipped.append(f"{path}: {file}: {error}")
            continue
        samples.append(SourceImage(path, name, folder.name, shapes=shapes, split=splits[path], whole=whole))
    report.remark("label files named another way than their image", labels.odd)
    report.remark("label files without an image; skipped", [*labels.orphans, *labels.empty])
    report.lost += map(str, labels.orphans)
    return kept_splits(samples, report)
