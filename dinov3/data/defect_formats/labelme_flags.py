"""labelme's image flags: classes of whole images, or notes on how far the work is ('reviewed')."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from dinov3.data.defect_formats.base import ImportOptions, ImportReport, SourceImage
from dinov3.data.defect_formats.parsing import AnnotationError, checked_label, shown
from dinov3.data.defect_formats.shapes import ShapeError
from dinov3.data.defect_formats.words import is_note
from dinov3.defect_errors import DefectError


def set_flags(flags: object) -> tuple[str, ...]:
    """The names of the flags that are set.

    Raises:
        AnnotationError: not flags, or with a name that no class could have.
    """
    if not flags:
        return ()
    if not isinstance(flags, dict):
        raise AnnotationError(f"flags are {shown(flags)}; expected names with true or false")
    try:
        return tuple(checked_label(name) for name, value in flags.items() if value is True)
    except ShapeError as error:
        raise AnnotationError(f"its flags have {error}") from None


def class_flags(
    found: Mapping[Path, tuple[SourceImage, tuple[str, ...]]], options: ImportOptions, report: ImportReport
) -> set[str]:
    """Which flags are classes: those that the user says, or that are labels of shapes too.

    Words of bookkeeping are notes. So is any other flag where each image that has it has shapes, which tell the class.

    Args:
        found: {JSON file: (what it says, its flags that are set)}.
        options: what the user says.
        report: says which flags are notes.

    Raises:
        DefectError: images without shapes have a flag that could be either: as a note they would be good parts.
    """
    labels = {shape.label for sample, _ in found.values() for shape in sample.shapes or ()}
    known = labels | {*options.flag_classes, *options.mapped, *options.normal}
    files: dict[str, list[Path]] = defaultdict(list)
    bare: dict[str, list[Path]] = defaultdict(list)
    for file, (sample, names) in found.items():
        for name in names:
            files[name].append(file)
            if not sample.shapes:
                bare[name].append(file)
    for name in sorted({*options.flag_classes, *options.flag_notes} - set(files)):
        flag = "--flag_classes" if name in options.flag_classes else "--flag_notes"
        raise DefectError(f"{flag} {name}: no image has this flag set; found: {', '.join(sorted(files)) or 'none'}")
    notes = {name for name in files if name in options.flag_notes or (name not in known and is_note(name))}
    unclear = {name for name in bare if name not in known | notes}
    if unclear:
        names = ", ".join(f"{name} ({len(files[name])} images)" for name in sorted(unclear))
        first = bare[min(unclear)][0]
        raise DefectError(
            f"{first}: image flags {names}: are they classes, or notes on the work? Nothing is drawn in "
            f"{len({file for name in unclear for file in bare[name]})} of these images: as notes they are good parts. "
            f"Say --flag_classes {' '.join(sorted(unclear))} or --flag_notes {' '.join(sorted(unclear))}"
        )
    for name in sorted(files):
        if name in notes or name not in known:
            where = f"in {len(files[name])} images"
            report.notes.append(f"image flag {name}: taken as a note, {where}; --flag_classes {name} makes it a class")
    return set(files) & known - notes
