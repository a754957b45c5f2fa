"""CVAT's XML, read image by image."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple
from xml.parsers import expat

from dinov3.data.defect_formats.parsing import AnnotationError, ForeignFileError, shown, split_of

_CHUNK = 2**16  # bytes read at a time
_ENCODING = re.compile(rb"""<\?xml[^>]*encoding\s*=\s*["']([\w.-]+)["']""")


class Element(NamedTuple):
    """A tag or region of an image."""

    kind: str
    attributes: dict[str, str]


class Entry(NamedTuple):
    """An image as a file lists it."""

    file: Path
    line: int
    attributes: dict[str, str]
    elements: list[Element]

    @property
    def place(self) -> str:
        return f"{self.file}, line {self.line}"

    @property
    def split(self) -> str | None:
        return split_of(self.attributes.get("subset", ""))


def read_entries(file: Path) -> Iterator[Entry]:
    """Every image of a file, one after the other; of a file that breaks off, those before that.

    Raises:
        AnnotationError: unreadable, not XML, cut off, of another format, or with a document type: that can declare
            entities which refer to other files or grow without bounds, and CVAT never writes one.
    """
    decoder = codecs.getincrementaldecoder("gb18030")() if _is_chinese(file) else None
    parser = expat.ParserCreate("utf-8" if decoder else None)
    depth = 0
    current: Entry | None = None
    finished: list[Entry] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, current
        depth += 1
        if depth == 1 and tag != "annotations":
            raise ForeignFileError(f"not a CVAT file, it starts with <{shown(tag)[1:-1]}>, not with <annotations>")
        if depth == 2 and tag == "track":
            raise AnnotationError("'CVAT for video'; export the task as 'CVAT for images 1.1'")
        if depth == 2 and tag == "image":
            current = Entry(file, parser.CurrentLineNumber, attributes, [])
        elif depth == 3 and current:
            current.elements.append(Element(tag, attributes))

    def end(_tag: str) -> None:
        nonlocal depth, current
        if depth == 2 and current:
            finished.append(current)
            current = None
        depth -= 1

    def refuse(*_: object) -> None:
        raise AnnotationError("it declares a document type, which CVAT never does; refused as unsafe")

    parser.StartElementHandler, parser.EndElementHandler, parser.StartDoctypeDeclHandler = start, end, refuse
    problem: AnnotationError | None = None
    try:
        stream = file.open("rb")
    except OSError as error:
        raise AnnotationError(f"cannot be read ({error.strerror})") from None
    with stream:
        while problem is None:
            try:
                chunk = stream.read(_CHUNK)
                parser.Parse(decoder.decode(chunk, not chunk).encode() if decoder else chunk, not chunk)
            except AnnotationError as error:
                problem = error
            except OSError as error:
                problem = AnnotationError(f"cannot be read ({error.strerror})")
            except (expat.ExpatError, ValueError, LookupError) as error:
                problem = AnnotationError(f"not valid XML, broken or cut off ({shown(str(error))[1:-1]})")
            yield from finished
            finished.clear()
            if problem is None and not chunk:
                return
    raise problem


def _is_chinese(file: Path) -> bool:
    """Whether a file is in GB 18030 or what that holds: as it declares, or because it is no UTF-8 as it should be."""
    try:
        with file.open("rb") as stream:
            declared = _ENCODING.match(stream.read(200))
            name = declared[1].decode().lower() if declared else "utf-8"
            if name in ("utf-8", "utf8"):
                return not _decodes(stream, "utf-8") and _decodes(stream, "gb18030")
            return name.startswith("gb") or name == "cp936"
    except OSError:
        return False  # reading it says why


def _decodes(stream: BinaryIO, encoding: str) -> bool:
    stream.seek(0)
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        while chunk := stream.read(_CHUNK):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
