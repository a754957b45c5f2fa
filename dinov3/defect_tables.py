"""CSV tables that people open in a spreadsheet and programs read."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from dinov3.defect_display import spreadsheet_cell


class TableWriter:
    """Writes a table row by row, in UTF-8; a context.

    A byte order mark comes before it as soon as it holds a character that is not ASCII: without one, Excel takes the
    file for the system's old encoding. A table in plain ASCII has none, as programs would take it for a part of the
    first column's name. Texts that a spreadsheet would take for formulas get a ``'`` before them.

    Args:
        path: of the file; what is there is replaced.
        columns: their names; values that a row lacks stay empty, and others in it are skipped.
    """

    def __init__(self, path: Path, columns: Sequence[str]):
        self.columns = list(columns)
        self._file = path.open("w+b")
        self._has_mark = False
        self.write(dict(zip(self.columns, self.columns, strict=True)))

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        line = io.StringIO(newline="")
        csv.writer(line).writerow([spreadsheet_cell(row.get(name, "")) for name in self.columns])
        text = line.getvalue()
        if not self._has_mark and not text.isascii():
            self._mark()
        self._file.write(text.encode(errors="backslashreplace"))

    def _mark(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        self._file.seek(0)
        self._file.write(codecs.BOM_UTF8 + content)
        self._has_mark = True

    def flush(self) -> None:
        """Let others see all rows so far."""
        self._file.flush()

    def close(self) -> None:
        """That was the last row."""
        self._file.close()


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """All of a table at once, as :class:`TableWriter` does it."""
    with TableWriter(path, columns) as table:
        for row in rows:
            table.write(row)
