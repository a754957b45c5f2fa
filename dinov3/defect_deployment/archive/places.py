"""Folders on disks and in object stores, through the file systems of pyarrow."""

from __future__ import annotations

import posixpath
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from dinov3.data.defect_files import IMAGE_SUFFIXES, list_images
from dinov3.data.defect_images import ImageReadError
from dinov3.defect_errors import DefectError


class Place:
    """A folder, and what is below it by ``/``-separated names; the same for every process that it is sent to.

    Args:
        text: a path, or an address that ``pyarrow.fs.FileSystem.from_uri`` takes: ``s3://``, ``gs://``, ``hdfs://``,
            ``abfs://``, ``file://``, with options such as ``?region=eu-central-1``.
        flag: which gave it, for messages.

    Attributes:
        text: what it is called, without options and passwords.

    Raises:
        DefectError: no such kind of address, or its store cannot be reached.
    """

    def __init__(self, text: str, flag: str):
        self.flag = flag
        self.path: Path | None = None if "://" in text else Path(text)  # on a disk
        if self.path is not None:
            self.text = str(self.path)
            self.system, self.base = LocalFileSystem(), self.path.resolve().as_posix()
            return
        address = urlsplit(text)
        host = address.netloc.rpartition("@")[2]  # names and passwords, and options, are nobody's business
        self.text = f"{address.scheme}://{host}{address.path.rstrip('/')}"
        try:
            self.system, base = FileSystem.from_uri(text)
        except (OSError, ValueError) as error:
            reason = short(error).replace(text, self.text)
            raise DefectError(
                f"{flag} {self.text}: {reason}; expected a folder, or an address such as s3://bucket/folder"
            ) from None
        self.base = base.rstrip("/")

    def image_names(self) -> list[str]:
        """Every image below the folder, by suffix, sorted by path; hidden files and folders are skipped.

        Raises:
            DefectError: there is no such folder, or it cannot be listed.
        """
        if self.path is not None:
            return [path.relative_to(self.path).as_posix() for path in list_images(self.path)]
        try:
            found = self.system.get_file_info(FileSelector(self.base, recursive=True))
        except (OSError, ValueError) as error:
            raise DefectError(f"{self.flag} {self.text}: cannot be listed ({short(error)})") from None
        names = [one.path[len(self.base) :].lstrip("/") for one in found if one.type == FileType.File]
        names = [name for name in names if posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES]
        names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
        return sorted(names, key=lambda name: name.split("/"))

    def where(self, name: str) -> str:
        """What a person calls it."""
        return f"{self.text}/{name}"

    def read(self, name: str) -> bytes:
        """All of a file.

        Raises:
            ImageReadError: it cannot be read.
        """
        try:
            with self.system.open_input_file(f"{self.base}/{name}") as file:
                return file.read()
        except FileNotFoundError:
            reason = "no such file"
        except PermissionError:
            reason = "no permission to read it"
        except (OSError, ValueError) as error:
            reason = f"cannot be read ({short(error)})"
        raise ImageReadError(f"{self.where(name)}: {reason}")

    def write(self, name: str, content: bytes) -> None:
        """Write a file; a kill leaves the old one or the new one.

        Raises:
            DefectError: it cannot be written.
        """
        folder, _, file = f"{self.base}/{name}".rpartition("/")
        unfinished = f"{folder}/.{file}.unfinished"
        try:
            self.system.create_dir(folder, recursive=True)
            with self.system.open_output_stream(unfinished) as stream:
                stream.write(content)
            self.system.move(unfinished, f"{folder}/{file}")
        except (OSError, ValueError) as error:
            raise DefectError(f"{self.flag} {self.where(name)}: cannot be written ({short(error)})") from None

    def has(self, name: str) -> bool:
        """Whether there is such a file or folder.

        Raises:
            DefectError: the place cannot be reached.
        """
        try:
            return self.system.get_file_info(f"{self.base}/{name}").type != FileType.NotFound
        except (OSError, ValueError) as error:
            raise DefectError(f"{self.flag} {self.text}: cannot be reached ({short(error)})") from None


def short(error: Exception) -> str:
    """What an error says, in a line."""
    return " ".join(str(error).split())[:300]
