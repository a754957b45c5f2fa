"""Augmented copies and tiles that their file names give away, and the photograph that they come from."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from dinov3.data.defect_formats.parsing import SPLIT_NAMES

_CHANGES = (
    "aug|augment|augmented|augmentation|flip|flipped|hflip|vflip|hvflip|fliplr|flipud|flip[hvxy]|mirror|mirrored|rot|"
    "rotate|rotated|rotation|transpose|transposed|bright|brightness|brighter|dark|darker|contrast|gamma|noise|noisy|"
    "blur|blurred|gauss|gaussian|sharpen|sharpened|hue|saturation|jitter|color|colour|equalize|equalized|clahe|shear|"
    "sheared|shift|shifted|translate|translated|zoom|zoomed|scale|scaled|elastic|distorted|cutout|crop|cropped|copy|"
    "orig|original|tile|patch|window|slice"
)
_AMOUNT = r"(?:[-_]{0,2}[np]?\d{1,3}(?:\.\d+)?(?:deg)?)?"  # 90, -15, 0.5, 3
# A hash that Roboflow adds to each copy that it exports: PHOTO_jpg.rf.0123456789abcdef.jpg
_ROBOFLOW = re.compile(r"\.rf\.[0-9A-Za-z]{8,}$")
_SUFFIX = re.compile(rf"(?:(?:[._\- ]+|(?<=\d))\(?(?:{_CHANGES}){_AMOUNT}\)?)+$", re.IGNORECASE)
_PREFIX = re.compile(rf"^(?:(?:{_CHANGES}){_AMOUNT}[._\- ]+)+(?=.*\d)", re.IGNORECASE)
_NAMED_PLACE = re.compile(r"[._\-](?:x|r|row)[_\-]?(\d+)[._\-]?(?:y|c|col|column)[_\-]?(\d+)$", re.IGNORECASE)
_PLACE = re.compile(r"[._\-](\d+)[_\-x](\d+)$")
_CORNERS = re.compile(r"[._\-](\d+)_(\d+)_(\d+)_(\d+)$")  # left, top, right, bottom
LEAST_STEP = 16  # pixels from tile to tile; smaller numbers may be anything


def originals(names: Sequence[str]) -> list[str | None]:
    """The photograph that each image was made from, where its name tells; None of an image that stands for itself.

    Names that tell are Roboflow's (``PHOTO_jpg.rf.HASH``), words for a change before or behind the photograph's name
    (``PHOTO_flip``, ``PHOTO_rot90``, ``aug_3_PHOTO``) if that name has a number or is itself among the images, and the
    places of tiles (``PHOTO_x0_y512``; ``PHOTO_0_512`` where all numbers are multiples of 16, or the tiles of one
    photograph, whose name has a number, fill a grid from 0). A photograph with one image tells nothing.

    Args:
        names: ``/``-separated, with suffix.
    """
    stems = [PurePosixPath(name).stem for name in names]
    whole = set(stems)
    found = [_changed(stem, whole) for stem in stems]
    tiles: dict[str, list[int]] = defaultdict(list)
    for i, stem in enumerate(stems):
        place = _PLACE.search(stem)
        if found[i] is None and place and place.start():
            tiles[stem[: place.start()]].append(i)
    for source, rows in tiles.items():
        numbers = [tuple(map(int, _PLACE.search(stems[i]).groups())) for i in rows]
        if _are_places(numbers, has_number=any(map(str.isdigit, source))):
            for i in rows:
                found[i] = source
    # A number that comes again in another folder is another photograph, unless the folders are splits of one set, or
    # each holds other pieces of it: tiles with a defect in one, without in another.
    places = ["/".join(p for p in PurePosixPath(name).parts[:-1] if p.lower() not in SPLIT_NAMES) for name in names]
    repeated = _repeated(found, stems, places)
    sources = [
        f"{place}/{source}".lstrip("/") if source in repeated and not _ROBOFLOW.search(stem) else source
        for source, stem, place in zip(found, stems, places, strict=True)
    ]
    known = set(sources)
    for i, (stem, place) in enumerate(zip(stems, places, strict=True)):  # the photograph itself belongs to its copies
        whole_name = f"{place}/{stem}".lstrip("/") if stem in repeated else stem
        if sources[i] is None and whole_name in known:
            sources[i] = whole_name
    counts = Counter(sources)
    return [source if counts[source] > 1 else None for source in sources]


def _changed(stem: str, whole: set[str]) -> str | None:
    """The photograph's name without what an augmentation or a tiler added; None if nothing was."""
    source = _ROBOFLOW.sub("", stem)
    is_certain = source != stem
    place = _NAMED_PLACE.search(source)
    if place and place.start():
        source, is_certain = source[: place.start()], True
    corners = _CORNERS.search(source)
    if corners and corners.start():
        left, top, right, bottom = map(int, corners.groups())
        if right - left >= LEAST_STEP and bottom - top >= LEAST_STEP:
            source, is_certain = source[: corners.start()], True
    for pattern in (_SUFFIX, _PREFIX):
        shorter = pattern.sub("", source)
        if shorter and shorter != source and (shorter in whole or re.search(r"\d", shorter)):
            source, is_certain = shorter, True
    return source if is_certain else None


def _repeated(found: Sequence[str | None], stems: Sequence[str], places: Sequence[str]) -> set[str]:
    """The names of photographs that, or copies of which, are in several folders under one name: one in each."""
    folders: dict[tuple[str, str], set[str]] = defaultdict(set)
    for source, stem, place in zip(found, stems, places, strict=True):
        folders[source or stem, stem].add(place)
    return {source for (source, _), own in folders.items() if len(own) > 1}


def _are_places(places: list[tuple[int, int]], has_number: bool) -> bool:
    """Whether pairs of numbers are the places of one photograph's tiles; ``has_number``: its own name holds one."""
    if len(set(places)) < 2 or len(set(places)) < len(places):
        return False
    numbers = [number for place in places for number in place]
    if any(numbers) and all(number % LEAST_STEP == 0 for number in numbers):
        return True
    rows, columns = ({place[axis] for place in places} for axis in (0, 1))
    is_full = len(places) == len(rows) * len(columns) and min(len(rows), len(columns)) > 1
    return has_number and is_full and rows == set(range(len(rows))) and columns == set(range(len(columns)))
