"""Passwords and tokens, which come from files: a command line is seen by everyone on a machine."""

from __future__ import annotations

from pathlib import Path

from dinov3.defect_errors import DefectError
from dinov3.defect_text import read_small

LARGEST = 10_000  # bytes


def read_secret(path: Path, flag: str) -> str:
    """The one line of a file.

    Raises:
        DefectError: it cannot be read, or is no line of text.
    """
    try:
        text = read_small(path, LARGEST).decode().strip()
    except (OSError, ValueError) as error:
        raise DefectError(f"{flag} {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not text.isprintable() or not text:
        raise DefectError(f"{flag} {path}: expected one line of text")
    return text
