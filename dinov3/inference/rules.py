"""Limits on an image's defect regions from a small YAML file: what may be there, how large, and where."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from dinov3.data.defect_files import JPEG_SUFFIXES
from dinov3.data.defect_formats.shapes import ShapeError, polygon
from dinov3.data.defect_images import ImageReadError, open_image
from dinov3.defect_errors import DefectError
from dinov3.defect_text import decode_text, read_small
from dinov3.defect_yaml import LARGEST, load_yaml
from dinov3.inference.reasons import Cause
from dinov3.inference.regions import Region, measure_regions

VERDICT_MODES = ("both", "rules")
KEYS = ("verdict", "limits", "classes", "ignore_zones", "regions_of_interest")
LIMITS = (
    "max_area", "max_area_mm2", "max_length", "max_length_mm", "max_width", "max_width_mm",
    "max_total_area", "max_total_area_mm2", "max_total_fraction", "max_count",
)  # fmt: skip
Zone = np.ndarray  # (n, 2) float corners x, y in pixels, or as fractions of the image if all are at most 1; or a mask


@dataclass(frozen=True)
class RuleOutcome:
    """What the rules say of an image.

    Attributes:
        passed: no rule fired.
        fired: each rule that did, with its numbers (kinds ``rule`` and ``nothing_left`` of
            :mod:`~dinov3.inference.reasons`).
        alone: the rules decide without the classifier.
    """

    passed: bool
    fired: list[Cause]
    alone: bool = False


@dataclass(frozen=True)
class Limit:
    """The most that is allowed of one measure, for regions of one class or (None) of all together."""

    key: str
    most: float
    class_name: str | None

    def check(self, regions: Sequence[Region], pixels: int, mm_per_pixel: float | None) -> Cause | None:
        """What is told if the regions of an image of so many pixels break this limit."""
        regions = [region for region in regions if self.class_name in (None, region.class_name)]
        scale = (mm_per_pixel or 1.0) if self.key.endswith("_mm") else 1.0
        scale = (mm_per_pixel or 1.0) ** 2 if self.key.endswith("_mm2") else scale
        measure = self.key.removeprefix("max_").removesuffix("_mm2").removesuffix("_mm")
        if measure == "count":
            values = [float(len(regions))]
        elif measure.startswith("total"):
            values = [sum(region.area for region in regions) * scale / (pixels if measure == "total_fraction" else 1)]
        else:
            values = [getattr(region, measure) * scale for region in regions]
        over = [value for value in values if not value <= self.most]  # NaN is no size within a limit
        if not over:
            return None
        return {
            "kind": "rule",
            "rule": self.key,
            "class": self.class_name,
            "value": float(max(over)),
            "most": self.most,
            "regions": len(over),
        }


@dataclass
class Rules:
    """Limits and zones; :meth:`from_yaml` reads them, :meth:`apply` judges an image."""

    classes: list[str]
    limits: list[Limit] = field(default_factory=list)
    alone: bool = False
    ignore_zones: list[Zone] = field(default_factory=list)
    regions_of_interest: list[Zone] = field(default_factory=list)
    _keep: np.ndarray | None = field(default=None, init=False, repr=False)  # of the last image's size

    @classmethod
    def from_yaml(cls, path: Path | str, classes: Sequence[str]) -> Rules:
        """Read a rules file (``examples/rules_example.yaml`` explains every key).

        Args:
            path: the file; the paths of mask images in it are relative to its folder.
            classes: the mask classes, which regions are named by.

        Raises:
            DefectError: unreadable, or with unknown keys or classes or wrong values; all of them are named, with what
                was found and what is expected.
        """
        reader = _Reader(Path(path), list(classes))
        return reader.rules(reader.load())

    @classmethod
    def from_table(cls, table: Mapping[str, Any], classes: Sequence[str], source: str) -> Rules:
        """As :meth:`from_yaml`, from the content of such a file, found in ``source``; zones cannot be mask images.

        Raises:
            DefectError: likewise.
        """
        return _Reader(Path(source), list(classes), has_folder=False).rules(table)

    def check_scale(self, mm_per_pixel: float | None) -> None:
        """Raises DefectError if a limit is in millimetres and ``mm_per_pixel`` is not given."""
        needing = [limit for limit in self.limits if limit.key.endswith(("_mm", "_mm2"))] if not mm_per_pixel else []
        if needing:
            names = ", ".join(limit.key + (f" of {limit.class_name}" if limit.class_name else "") for limit in needing)
            raise DefectError(
                f"--rules limits {names}, but --mm_per_pixel is not given; pass the size of a pixel, such as "
                "--mm_per_pixel 0.05, or give the limits in pixels"
            )

    def keep(self, shape: tuple[int, int]) -> np.ndarray | None:
        """(H, W) bool, the pixels of an image (height, width) that count: in a region of interest, if there are any,
        and in no ignore zone. None: all."""
        if not self.ignore_zones and not self.regions_of_interest:
            return None
        keep = self._keep  # threads may ask for different sizes at the same time
        if keep is None or keep.shape != tuple(shape):
            keep = _draw(self.regions_of_interest, shape) if self.regions_of_interest else np.ones(shape, bool)
            self._keep = keep = keep & ~_draw(self.ignore_zones, shape)
        return keep

    def apply(self, regions: Sequence[Region], mask: np.ndarray, mm_per_pixel: float | None = None) -> RuleOutcome:
        """Judge an image.

        Args:
            regions: of ``mask``, as :func:`~dinov3.inference.regions.find_regions` gives them.
            mask: (H, W) uint8 of 0 or mask class + 1. Where it marks pixels that do not count (:meth:`keep`), they
                are cleared and the regions measured again on the rest.
            mm_per_pixel: the size of a pixel; needed for limits in millimetres.

        Raises:
            DefectError: a limit is in millimetres and ``mm_per_pixel`` is None.
        """
        self.check_scale(mm_per_pixel)
        keep = self.keep(mask.shape)
        if keep is not None and not keep.any():  # a mistake in the file must not accept everything
            nothing = {"kind": "nothing_left", "width": mask.shape[1], "height": mask.shape[0]}
            return RuleOutcome(False, [nothing], self.alone)
        if keep is not None and mask[~keep].any():
            mask = mask * keep
            regions = measure_regions(mask, self.classes, keep.astype(np.float32))
        causes = [limit.check(regions, mask.size, mm_per_pixel) for limit in self.limits]
        fired = [cause for cause in causes if cause is not None]
        return RuleOutcome(not fired, fired, self.alone)


def _draw(zones: Sequence[Zone], shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, the inside of any zone."""
    canvas = np.zeros(shape, bool)
    for zone in zones:
        if zone.dtype == np.uint8:
            canvas |= cv2.resize(zone, shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
        else:
            canvas |= polygon("zone", zone * shape[::-1] if zone.max() <= 1 else zone).draw(*shape)
    return canvas


class _Reader:
    """Reads a rules file and collects what is wrong with it."""

    def __init__(self, path: Path, classes: list[str], has_folder: bool = True):
        self.path, self.classes, self.has_folder = path, classes, has_folder
        self.problems: list[str] = []

    def rules(self, content: Mapping[Any, Any]) -> Rules:
        """Of a file's content."""
        self._check_keys("", content, KEYS)
        mode = content.get("verdict", "both")
        if mode not in VERDICT_MODES:
            self._wrong("verdict", mode, "both or rules", mode, VERDICT_MODES)
        limits = self._limits("limits", content.get("limits"), None)
        per_class = self._table("classes", content.get("classes"), "a table of mask classes, each with its limits")
        self._check_keys("classes", per_class, self.classes)
        for name, table in per_class.items():
            limits += self._limits(f"classes.{name}", table, name)
        zones = [self._zones(key, content.get(key)) for key in ("ignore_zones", "regions_of_interest")]
        if mode == "rules" and not limits and not self.problems:
            self.problems.append("verdict: rules alone would accept every image; expected at least one limit")
        if self.problems:
            count = f"{len(self.problems)} problem{'' if len(self.problems) == 1 else 's'}"
            raise DefectError("\n  ".join([f"{self.path}: {count} in the rules", *self.problems]))
        return Rules(self.classes, limits, mode == "rules", *zones)

    def load(self) -> dict[Any, Any]:
        """The file's content."""
        try:
            content, twice = load_yaml(decode_text(read_small(self.path, LARGEST)))
        except FileNotFoundError:
            raise DefectError(f"--rules {self.path}: no such file") from None
        except OSError as error:
            raise DefectError(f"--rules {self.path}: cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise DefectError(f"--rules {self.path}: not readable YAML ({' '.join(str(error).split())})") from None
        if not isinstance(content, dict):
            raise DefectError(f"--rules {self.path}: no table of keys; expected some of {', '.join(KEYS)}")
        self.problems += twice
        return content

    def _wrong(self, key: str, found: object, expected: str, word: object = None, known: Sequence[str] = ()) -> None:
        close = difflib.get_close_matches(str(word), known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        self.problems.append(f"{key}: found {found!r}, expected {expected}{hint}")

    def _check_keys(self, place: str, table: Mapping[Any, Any], known: Sequence[str]) -> None:
        for key in table:
            if key not in known:
                name = f"{place}.{key}" if place else str(key)
                self._wrong(name, key, f"one of {', '.join(known)}", key, known)

    def _table(self, place: str, found: object, expected: str) -> dict[Any, Any]:
        if found is None:
            return {}
        if not isinstance(found, dict):
            self._wrong(place, found, expected)
            return {}
        return found

    def _limits(self, place: str, found: object, class_name: str | None) -> list[Limit]:
        table = self._table(place, found, f"a table of limits such as {LIMITS[0]}: 400")
        self._check_keys(place, table, LIMITS)
        limits = []
        for key, value in table.items():
            if key not in LIMITS:
                continue
            top = 1.0 if key == "max_total_fraction" else math.inf
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= top
            if key == "max_count" and not (number and float(value).is_integer()):
                self._wrong(f"{place}.{key}", value, "a whole number from 0")
            elif not number or value == math.inf:
                self._wrong(f"{place}.{key}", value, "a number from 0 to 1" if top == 1 else "a number from 0")
            else:
                limits.append(Limit(key, float(value), class_name))
        return limits

    def _zones(self, place: str, found: object) -> list[Zone]:
        expected = "a list of zones, each a list of corners [x, y] or the path of a mask image"
        if found is None:
            return []
        if not isinstance(found, list):
            self._wrong(place, found, expected)
            return []
        zones = [self._zone(f"{place}[{number}]", zone) for number, zone in enumerate(found, start=1)]
        return [zone for zone in zones if zone is not None]

    def _zone(self, place: str, found: object) -> Zone | None:
        if isinstance(found, str) and self.has_folder:
            try:
                return _not_zero(open_image(self.path.parent / found), found.lower().endswith(JPEG_SUFFIXES))
            except ImageReadError as error:
                self._wrong(place, found, f"a mask image, not zero inside the zone ({error})")
                return None
        try:
            corners = np.array(found, dtype=float)
            if corners.ndim != 2 or corners.shape[1] != 2 or not (corners >= 0).all():
                raise ValueError
            polygon("zone", corners)
            return corners
        except (ValueError, TypeError, ShapeError):
            expected = (
                "three or more corners [x, y] that enclose an area, in pixels or as fractions 0 to 1 of the image"
            )
            self._wrong(place, found, expected)
            return None


def _not_zero(image: Image.Image, lossy: bool) -> np.ndarray:
    """(H, W) uint8, 1 where a zone's file is neither black nor transparent (nor nearly black in a JPEG), and, in a file
    with a palette, not its first colour."""
    if len(image.getbands()) == 1:
        return (np.asarray(image) > (16 if lossy else 0)).astype(np.uint8)
    values = np.asarray(image.convert("RGBA"))
    return ((values[..., :3] > (16 if lossy else 0)).any(axis=2) & (values[..., 3] > 0)).astype(np.uint8)
