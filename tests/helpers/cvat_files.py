"""CVAT sources with one image more."""

from __future__ import annotations

from helpers.import_annotations import (
    cvat_image,
    cvat_set,
    element,
    photo,
)

GOOD = ("--normal", "good")


def with_image(root, *inside: str, **more: object):
    """:func:`cvat_set`, and an image e with these elements."""
    photo(root / "images" / "e.png", 9)
    return cvat_set(root, cvat_image("e.png", *inside, **more))


def dent(tag: str, **attributes: object) -> str:
    return element(tag, label="dent", source="manual", occluded=0, **attributes, z_order=0)
