"""What a source of annotated images says, in one form for all formats, and what its labels are called in a dataset."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from dinov3.data.defect_formats.shapes import EmptyShapeError, Shape, ShapeError
from dinov3.defect_errors import DefectError

NORMAL = "normal"
REGION_NOT_DRAWN = "a region cannot be drawn; the image is imported with its class alone"
WITHOUT_MASK = "defect images without a mask; they train the class alone"
MASK_WITHOUT_IMAGE = "masks that no image takes; skipped"


@dataclass(frozen=True)
class SourceImage:
    """One image as a source describes it.

    Attributes:
        image: the file; or a function that returns the bytes of one that an annotation file embeds.
        name: where it goes below ``images/``, ``/``-separated; one name, one image.
        source: the folder, file or category it came from.
        label: its class; None leaves it to the regions, and ``UNKNOWN`` says that nobody gave a verdict.
        mask: a mask file, non-zero where defective.
        shapes: its annotated regions; () when looked at and found without any, None when not annotated by regions.
        split: the source's own: train, val, test, or None.
        whole: False when a region was lost, so that the others would not make a mask.
    """

    image: Path | Callable[[], bytes]
    name: str
    source: str
    label: str | None = None
    mask: Path | None = None
    shapes: tuple[Shape, ...] | None = None
    split: str | None = None
    whole: bool = True

    @property
    def place(self) -> str:
        """What to call the image in a message."""
        return str(self.image) if isinstance(self.image, Path) else f"{self.name} (embedded image)"


@dataclass
class ImportReport:
    """What an import had to skip or repair: lines that name the file, by kind of problem."""

    skipped: list[str] = field(default_factory=list)  # images that are not in the dataset
    remarks: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # the rest, by kind
    notes: list[str] = field(default_factory=list)  # what the reader chose, of the source as a whole

    def remark(self, kind: str, lines: Iterable[object]) -> None:
        """Add remarks of one kind, if there are any."""
        if lines := [str(line) for line in lines]:
            self.remarks[kind] += lines


@dataclass(frozen=True)
class ImportOptions:
    """What every importer takes.

    Attributes:
        images: where the images lie, if apart from the annotations.
        line_width: in pixels, of lines and points, which have no area of their own.
        normal: labels that mean a good part, for a reader that has to find their images.
    """

    images: Path | None = None
    line_width: int = 3
    normal: tuple[str, ...] = ()


class Regions:
    """Collects the regions of one image; a broken one is reported, never raised."""

    def __init__(self, place: str, report: ImportReport):
        self.place, self.report = place, report
        self.shapes: list[Shape] = []
        self.broken = self.empty = False

    @property
    def whole(self) -> bool:
        """Whether the shapes are all that was marked. If nothing but regions without area was, they are not: whoever
        made them saw something there."""
        return not self.broken and (bool(self.shapes) or not self.empty)

    def add(self, make: Callable[..., Shape], *args: object) -> None:
        """Add ``make(*args)``; a region without area is skipped, any other trouble makes the mask incomplete."""
        try:
            self.shapes.append(make(*args))
        except EmptyShapeError as error:
            self.empty = True
            self.report.remarks["region without area; skipped"].append(f"{self.place}: {error}")
        except (ShapeError, ValueError, TypeError, KeyError, OverflowError) as error:
            self.broken = True
            self.report.remarks[REGION_NOT_DRAWN].append(f"{self.place}: {error}")


def resolve_labels(
    samples: Iterable[SourceImage],
    report: ImportReport,
    *,
    mapping: dict[str, str] | None = None,
    normal: Sequence[str] = (),
    unannotated: Literal["skip", "normal"] = "skip",
) -> list[SourceImage]:
    """Give every image its class, in the names that the dataset will use.

    An image without a class of its own gets that of its regions, the largest in sum of area if they differ. Regions
    with a label of ``normal`` mark nothing.

    Args:
        samples: as the source describes them.
        report: collects the images that are skipped.
        mapping: {label in the source: class in the dataset}.
        normal: labels, after mapping, that mean normal, beside 'normal' itself.
        unannotated: what to do with images that nobody annotated.

    Raises:
        DefectError: a label to map is nowhere in the source.
    """
    samples, mapping = list(samples), mapping or {}
    found = {s.label for s in samples if s.label} | {shape.label for s in samples for shape in s.shapes or ()}
    strangers = sorted(set(mapping) - found)
    if strangers:
        names = ", ".join(sorted(found)) or "none"
        raise DefectError(f"--map {strangers[0]}={mapping[strangers[0]]}: no such label; found: {names}")
    unknown_normal = sorted(set(normal) - found - {mapping.get(name) for name in found} - {NORMAL})
    if unknown_normal:
        names = ", ".join(sorted(found)) or "none"
        raise DefectError(f"--normal {unknown_normal[0]}: no such label; found: {names}")

    def final(label: str) -> str:
        label = mapping.get(label, label)
        return NORMAL if label in normal else label

    resolved = []
    for sample in samples:
        shapes = sample.shapes
        if shapes is not None:
            renamed = (replace(shape, label=final(shape.label)) for shape in shapes)
            shapes = tuple(shape for shape in renamed if shape.label != NORMAL)
        if sample.label is not None:
            label = final(sample.label)
        elif shapes is None and sample.mask is None:
            if unannotated == "skip":
                report.skipped.append(f"{sample.place}: not annotated (--unannotated normal takes it as normal)")
                continue
            label = NORMAL
        elif not shapes:
            if not sample.whole:
                report.skipped.append(f"{sample.place}: none of its regions can be used, so its class is not known")
                continue
            label = NORMAL
        else:
            areas: Counter[str] = Counter()
            for shape in shapes:
                areas[shape.label] += max(shape.area, 1e-9)
            label = max(sorted(areas), key=areas.__getitem__)
        resolved.append(replace(sample, label=label, shapes=shapes))
    return resolved
