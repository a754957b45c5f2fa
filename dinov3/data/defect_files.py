"""Names as people read them: macOS takes apart the accents that others write as one character."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


def one_spelling(name: str) -> str:
    """A name with each accent in one character, for comparisons; files keep the names they have."""
    return unicodedata.normalize("NFC", name)


def spelled_as(path: Path, base: Path) -> Path | None:
    """The existing file or folder at ``path`` below ``base``, whichever way its accents are written; None without."""
    if os.path.lexists(path):
        return path
    below, found = path.relative_to(base), base
    if str(below).isascii():
        return None
    for part in below.parts:
        forms = (part, one_spelling(part), unicodedata.normalize("NFD", part))
        found = next((found / form for form in forms if os.path.lexists(found / form)), None)
        if found is None:
            return None
    return found
