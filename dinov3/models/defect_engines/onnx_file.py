"""What an exported file says of itself, read and written without the libraries that run it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dinov3.defect_errors import DefectError
from dinov3.models.defect_facts import METADATA_KEY, ModelFacts

_METADATA_PROPS = 14  # fields of ONNX's ModelProto, and of the StringStringEntryProto in it
_KEY, _VALUE = 1, 2
LONGEST = 1 << 26  # bytes of metadata


def read_facts(path: Path) -> ModelFacts:
    """The facts in an exported file's metadata.

    The file is Protocol Buffers (https://protobuf.dev/programming-guides/encoding): fields one after the other, of
    which the weights are passed over.

    Raises:
        DefectError: no such file, damaged, or not of export_defect_model.py.
    """
    if not path.is_file():
        kind = "a folder, not a file" if path.is_dir() else "no such file"
        raise DefectError(f"{path}: {kind}; expected a model (.onnx) that export_defect_model.py wrote")
    try:
        with path.open("rb") as file:
            entries = [_entry(content) for number, content in _fields(file, os.path.getsize(path), _METADATA_PROPS)]
            text = dict(entries).get(METADATA_KEY)
    except OSError as error:
        raise DefectError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise DefectError(
            f"{path}: damaged, truncated or no ONNX file ({error}); copy it again or export anew"
        ) from None
    if text is None:
        raise DefectError(f"{path}: an ONNX file of another program; expected one that export_defect_model.py wrote")
    return ModelFacts.from_json(text, path)


def write_facts(path: Path, facts: ModelFacts) -> None:
    """Put ``facts`` into an exported file in place of its own; all else stays. The file is written anew beside it,
    flushed and renamed, so that it is whole whatever happens.

    Raises:
        DefectError: the file cannot be read or written; then it is as it was.
    """
    temporary = path.with_name(f".{path.name}.unfinished")
    entry = _field(_KEY, METADATA_KEY.encode()) + _field(_VALUE, facts.to_json().encode())
    try:
        with path.open("rb") as old, temporary.open("wb") as new:
            size, place = os.path.getsize(path), 0
            for number, start, end in _places(old, size):
                old.seek(start)
                if number != _METADATA_PROPS or _entry(old.read(end - start))[0] != METADATA_KEY:
                    old.seek(place)
                    _copy(old, new, end - place)
                place = end
            new.write(_field(_METADATA_PROPS, entry))  # fields may come in any order
            new.flush()
            os.fsync(new.fileno())
        temporary.replace(path)
    except (OSError, ValueError) as error:
        temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise DefectError(
            f"{path}: could not be written ({reason}); it is as it was. Free space and try again"
        ) from None


def _field(number: int, content: bytes) -> bytes:
    """A field of text or a message."""
    return _number(number << 3 | 2) + _number(len(content)) + content


def _number(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])


def _copy(old: BinaryIO, new: BinaryIO, length: int) -> None:
    while length:
        piece = old.read(min(length, 1 << 20))
        new.write(piece)
        length -= len(piece)


def _entry(content: bytes) -> tuple[str, str]:
    parts = {number: value.decode() for number, value in _fields(io.BytesIO(content), len(content))}
    return parts.get(_KEY, ""), parts.get(_VALUE, "")


def _fields(file: BinaryIO, size: int, only: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field of text or a message, or of those with the number ``only``."""
    for number, start, end in _places(file, size):
        if only in (None, number):
            if end - start > LONGEST:
                raise ValueError(f"metadata of {end - start} bytes")
            file.seek(start)
            yield number, file.read(end - start)


def _places(file: BinaryIO, size: int) -> Iterator[tuple[int, int, int]]:
    """Number of each field, and where its content begins and ends."""
    place = 0
    while place < size:
        file.seek(place)
        tag = _varint(file)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            start = file.tell()
            _varint(file)
            place = file.tell()
        elif kind in (1, 5):
            start = file.tell()
            place = start + (8 if kind == 1 else 4)
        elif kind == 2:
            length = _varint(file)
            start = file.tell()
            place = start + length
        else:
            raise ValueError(f"field {number} of kind {kind}")
        if place > size:
            raise ValueError("it ends in the middle of a field")
        yield number, start, place


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("it ends in the middle of a number")
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError("a number of more than 10 bytes")
