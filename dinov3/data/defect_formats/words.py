"""Words that people and tools keep for what is no class: ignored regions, background, notes on how far the work is."""

from __future__ import annotations

import re

IGNORE, BACKGROUND = "__ignore__", "__background__"  # what --map can make of a label; no class can be called so
# labelme's reserved labels and their like, without case and punctuation.
_IGNORED = {"ignore", "ignored", "ignoreregion", "ignoredregion", "dontcare", "unlabeled", "unlabelled", "忽略"}
_BACKGROUND = {"background", "背景"}
_NOTES = set(
    "reviewed review verified verify checked done finished completed complete approved confirmed validated annotated "
    "annotation labeled labelled audited inspected seen viewed edited exported imported ready qa qc".split()
)
_UNFINISHED = set("todo wip pending progress unfinished unsure uncertain difficult skip".split())
_CHINESE_NOTES, _CHINESE_UNFINISHED = (
    re.compile("已(标|检|审|核|完|确认|复)|完成|审核|复核|复查|检查"),
    re.compile("待|未(标|完)"),
)


def reserved(label: str) -> str | None:
    """``IGNORE`` or ``BACKGROUND`` for a label that tools keep for that; None for a class."""
    plain = re.sub(r"[\W_]+", "", label.casefold())
    return IGNORE if plain in _IGNORED else BACKGROUND if plain in _BACKGROUND else None


def is_note(name: str) -> bool:
    """Whether an image flag or tag tells how far the work is ('reviewed'), and no class."""
    return bool(_words(name) & _NOTES or _CHINESE_NOTES.search(name)) or is_unfinished(name)


def is_unfinished(name: str) -> bool:
    """Whether a note says that an image is still to be annotated, or that nobody knows."""
    return bool(_words(name) & _UNFINISHED or _CHINESE_UNFINISHED.search(name))


def _words(name: str) -> set[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return set(re.split(r"[\W_\d]+", spaced.casefold()))
