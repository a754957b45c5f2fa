"""Text files that other people wrote, as editors and spreadsheets write them: regular files alone, of a size that fits
in memory."""

from __future__ import annotations

import csv
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

LARGEST = 2**30  # bytes; annotations of a million images have less
LONGEST_FIELD = 1024  # characters of a table's cell; each row takes the room of the longest


def read_small(path: Path, largest: int = LARGEST) -> bytes:
    """The bytes of a regular file; a pipe would wait for whoever writes into it, a device may never end.

    Raises:
        OSError: not a regular file, of more than ``largest`` bytes, or it cannot be read; ``strerror`` says why.
    """
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "a pipe, socket or device, not a file", str(path))
    if status.st_size > largest:
        size = f"{status.st_size / 2**20:,.0f} MB; expected at most {largest / 2**20:,.0f} MB"
        raise OSError(errno.EFBIG, size, str(path))
    return path.read_bytes()


def decode_text(data: bytes) -> str:
    """The content of a text file: UTF-8, with or without a byte order mark, or GB 18030, which holds GBK and GB 2312:
    what editors and spreadsheets on a Chinese Windows save.

    Raises:
        UnicodeDecodeError: neither; the error is that of UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        try:
            text = data.decode("gb18030")
        except UnicodeDecodeError:
            raise error from None
        if "\0" in text:  # UTF-16
            raise
        return text


def is_utf8(data: bytes) -> bool:
    """Whether these bytes are text in UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def rows_of_table(text: str, *, skip_spaces: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV text that are not empty, each with the number of the line that it ends in. With
    ``skip_spaces``, white space after a comma is no part of a field.

    Raises:
        csv.Error: it is no CSV, or a field has more than ``LONGEST_FIELD`` characters; the text says which line.
    """
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=skip_spaces)
    try:
        for row in reader:
            if any(len(field) > LONGEST_FIELD for field in row):
                raise csv.Error(f"a field of more than {LONGEST_FIELD} characters, is a quote missing?")
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        what = "a field that never ends, is a quote missing?" if "field larger" in str(error) else error
        raise csv.Error(f"line {reader.line_num}: {what}") from None
