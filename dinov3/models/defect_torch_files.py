"""Reading what ``torch.save`` wrote: whole to the bit, and without running code from it."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch


def read_torch_file(path: Path, *, mmap: bool = False) -> Any:
    """The content of a file of ``torch.save`` on the CPU: tensors and plain values, as ``weights_only`` allows.

    ``torch.load`` does not look at the checksum (CRC-32) that each record has; here all are checked, at about 2 GB a
    second. A file of the format before torch 1.6 has none.

    Raises:
        ValueError: a record does not have its checksum, is compressed, or is not in the file.
        pickle.UnpicklingError, OSError, RuntimeError, EOFError, ...: as ``torch.load``.
    """
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        check_records(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zip)


def check_records(path: Path) -> None:
    """Compare each record of a zip file with its checksum.

    Raises:
        ValueError: one differs, or takes more room than the file has, as a small file that unpacks to a huge one does.
    """
    try:
        with zipfile.ZipFile(path) as file:
            records = file.infolist()
            packed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
            if packed:
                raise ValueError(f"record {packed[0]} is compressed, which torch.save never does")
            if sum(record.file_size for record in records) > os.path.getsize(path):
                raise ValueError("its records are larger than the file")
            damaged = file.testzip()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(str(error)) from None
    if damaged is not None:
        raise ValueError(f"record {damaged} differs from its checksum: bits have changed since it was written")
