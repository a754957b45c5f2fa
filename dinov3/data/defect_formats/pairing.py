"""Which files are masks, and which image each belongs to: by name and place, never by order."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from dinov3.data.defect_files import JPEG_SUFFIXES, list_images, one_spelling
from dinov3.data.defect_formats.names import plain, plain_stem

_MASK_SUFFIX = re.compile(r"[_\-. ](mask|masks|gt|label|labels|seg|annotation|ground_?truth)$", re.IGNORECASE)


def _stem(path: Path) -> str:
    return one_spelling(path.stem)


def _image_stem(path: Path) -> str:
    """The stem without ``_mask`` and the like: the name that the image has."""
    return _MASK_SUFFIX.sub("", _stem(path))


def _plain_image(path: Path) -> str:
    """The stem of an image, however it is written."""
    return plain_stem(path.name)


def _plain_mask(path: Path) -> str:
    """As :func:`_plain_image`, of the image that a mask is named after (``a_mask.png``, ``a.jpg.png``)."""
    return plain_stem(_MASK_SUFFIX.sub("", plain(path.stem)))


def tell_masks(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Split files that may share folders into images and masks: a mask is named after an image in its folder
    (``a_mask.png``, ``a.jpg.png``), or is the lossless file beside a JPEG of its stem."""
    places = {(path.parent, _stem(path)) for path in files}
    written = {(path.parent, _plain_image(path)) for path in files}
    whole = {(path.parent, plain(path.name)) for path in files}
    jpegs = {(path.parent, _stem(path)) for path in files if path.suffix.lower() in JPEG_SUFFIXES}
    images, masks = [], []
    for path in files:
        named = _image_stem(path) != _stem(path) and (
            (path.parent, _image_stem(path)) in places or (path.parent, _plain_mask(path)) in written
        )
        named = named or (path.parent, plain(path.stem)) in whole
        beside = path.suffix.lower() not in JPEG_SUFFIXES and (path.parent, _stem(path)) in jpegs
        (masks if named or beside else images).append(path)
    return images, masks


def pair_masks(images: list[Path], masks: list[Path]) -> tuple[dict[Path, Path], list[Path]]:
    """Find the mask of each image: of the same stem, or of the same stem but for an ending such as ``_mask``; else of
    such a stem written another way (:mod:`names`).

    Of several with one name, an image and a mask belong together if each is the other's nearest by the words in the
    names of their folders (``crack/imgs`` and ``crack_masks``); a mask is never given to two images.

    Returns:
        {image: mask}, and the images for which a tie left it open.
    """
    pairs: dict[Path, Path] = {}
    tied: list[Path] = []
    for image_name, mask_name in ((_stem, _stem), (_stem, _image_stem), (_plain_image, _plain_mask)):
        taken = set(pairs.values())
        free = [mask for mask in masks if mask not in taken]
        left = [image for image in images if image not in pairs]
        found, open_ones = _pair_by(image_name, mask_name, left, free)
        pairs |= found
        tied = [image for image in dict.fromkeys([*tied, *open_ones]) if image not in pairs]
    return pairs, tied


def _pair_by(
    image_name: Callable[[Path], str], mask_name: Callable[[Path], str], images: list[Path], masks: list[Path]
) -> tuple[dict[Path, Path], list[Path]]:
    images_of, masks_of = defaultdict(list), defaultdict(list)
    for image in images:
        images_of[image_name(image)].append(image)
    for mask in masks:
        masks_of[mask_name(mask)].append(mask)
    pairs, tied = {}, []
    for image in images:
        candidates = masks_of.get(image_name(image))
        if not candidates:
            continue
        mask = _nearest(image, candidates)
        owner = mask and _nearest(mask, images_of[image_name(image)])
        if mask and owner == image:
            pairs[image] = mask
        elif owner is None:
            tied.append(image)
    return pairs, tied


def _nearest(path: Path, others: Sequence[Path]) -> Path | None:
    """The file whose folders share most words with those of ``path`` and differ in fewest; None if two are equal."""
    if len(others) == 1:
        return others[0]
    own = _words(path.parent)
    score = {other: (len(own & _words(other.parent)), -len(own ^ _words(other.parent))) for other in others}
    best = max(score.values())
    nearest = [other for other in others if score[other] == best]
    return nearest[0] if len(nearest) == 1 else None


@lru_cache(maxsize=4096)
def _words(folder: Path) -> frozenset[str]:
    return frozenset(re.split(r"[\W_]+", one_spelling(str(folder.absolute())).lower()))


def masks_by_stem(folders: Sequence[Path | None]) -> dict[str, list[Path]]:
    """{stem of the image: its masks}, of ``STEM_mask.png`` or ``STEM.png``, or of all in a folder ``STEM`` (LOCO)."""
    found = defaultdict(list)
    for folder in folders:
        for path in list_images(folder) if folder and folder.is_dir() else ():
            inside = path.relative_to(folder).parts
            stem = path.stem.removesuffix("_mask") if len(inside) == 1 else inside[0]
            found[one_spelling(stem)].append(path)
    return found


def masks_for(images: Sequence[Path], masks: dict[str, list[Path]]) -> dict[Path, list[Path]]:
    """The masks of each image, taken out of :func:`masks_by_stem`; of a stem that is written another way if one image
    alone is left for it."""
    own = {image: masks.pop(_stem(image)) for image in images if _stem(image) in masks}
    written: dict[str, list[str]] = defaultdict(list)
    for stem in masks:
        written[plain_stem(_MASK_SUFFIX.sub("", plain(stem)))].append(stem)
    bare: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        if image not in own:
            bare[_plain_image(image)].append(image)
    for stem, alike in bare.items():
        if len(alike) == 1 and len(written[stem]) == 1:
            own[alike[0]] = masks.pop(written[stem][0])
    return own
