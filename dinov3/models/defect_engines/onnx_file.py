"""What an exported file says of itself, read without the libraries that run it."""

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


def _entry(content: bytes) -> tuple[str, str]:
    parts = {number: value.decode() for number, value in _fields(io.BytesIO(content), len(content))}
    return parts.get(_KEY, ""), parts.get(_VALUE, "")


def _fields(file: BinaryIO, size: int, only: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field of texts or messages, or of those with the number ``only``."""
    place = 0
    while place < size:
        file.seek(place)
        tag = _varint(file)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            _varint(file)
            place = file.tell()
        elif kind in (1, 5):
            place = file.tell() + (8 if kind == 1 else 4)
        elif kind == 2:
            length = _varint(file)
            place = file.tell() + length
            if place <= size and only in (None, number):
                if length > LONGEST:
                    raise ValueError(f"metadata of {length} bytes")
                yield number, file.read(length)
        else:
            raise ValueError(f"field {number} of kind {kind}")
    if place != size:
        raise ValueError("it ends in the middle of a field")


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
