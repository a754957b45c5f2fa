"""Names of files and classes as people see them: no character of theirs moves a cursor, starts a formula or a new line.

Files keep the names they have, in ``predictions.json`` and in datasets; what is here is for terminals, tables in
spreadsheets, and pictures.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# Control characters (C0, DEL, C1), line and paragraph separators, and those that change the direction of text, by which
# a name can look like another one. Terminals obey the first ones.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001  spreadsheets take the wide ones alike


def on_a_line(text: str) -> str:
    """A name with each control character as its escape, such as ``\\x1b`` or ``\\n``."""
    return _CONTROLS.sub(lambda found: _escaped(found[0]), text)


def in_figure(text: str) -> str:
    """A name for matplotlib, to which what stands between two dollar signs is a formula."""
    return on_a_line(text).replace("$", r"\$")


def spreadsheet_cell(value: Any) -> Any:
    """A value for a table: a text that a spreadsheet would take for a formula gets a ``'`` before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


@contextmanager
def safe_terminal() -> Iterator[None]:
    """What is printed in this context, to stdout and stderr, has control characters as escapes, but for line breaks and
    tabs, and for the return to the start of a line that a progress bar begins with."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Escaping, streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


class _Escaping:
    """A stream that writes text as :func:`safe_terminal` says; all else is as that stream does it."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        start = len(text) - len(text.lstrip("\r"))
        self._stream.write(text[:start] + _CONTROLS.sub(lambda found: _kept(found[0]), text[start:]))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _kept(character: str) -> str:
    return character if character in "\n\t" else _escaped(character)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
