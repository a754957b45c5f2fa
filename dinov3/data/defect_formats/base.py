"""What a source of annotated images says, in one form for all formats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dinov3.data.defect_formats.shapes import EmptyShapeError, Shape, ShapeError, UnknownShapeError, vague_region

NORMAL = "normal"
REGION_NOT_DRAWN = "a region cannot be drawn; the image is imported with its class alone"
WITHOUT_MASK = "defect images without a mask; they train the class alone"
VAGUE = "a region of a form that cannot be drawn; it tells the class, its surroundings are ignored"
MASK_WITHOUT_IMAGE = "masks that no image takes; skipped"


@dataclass(frozen=True)
class SourceImage:
    """One image as a source describes it.

    Attributes:
        image: the file; or a function that returns the bytes of one that an annotation file embeds.
        name: where it goes below ``images/``, ``/``-separated; one name, one image.
        source: the folder, file or category it came from.
        label: its class; None leaves it to the regions, and ``UNKNOWN`` says that nobody gave a verdict.
        masks: mask files; defective is what any of them marks.
        shapes: its annotated regions; () when looked at and found without any, None when not annotated by regions.
        split: the source's own: train, val, test, or None.
        whole: False when a region was lost, so that the others would not make a mask.
    """

    image: Path | Callable[[], bytes]
    name: str
    source: str
    label: str | None = None
    masks: tuple[Path, ...] = ()
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
    lost: list[str] = field(default_factory=list)  # annotations that mark something, and found no image
    labels: set[str] = field(default_factory=set)  # of images that are skipped
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
        mapped: labels that the user renames, which are therefore labels.
        flag_classes: names of image flags that are classes.
        flag_notes: names of image flags that are notes, and no classes.
    """

    images: Path | None = None
    line_width: int = 3
    normal: tuple[str, ...] = ()
    mapped: tuple[str, ...] = ()
    flag_classes: tuple[str, ...] = ()
    flag_notes: tuple[str, ...] = ()


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
        """Add ``make(*args)``; a region without area is skipped, of one of an unknown form the surroundings are
        ignored, any other trouble makes the mask incomplete."""
        try:
            self.shapes.append(make(*args))
        except UnknownShapeError as error:
            self.shapes.append(vague_region(error.label, error.points))
            self.report.remarks[VAGUE].append(f"{self.place}: {error}")
        except EmptyShapeError as error:
            self.empty = True
            self.report.remarks["region without area; skipped"].append(f"{self.place}: {error}")
        except (ShapeError, ValueError, TypeError, KeyError, OverflowError) as error:
            self.broken = True
            self.report.remarks[REGION_NOT_DRAWN].append(f"{self.place}: {error}")
